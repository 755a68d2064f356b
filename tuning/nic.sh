#!/usr/bin/env bash
# Spreads a network interface's work over the CPUs that the workers run on, and undoes that.
#
#     tuning/nic.sh IFACE show
#     tuning/nic.sh IFACE apply [--cpus 0-3] [--queues N]
#     tuning/nic.sh IFACE undo
#
# Worker k stays on the k-th CPU that the server may use, so give `--cpus` the server's (AllowedCPUs=, taskset); without, they are all
# that are online. Of those, with q queues:
#
#   queues      their number, only with --queues: most cards reset themselves to change it and drop what is on its way
#   interrupts  that of queue i goes to CPU i (around, where there are more queues): one core does not take them all
#   RPS         fewer receive queues than CPUs: queue i passes packets on to CPUs i, i+q, …, or TCP's work stays on q cores. With
#               as many queues as CPUs it is left alone: passing packets on costs an interrupt between cores
#   XPS         CPU i sends through queue i modulo q, so that workers do not share a queue's lock
#
# What was there is kept in /run/ringmain (without rights to that, in $XDG_RUNTIME_DIR/ringmain) and comes back by `undo`; a second
# `apply` remembers nothing anew. Interfaces that only pass packets on (bonds, bridges, VLANs) and loopback are refused; what an
# interface does not have is named and skipped.
#
# Exit status: 0 all is as asked, 1 something could not be set (it is named), 2 not begun.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=remember.sh
source "$here/remember.sh"
# For tests: other places for interfaces and interrupts.
sys=${NIC_SYS:-/sys}
proc=${NIC_PROC:-/proc}

usage() { die "usage: nic.sh IFACE show | apply [--cpus LIST] [--queues N] | undo"; }

# 0-2,5 -> 0 1 2 5
expand() {
  local part
  for part in ${1//,/ }; do
    [[ $part =~ ^[0-9]+(-[0-9]+)?$ ]] || die "$1 is not a list of CPUs like 0-3,8"
    seq -s ' ' "${part%-*}" "${part#*-}"
  done | paste -sd' '
}

# CPUs -> the kernel's mask: 32 bits a word, highest first.
mask() {
  local cpu words=(0) text='' i
  for cpu in "$@"; do words[cpu / 32]=$((${words[cpu / 32]:-0} | 1 << (cpu % 32))); done
  for ((i = $(printf '%s\n' "${!words[@]}" | tail -n 1); i >= 0; i--)); do text+=$(printf '%08x,' "${words[i]:-0}"); done
  printf '%s' "${text%,}"
}

# Every q-th CPU from the i-th on; around, where there are more queues than CPUs.
share() { # queue, queues
  local i out=()
  for ((i = $1 % ${#cpus[@]}; i < ${#cpus[@]}; i += $2)); do out+=("${cpus[i]}"); done
  mask "${out[@]}"
}

count_queues() { # rx or tx
  local found=("$device/queues/$1"-*)
  if [[ -e ${found[0]} ]]; then echo "${#found[@]}"; else echo 0; fi
}

# The interrupts of the interface's queues: number, name. A virtio interface is a child of the PCI device that has them.
interrupts() {
  local folder number name
  for folder in "$device/device/msi_irqs" "$device/device/../msi_irqs"; do
    [[ -d $folder ]] || continue
    while read -r number; do
      name=$(awk -v irq="$number:" '$1 == irq {print $NF}' "$proc/interrupts")
      echo "$number ${name:-?}"
    done < <(basename -a "$folder"/* | sort -n)
    return
  done
}

# The queue that an interrupt's name ends with, if it is a queue's at all: eth0-TxRx-3, virtio2-input.0, mlx5_comp1@pci:0000:00:05.0
queue_of() {
  local name=${1%%@*}
  [[ ${name,,} =~ (rx|tx|input|output|comp|fp|ntfy-blk|queue|q)[-_.]?([0-9]+)$ ]] && echo "${BASH_REMATCH[2]}"
}

check_interface() {
  [[ $iface =~ ^[^/[:space:]]+$ && $iface != . && $iface != .. ]] || usage
  [[ -d $device ]] || die "there is no interface $iface"
  [[ $iface != lo ]] || die "loopback has no queues to steer"
  local below=("$device"/lower_*)
  if [[ -e ${below[0]} ]]; then die "$iface only passes packets on; steer what is below it: ${below[*]##*/lower_}"; fi
}

# The state is about this interface, not a former one of the same name.
check_identity() {
  check_namespace
  local was
  was=$(sed -n 's/^index = //p' "$state")
  [[ $was == "$(value "$device/ifindex")" ]] || die "$state is about a former $iface: remove it"
}

# Steps of `apply` -------------------------------------------------------------------------------------------------------------

# Everything that could be changed, before anything is: with fewer queues, what their files held would be gone. Their number comes
# first, also where it is to stay, as it has to be put back first.
remember_all() {
  local file number name counts
  remember index "$(value "$device/ifindex")"
  counts=$(queue_counts)
  if [[ -n $counts ]]; then remember queues "$counts"; fi
  while read -r number name; do
    file=$proc/irq/$number/smp_affinity_list
    if [[ -n $number && -w $file ]] && queue_of "$name" >/dev/null; then remember "irq $number" "$(value "$file")"; fi
  done <<<"$(interrupts)"
  for file in "$device"/queues/rx-*/rps_cpus "$device"/queues/tx-*/xps_cpus; do
    if [[ -w $file && -n $(value "$file") ]]; then remember "${file#"$device/queues/"}" "$(value "$file")"; fi
  done
}

# What ethtool says there is now: "rx 4 tx 4", or "combined 4"; nothing where the interface, or ethtool, has no answer.
queue_counts() {
  { ethtool -l "$iface" 2>/dev/null || true; } | awk '
    /^Current/ {now = 1}
    now && $2 ~ /^[0-9]+$/ && $2 > 0 && /^(RX|TX|Combined):/ {sub(":", "", $1); printf "%s%s %s", sep, tolower($1), $2; sep = " "}'
}

set_queues() {
  local found wanted
  [[ -n $queues ]] || return 0
  if ! command -v ethtool >/dev/null; then fail queues "ethtool is not installed (skipped)"; return; fi
  found=$(queue_counts)
  if [[ -z $found ]]; then fail queues "$iface cannot change their number (skipped)"; return; fi
  # The kinds that there are, each with the new number.
  wanted=$(sed -E "s/[0-9]+/$queues/g" <<<"$found")
  change_queues "$found" "$wanted" "as it was" || true
}

change_queues() { # found, wanted, word
  local -a words # kind, number, kind, number
  read -ra words <<<"$2"
  if [[ $1 == "$2" ]]; then
    say queues "$1 ($3)"
  elif ethtool -L "$iface" "${words[@]}" >/dev/null 2>&1 && [[ $(queue_counts) == "$2" ]]; then
    say queues "$1 -> $2"
  else
    fail queues "$1, could not be set to $2 (refused)"
    return 1
  fi
}

steer_interrupts() {
  local number name queue any=
  if grep -qx irqbalance "$proc"/[0-9]*/comm 2>/dev/null; then
    fail interrupts "irqbalance runs and would move them again: stop it first (skipped)"
    return
  fi
  while read -r number name; do
    if [[ -z $number ]] || ! queue=$(queue_of "$name"); then continue; fi
    any=1
    set_file "irq $number ($name)" "$proc/irq/$number/smp_affinity_list" "${cpus[queue % ${#cpus[@]}]}" "as it was" || true
  done <<<"$(interrupts)"
  [[ -n $any ]] || say interrupts "$iface has none of its own (skipped)"
}

steer_receiving() {
  local count
  count=$(count_queues rx)
  if ((count >= ${#cpus[@]})); then say RPS "left alone: $count receive queues for ${#cpus[@]} CPUs"; return; fi
  set_masks RPS rx rps_cpus "$count"
}

steer_sending() {
  local count
  count=$(count_queues tx)
  if ((count < 2)); then say XPS "$count send queue: nothing to choose (skipped)"; return; fi
  set_masks XPS tx xps_cpus "$count"
}

set_masks() { # what it is, rx or tx, the file of each queue, how many queues
  local queue file
  for ((queue = 0; queue < $4; queue++)); do
    file=$device/queues/$2-$queue/$3
    if [[ ! -e $file ]]; then say "$1" "not in this kernel (skipped)"; return; fi
    set_file "$2-$queue/$3" "$file" "$(share "$queue" "$4")" "as it was" mask || true
  done
}

# Verbs ------------------------------------------------------------------------------------------------------------------------

apply() {
  if [[ -e $state ]]; then check_identity; fi
  remember_all
  set_queues
  steer_interrupts
  steer_receiving
  steer_sending
  echo "what was there is in $state; \`tuning/nic.sh $iface undo\` puts it back"
}

put_back() { # key, value
  local file=$device/queues/$1 kind=mask
  case $1 in
    index) return ;;
    queues) change_queues "$(queue_counts)" "$2" "as it was before"; return ;;
    irq\ *) file=$proc/irq/${1#irq }/smp_affinity_list kind= ;;
  esac
  if [[ -e $file ]]; then
    set_file "$1" "$file" "$2" "as it was before" "$kind"
  else
    say "$1" "not there any more (skipped)"
  fi
}

undo() {
  if [[ -e $state ]]; then check_identity; fi
  put_all_back
}

show() {
  local number name file
  say queues "rx $(count_queues rx), tx $(count_queues tx)"
  while read -r number name; do
    if [[ -n $number ]] && queue_of "$name" >/dev/null; then
      say "irq $number ($name)" "$(value "$proc/irq/$number/smp_affinity_list")"
    fi
  done <<<"$(interrupts)"
  for file in "$device"/queues/rx-*/rps_cpus "$device"/queues/tx-*/xps_cpus; do
    if [[ -e $file ]]; then say "${file#"$device/queues/"}" "$(value "$file")"; fi
  done
}

(($# >= 2)) || usage
iface=$1 verb=$2
shift 2
device=$sys/class/net/$iface
list='' queues=''
while (($# > 0)); do
  case $verb,$1 in
    apply,--cpus) list=${2:-} ;;
    apply,--queues) queues=${2:-} ;;
    *) usage ;;
  esac
  (($# >= 2)) || usage
  shift 2
done
[[ -z $queues || $queues =~ ^[1-9][0-9]*$ ]] || usage
check_interface
list=$(expand "${list:-$(value "$sys/devices/system/cpu/online")}") || exit 2
read -ra cpus <<<"$list"
((${#cpus[@]} > 0)) || die "no CPUs"
state=$(state_file "nic-$iface.before") || exit 2
case $verb in
  show) show ;;
  apply | undo)
    if [[ -z ${NIC_SYS:-} ]] && ((EUID != 0)); then die "only root can do that: sudo tuning/nic.sh $iface $verb"; fi
    "$verb"
    ;;
  *) usage ;;
esac
finish
