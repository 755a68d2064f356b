#!/bin/sh
# ringmain against the floors and the peers, alternated: server on core 0, load on core 1. What `make bench` runs.
# Exit status: 0 every bar met, 1 void, 2 could not be run, 3 a bar missed. How to read it: docs/bench.md.
# Flags are passed on: `scripts/bench.sh --help` lists them. Results: benches/results/.
# RINGMAIN_BENCH_WITHOUT=nchan,peers leaves those out, and the bars that need them are missed.
set -eu
cd "$(dirname "$0")/.."
cant() { echo "bench.sh: $1" >&2; exit 2; }
without() { case ",${RINGMAIN_BENCH_WITHOUT:-}," in *",$1,"*) return 0 ;; *) return 1 ;; esac; }
command -v taskset >/dev/null || cant "taskset is missing (Debian: apt-get install util-linux)"
target="${CARGO_TARGET_DIR:-target}/release"
cargo build --release --bin ringmain --example floor --example pieces --example rounds
set -- --ringmain "$target/ringmain" --floor "$target/examples/floor" --pieces "$target/examples/pieces" "$@"
if ! without peers; then
    cargo build --release --package ringmain-peers
    set -- --peers "$target" "$@"
fi
if ! without nchan; then
    modules=/usr/lib/nginx/modules
    [ -e "$modules/ngx_nchan_module.so" ] && command -v nginx >/dev/null ||
        cant "nginx with nchan is missing (Debian: apt-get install libnginx-mod-nchan; or RINGMAIN_BENCH_WITHOUT=nchan)"
    set -- --nginx-modules "$modules" "$@"
fi
exec "$target/examples/rounds" "$@"
