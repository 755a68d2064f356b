//! io_uring: the loop's kernel interface, buffer rings, leases. The only `unsafe` in the crate.
