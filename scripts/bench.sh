#!/bin/sh
# ringmain against the floors, alternated: server on core 0, load on core 1. What `make bench` runs.
# Exit status: 0 every bar met, 1 void, 2 could not be run, 3 a bar missed. How to read it: docs/bench.md.
# Flags are passed on: `scripts/bench.sh --help` lists them. Results: benches/results/.
set -eu
cd "$(dirname "$0")/.."
command -v taskset >/dev/null || { echo "bench.sh: taskset is missing (Debian: apt-get install util-linux)" >&2; exit 2; }
cargo build --release --bin ringmain --example floor --example pieces --example rounds
target="${CARGO_TARGET_DIR:-target}/release"
exec "$target/examples/rounds" --ringmain "$target/ringmain" --floor "$target/examples/floor" --pieces "$target/examples/pieces" "$@"
