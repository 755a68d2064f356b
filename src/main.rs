//! Start here: flags → config → one pinned thread per core.

use std::process::ExitCode;

/// Keeps what workers allocate apart without locks. Without huge pages: it would touch memory in steps of 2 MiB, which costs an
/// idle connection 250 B more than it needs (measured: 419 B with them, 165 B without, at the same CPU).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringmain::cli::main()
}
