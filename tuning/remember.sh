# shellcheck shell=bash
# What tune.sh and nic.sh share: setting a file to a value, saying so, and remembering what was there. Sourced, not run.
#
# A state file has a line `key = value` for each thing that was changed, under the network namespace that it was seen in.

failures=0
# Set by who sources this.
state=
shopt -s extglob

die() { echo "${0##*/}: $*" >&2; exit 2; }
say() { printf '%-44s %s\n' "$1" "$2"; }
fail() { say "$1" "$2"; failures=$((failures + 1)); }

# Ends with what the exit status says.
finish() { ((failures == 0)) || { echo "$failures could not be set"; exit 1; }; }

# A file's value with single spaces; nothing where it cannot be read, as the kernel refuses some where there is nothing to choose.
value() { { tr -s '\t ' ' ' <"$1"; } 2>/dev/null; }

# Where state is kept: away after the next start, like what it is about.
state_file() { # name
  if [[ -n ${TUNE_STATE:-} ]]; then
    printf '%s' "$TUNE_STATE"
  elif [[ -w /run ]]; then
    printf '/run/ringmain/%s' "$1"
  else
    printf '%s/ringmain/%s' "${XDG_RUNTIME_DIR:?neither /run nor XDG_RUNTIME_DIR can be written}" "$1"
  fi
}

# Most of net.* and every interface belongs to a network namespace: what was seen in one must not be put back in another.
namespace() { readlink /proc/self/ns/net; }

check_namespace() {
  local was
  was=$(sed -n 's/^# namespace //p' "$state")
  [[ $was == "$(namespace)" ]] || die "$state was made in another network namespace ($was); run this there"
}

# Remembers a value, once. Written beside and renamed, so that the file is whole at every moment.
remember() { # key, value
  if grep -qF -- "$1 = " "$state" 2>/dev/null; then return; fi
  mkdir -p "$(dirname "$state")"
  {
    if [[ -e $state ]]; then cat "$state"; else echo "# namespace $(namespace)"; fi
    printf '%s = %s\n' "$1" "$2"
  } >"$state.new"
  mv "$state.new" "$state"
}

# Whether two values mean the same. CPU masks come back with leading zeros and commas.
same() {
  [[ $1 == "$2" ]] && return
  local a=${1//,/} b=${2//,/}
  [[ $3 == mask && ${a##+(0)} == "${b##+(0)}" ]]
}

# Sets a file and says so: found -> set. Looks afterwards, as some kernels take a value and keep another.
set_file() { # name to say, file, value, word for what was there already, "mask" where it is one
  local found
  found=$(value "$2")
  if same "$found" "$3" "${5:-}"; then
    say "$1" "$found ($4)"
  elif { printf '%s\n' "$3" >"$2"; } 2>/dev/null && same "$(value "$2")" "$3" "${5:-}"; then
    say "$1" "$found -> $3"
  else
    fail "$1" "$found, could not be set to $3 (read-only here, or refused)"
    return 1
  fi
}

# Puts back what is remembered, in that order, by `put_back KEY VALUE`. What could not be put back stays remembered.
put_all_back() {
  local line left=()
  if [[ ! -e $state ]]; then
    echo "nothing to put back ($state is not there)"
    return
  fi
  check_namespace
  while IFS= read -r line; do
    [[ $line != \#* ]] || continue
    put_back "${line%% = *}" "${line#* = }" || left+=("$line")
  done <"$state"
  if ((${#left[@]} == 0)); then
    rm -f "$state"
  else
    printf '%s\n' "# namespace $(namespace)" "${left[@]}" >"$state.new"
    mv "$state.new" "$state"
  fi
}
