#!/bin/sh
# A million subscribed WebSockets on one ringmain process, both ends on this machine. What `make bench-million` runs.
# CONNECTIONS=100000 takes fewer. Needs about 11 GiB for a million, and sockets' memory for them: `make tune` first.
# Exit status: 0 every bar met, 1 the run does not count, 2 could not be run, 3 a bar missed. How to read it: docs/bench.md.
set -eu
cd "$(dirname "$0")/.."
cant() { echo "bench-million.sh: $1" >&2; exit 2; }
connections="${CONNECTIONS:-1000000}"
[ "$connections" -ge 1000 ] || cant "CONNECTIONS must be 1000 or more"
# Where the limit of descriptors is low, workers make up for it: each has a table of its own.
limit=$(ulimit -n -H)
[ "$limit" = unlimited ] && limit=1048576
ulimit -n "$limit"
per_process=$((limit * 9 / 10))
[ "$per_process" -le 50000 ] || per_process=50000
cores=$(nproc)
workers=$((connections / (limit * 93 / 100) + 1))
[ "$workers" -ge "$cores" ] || workers=$cores
free_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
need_kib=$((connections * 10))
[ "$free_kib" -ge "$need_kib" ] || cant "$connections connections take about $((need_kib / 1024)) MiB, $((free_kib / 1024)) MiB are free"
cargo build --release
target="${CARGO_TARGET_DIR:-target}/release"
log=$(mktemp)
"$target/ringmain" serve --config benches/million.toml --listen 127.0.0.1:9099 --workers "$workers" >"$log" 2>&1 &
server=$!
# Its log is for whoever wants to know why a run does not count: each message once, with how often it came.
end() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    echo "the server said:" >&2
    sed -n 's/.*"level":"\([A-Z]*\)","message":"\([^"]*\)".*/\1 \2/p' "$log" | sort | uniq -c >&2
    rm -f "$log"
}
trap end EXIT
trap 'exit 130' INT TERM
tries=0
until grep -q '"message":"serving"' "$log"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] && kill -0 "$server" 2>/dev/null || { cat "$log" >&2; cant "the server did not start"; }
    sleep 0.1
done
echo "$connections connections, $workers workers, up to $per_process of them in each process of the load" >&2
status=0
result=$("$target/ringmain" bench crowd --json --connections "$connections" --per-process "$per_process" \
    --hold 115 --addr 127.0.0.1:9099 --api-key bench --pid "$server" --time-max 900 --stall 60) || status=$?
echo "$result" | tail -1
[ "$status" -ne 2 ] || exit 2
figure() { echo "$result" | tail -1 | sed -n "s/.*\"$1\":\([-0-9.]*\).*/\1/p"; }
# The bars are for a million; fewer have a smaller share of what the server has anyway.
missed=0
bar() { # what, figure, most
    if awk "BEGIN { exit !($2 <= $3) }"; then verdict=met; else verdict=MISSED; missed=3; fi
    echo "| $1 | <= $3 | $2 | $verdict |"
}
echo "| bar | at | got | |"
echo "|---|---|---|---|"
bar "seconds to connect, upgrade and subscribe" "$(figure connect_seconds)" 90
bar "GiB of this host, both ends" "$(figure both_ends_gib)" 11
[ "$status" -eq 0 ] || { echo "the run does not count: see its reasons" >&2; exit 1; }
exit "$missed"
