#!/usr/bin/env bash
# Installs what the tests use beyond Rust, where it may; otherwise says how. Prints nothing when nothing is missing.
set -euo pipefail

skip=",${RINGMAIN_TEST_SKIP:-},"
missing=()
need() { # command, package
  if ! command -v "$1" >/dev/null && [[ "$skip" != *",$2,"* ]]; then missing+=("$2"); fi
}
need curl curl
need chromium chromium
need nginx nginx
need python3 python3

if ((${#missing[@]} == 0)); then exit 0; fi
command="apt-get install -y ${missing[*]}"
if ((EUID == 0)); then
  as=()
elif sudo -n true 2>/dev/null; then
  as=(sudo)
else
  echo "missing: ${missing[*]}. Run: sudo $command" >&2
  echo "or leave out the tests that need them: RINGMAIN_TEST_SKIP=$(IFS=,; echo "${missing[*]}") make test" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
"${as[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
# Debian starts nginx by itself; the tests start their own.
if [[ " ${missing[*]} " == *" nginx "* ]]; then "${as[@]}" service nginx stop >/dev/null 2>&1 || true; fi
