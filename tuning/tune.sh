#!/usr/bin/env bash
# Sets the knobs of a sysctl file until the next start, remembering what was there, and puts that back.
#
#     tuning/tune.sh apply [FILE]     FILE: 90-ringmain.conf beside this script
#     tuning/tune.sh undo
#
# What was there is kept in /run/ringmain (without rights to that, in $XDG_RUNTIME_DIR/ringmain), so it is forgotten together with
# the settings themselves. A second `apply` remembers nothing anew: `undo` always goes back to before the first. Where the file says
# how much of something there may be, a host that has more keeps it.
#
# Exit status: 0 all is as asked, 1 something could not be set (it is named), 2 not begun.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=remember.sh
source "$here/remember.sh"
# For tests: another place for the knobs and the memory's size. TUNE_STATE is one for the state.
proc=${TUNE_PROC:-/proc}

# Names have dots for slashes.
path() { printf '%s/sys/%s' "$proc" "${1//.//}"; }

# Of two lists of numbers the larger in each place. Compared by length first: some have more digits than the shell counts with.
larger() { # list, list
  local -a a b
  local i x y out=()
  read -ra a <<<"$1"
  read -ra b <<<"$2"
  for i in "${!b[@]}"; do
    x=${a[i]:-0} y=${b[i]}
    if ((${#x} > ${#y})) || { ((${#x} == ${#y})) && [[ $x > $y ]]; }; then out+=("$x"); else out+=("$y"); fi
  done
  echo "${out[*]}"
}

# Socket memory up to half of the machine's, in the same proportions.
within_memory() { # low pressure high, in pages
  local low pressure high most
  read -r low pressure high <<<"$1"
  most=$(awk '/^MemTotal:/ {print int($2 / 8)}' "$proc/meminfo")
  if ((high > most)); then
    ((low = low * most / high, pressure = pressure * most / high, high = most))
  fi
  echo "$low $pressure $high"
}

# What to set: for knobs that say how much there may be, at least what is there; for all others what the file says.
wanted() { # knob, found, asked
  local low_found high_found low high
  case $1 in
    net.ipv4.tcp_mem) larger "$2" "$(within_memory "$3")" ;;
    net.core.* | net.ipv4.tcp_max_syn_backlog | fs.* | net.netfilter.*) larger "$2" "$3" ;;
    net.ipv4.ip_local_port_range)
      read -r low_found high_found <<<"$2"
      read -r low high <<<"$3"
      echo "$((low < low_found ? low : low_found)) $((high > high_found ? high : high_found))"
      ;;
    *) echo "$3" ;;
  esac
}

apply_knob() { # knob, asked, "-" where it may be missing
  local file found target
  file=$(path "$1")
  if [[ ! -r $file ]]; then
    if [[ $3 == - ]]; then
      say "$1" "not there, not needed (skipped)"
    else
      fail "$1" "not there (skipped): not in this kernel, or only to be seen on the host"
    fi
    return
  fi
  found=$(value "$file")
  target=$(wanted "$1" "$found" "$2")
  # Before it is set: if this is killed in between, undo knows what was there.
  if [[ $found != "$target" && -w $file ]]; then remember "$1" "$found"; fi
  set_file "$1" "$file" "$target" "as it was" || true
}

apply() { # file
  local line knob asked dash
  [[ -r $1 ]] || die "$1 cannot be read"
  if [[ -e $state ]]; then check_namespace; fi
  while IFS= read -r line; do
    line=${line%%#*}
    [[ $line == *=* ]] || continue
    read -r knob <<<"${line%%=*}"
    read -r asked <<<"$(tr -s '\t ' ' ' <<<"${line#*=}")"
    dash=
    if [[ $knob == -* ]]; then dash=- knob=${knob#-}; fi
    apply_knob "$knob" "$asked" "$dash"
  done <"$1"
  if [[ -e $state ]]; then echo "what was there is in $state; \`tuning/tune.sh undo\` (make untune) puts it back"; fi
}

put_back() { # knob, value
  if [[ -e $(path "$1") ]]; then
    set_file "$1" "$(path "$1")" "$2" "as it was before"
  else
    say "$1" "not there any more (skipped)"
  fi
}

case ${1:-} in apply | undo) ;; *) die "usage: tune.sh apply [FILE] | undo" ;; esac
if [[ -z ${TUNE_PROC:-} ]] && ((EUID != 0)); then die "only root can set kernel settings: sudo tuning/tune.sh $1" ; fi
state=$(state_file sysctl.before) || exit 2
case $1 in
  apply) apply "${2:-$here/90-ringmain.conf}" ;;
  undo) put_all_back ;;
esac
finish
