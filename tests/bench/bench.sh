#!/usr/bin/env bash
# Counts the instructions of one message on each way (without sockets, threads and disk), by valgrind: tests/bench/bench.sh [WAY…]
# They are the same on a busy machine as on an idle one. `--profile WAY` shows where they go. Held against instructions.txt, where
# more than 3 % more is a regression; `--write` writes that file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }
cargo build --release -q -p chappe-bench
profile= write=
case ${1:-} in --profile) profile=1 && shift ;; --write) write=1 && shift ;; esac
known=tests/bench/instructions.txt worse=0
ways=("$@")
[ ${#ways[@]} -gt 0 ] || ways=(chat chat-single chat-managed chat-archived chat-archived-managed)
out=target/callgrind && mkdir -p "$out"
lines=()
for way in "${ways[@]}"; do
    # The difference between a long and a short run is that of rounds alone.
    count() { valgrind --tool=callgrind --callgrind-out-file="$out/$way.$1" target/release/path "$way" "$1" 2>&1 | sed -n 's/.*Collected : //p'; }
    short=$(count 5) long=$(count 15)
    messages=$(target/release/path "$way" 10 | sed 's/ .*//')
    now=$(((long - short) / messages))
    before=$(sed -n "s/^$way  *//p" "$known" 2>/dev/null || true) # none yet
    printf '%-24s %8d instructions a message, before %s\n' "$way" "$now" "${before:-?}"
    [ -z "$before" ] || [ $((now * 100)) -le $((before * 103)) ] || worse=1
    lines+=("$(printf '%-24s %8d' "$way" "$now")")
    [ -z "$profile" ] || callgrind_annotate "$out/$way.15" | head -60
done
[ -z "$write" ] || printf '%s\n' "# way, instructions of one message" "${lines[@]}" >"$known"
exit $worse
