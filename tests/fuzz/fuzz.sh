#!/usr/bin/env bash
# Fuzzes one target, or all one after another, and prints a table: tests/fuzz/fuzz.sh TARGET|all MINUTES
# What is found lies in target/fuzz-artifacts/TARGET; what reached new code in target/fuzz-corpus/TARGET, from where
# `just fuzz-keep TARGET` brings the smallest of it into the committed corpus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz (and a nightly compiler)" >&2; exit 1; }
target=$1 minutes=${2:-5}
export CARGO_TARGET_DIR=target/fuzz
dir=tests/fuzz/libfuzzer
targets=("$target")
if [ "$target" = all ]; then
    mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir "$dir")
fi
cargo +nightly fuzz build --fuzz-dir "$dir"
host=$(rustc -vV | sed -n 's/^host: //p')
found=0 rows=()
for target in "${targets[@]}"; do
    work=target/fuzz-corpus/$target artifacts=target/fuzz-artifacts/$target log=target/fuzz-$target.log
    mkdir -p "$work" "$artifacts" "tests/fuzz/regressions/$target"
    before=$(find "$artifacts" -type f | wc -l)
    # At once, without cargo in between, so that signals reach it. A finding ends the run of its target.
    # The engine's threads and its cache take memory, so the limit is the one that RELIABILITY asks for all targets.
    status=ok
    "target/fuzz/$host/release/$target" "$work" "tests/fuzz/corpus/$target" "tests/fuzz/regressions/$target" \
        -dict=tests/fuzz/xmpp.dict -max_total_time=$((minutes * 60)) -max_len=4096 -timeout=10 -rss_limit_mb=1024 \
        -artifact_prefix="$artifacts/" -print_final_stats=1 >"$log" 2>&1 || status=failed
    rmdir --ignore-fail-on-non-empty "tests/fuzz/regressions/$target"
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -1; }
    first=$(sed -n 's/.*INITED.* cov: \([0-9]*\) .*/\1/p' "$log" | head -1)
    last=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
    findings=$(($(find "$artifacts" -type f | wc -l) - before))
    [ "$status" = ok ] && [ "$findings" = 0 ] || { found=1; tail -30 "$log"; }
    rows+=("$(printf '%-10s %12s %8s %8s %+8d %8s %8s' "$target" "$(stat number_of_executed_units)" \
        "$(stat average_exec_per_sec)" "${last:-0}" $((${last:-0} - ${first:-0})) "$(stat peak_rss_mb)" "$findings")")
done
printf '%-10s %12s %8s %8s %8s %8s %8s\n' target executions exec/s edges new MiB findings
printf '%s\n' "${rows[@]}"
exit $found
