#!/usr/bin/env bash
# Runs the proofs that docs/promise.md lists and writes their figures into it: tests/promise.sh [--long] [NAME…]
# Without a name all of them, one after another; short takes minutes, long takes hours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
page=docs/promise.md long= names=()
# Of the tree that is built, whatever is committed while the proofs run.
commit=$(git rev-parse --short HEAD)
for arg in "$@"; do
    case $arg in --long) long=1 ;; *) names+=("$arg") ;; esac
done
if [ ${#names[@]} -eq 0 ]; then
    mapfile -t names < <(sed -n 's/^<!-- \(.*\) -->$/\1/p' "$page" | grep -vx end)
fi
size() { if [ -n "$long" ]; then echo "$2"; else echo "$1"; fi; } # SHORT LONG

# What a run prints goes to a log; the lines that count go between the marks of its name.
write() { # NAME COMMAND-AS-TYPED LOG LINES
    local text lock
    text=$(printf '%s, commit %s, %s × %s: `%s`\n\n```text\n%s\n```' "$(date -u +%F)" "$commit" "$(nproc)" \
        "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -1)" "$2" "$(grep -vE '^ *[0-9]+ of [0-9]+ ' "$3" | tail -n "$4")")
    # Several of these may run at once.
    exec {lock}>target/promise.lock
    flock "$lock"
    TEXT=$text awk -v name="<!-- $1 -->" '
        $0 == name { print; print ENVIRON["TEXT"]; skip = 1; next }
        skip && $0 == "<!-- end -->" { skip = 0 }
        !skip' "$page" >"$page.new"
    mv "$page.new" "$page"
    exec {lock}>&-
}
prove() { # NAME LINES COMMAND-AS-TYPED COMMAND…
    local name=$1 lines=$2 typed=$3 log=target/promise-$1.log
    shift 3
    echo "==> $name: $typed"
    mkdir -p target
    local status=0
    "$@" >"$log" 2>&1 || status=$?
    tail -n "$lines" "$log"
    write "$name" "$typed" "$log" "$lines"
    [ "$status" = 0 ] || failed+=("$name")
}
sim() { # NAME LINES ARGUMENTS…
    local name=$1 lines=$2
    shift 2
    prove "$name" "$lines" "chappe-sim $*" cargo run --release -q -p chappe-sim -- "$@"
}
server() {
    cargo build --release -q -p chappe
    export CHAPPE_BIN=$PWD/target/release/chappe
}
crash() { # NAME SHORT LONG
    local times
    times=$(size "$2" "$3")
    server
    prove "$1" 40 "just crash $times $1" cargo run --release -q -p chappe-tests --bin crash -- --kills "$times" --fault "$1"
}
no_fsync() { # It succeeds when the crash test fails.
    cargo build -q --features planted -p chappe --target-dir target/planted
    ! CHAPPE_PLANT=no-sync CHAPPE_BIN=$PWD/target/planted/debug/chappe cargo run --release -q -p chappe-tests --bin crash -- --kills 3 --fault power
}

failed=()
for name in "${names[@]}"; do
    case $name in
    # Each seed once as one node and once as a cluster.
    simulation) sim "$name" 1 --seeds "$(size 1000 50000)" --jobs "$(nproc)" ;;
    determinism) sim "$name" 1 --seeds "$(size 100 2000)" --twice --jobs "$(nproc)" ;;
    planted) prove "$name" 20 "just planted" crates/sim/planted.sh 1000 ;;
    coverage) sim "$name" 42 --seeds "$(size 300 3000)" --coverage --jobs "$(nproc)" ;;
    speed) sim "$name" 1 --seeds "$(size 5 30)" --mode c --less crowd=50 ;;
    kill) crash "$name" 20 200 ;;
    term | stop) crash "$name" 5 20 ;;
    power) crash "$name" 10 50 ;;
    full | sync-error | read-error) crash "$name" 5 20 ;;
    slow) crash "$name" 2 10 ;;
    clock) crash "$name" 10 40 ;;
    no-fsync) prove "$name" 20 "just crash-planted" no_fsync ;;
    bad-input)
        server
        prove "$name" 16 "just bad-input" cargo run --release -q -p chappe-tests --bin bad-input -- --quiet
        ;;
    fuzz) prove "$name" 10 "just fuzz-all $(size 1 10)" tests/fuzz/fuzz.sh all "$(size 1 10)" ;;
    *) echo "$name: not on $page" >&2; exit 2 ;;
    esac
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "not as promised: ${failed[*]}" >&2
    exit 1
fi
