# What CI runs, by name. `make run` and `make test` work on a fresh machine with a Rust toolchain.

.PHONY: run test check check-bench bench bench-million conformance conformance-quick sim sim-mutants loom fuzz needs tune untune

run: ; cargo run --release -- serve $(ARGS)

test: needs ; scripts/test.sh

check: ; cargo fmt --check && cargo clippy --all-targets --features mutants -- -D warnings

# The same for benches/peers. Apart, as their runtimes take over a minute to build on two cores, and only `make bench` needs them.
check-bench: ; cargo fmt --check --package ringmain-peers && cargo clippy --package ringmain-peers --all-targets -- -D warnings

# Installs (as root or with sudo) the Debian packages that the tests use, or names the command that does.
needs: ; scripts/needs.sh

# One run: SEED=123. That many: SEEDS=20000.
sim: ; cargo test --test simulation -- --nocapture

sim-mutants: ; cargo test --features mutants --test simulation every_mutant -- --nocapture

# The doorbell's flag protocol under every interleaving.
loom: ; RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target-loom cargo test --lib --release doorbell

# IO=epoll runs it on that kernel interface.
conformance: ; cargo build --release && tests/conformance/run.py $(if $(IO),--io $(IO)) all

conformance-quick: ; cargo build --release && tests/conformance/run.py $(if $(IO),--io $(IO)) 1 2 3 4 5 6 7

bench: ; scripts/bench.sh

# A million connections to one process; CONNECTIONS=100000 for fewer.
bench-million: ; scripts/bench-million.sh

# Every parser under random input, CASES each. `FUZZ_PROFILE=` takes the profile of the tests, which is built already.
CASES ?= 200000
FUZZ_PROFILE ?= --release
fuzz: ; PROPTEST_CASES=$(CASES) cargo test $(FUZZ_PROFILE) --lib --test parsers -- panic any_split

# Kernel settings for many connections until the next start (as root), and back to exactly what was there. docs/tuning.md
tune: ; @tuning/tune.sh apply

untune: ; @tuning/tune.sh undo
