#!/usr/bin/env bash
# Counts the instructions of one message on each way (without sockets, threads and disk), by valgrind: tests/bench/bench.sh [WAY…]
# They are the same on a busy machine as on an idle one. `--profile WAY` shows where they go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 1; }
cargo build --release -q -p chappe-bench
profile=
if [ "${1:-}" = --profile ]; then profile=1 && shift; fi
ways=("$@")
[ ${#ways[@]} -gt 0 ] || ways=(chat chat-single chat-managed chat-archived chat-archived-managed)
out=target/callgrind && mkdir -p "$out"
for way in "${ways[@]}"; do
    # The difference between a long and a short run is that of rounds alone.
    count() { valgrind --tool=callgrind --callgrind-out-file="$out/$way.$1" target/release/path "$way" "$1" 2>&1 | sed -n 's/.*Collected : //p'; }
    short=$(count 5) long=$(count 15)
    messages=$(target/release/path "$way" 10 | sed 's/ .*//')
    printf '%-24s %8d instructions a message\n' "$way" $(((long - short) / messages))
    [ -z "$profile" ] || callgrind_annotate "$out/$way.15" | head -60
done
