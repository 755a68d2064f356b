#!/usr/bin/env bash
# Runs every test, those that drive whole servers on both kernel interfaces, and closes with one line: N passed, N failed, N skipped.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --no-fail-fast "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
# With arguments of its own, whoever runs this has chosen.
if [ $# -eq 0 ]; then
    RINGMAIN_SERVER__IO=epoll cargo test --no-fail-fast --test blackbox --test ring 2>&1 | tee -a "$log"
    on_epoll=${PIPESTATUS[0]}
    [ "$status" -ne 0 ] || status=$on_epoll
fi

sum() { grep -oE "[0-9]+ $1" <(grep '^test result:' "$log") | awk '{n += $1} END {print n + 0}'; }
# Those left out by RINGMAIN_TEST_SKIP say so themselves (tests/support/skip.rs), perhaps in the middle of the harness's own line.
# The harness counts them as passed.
skipped=$(grep -oE 'skipped: [^ ]+ \(needs [a-z0-9]+\)' "$log" | sort -u | wc -l)
echo "$(($(sum passed) - skipped)) passed, $(sum failed) failed, $skipped skipped"
exit "$status"
