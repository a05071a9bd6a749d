#!/usr/bin/env bash
# Brings what fuzzing has found into the committed corpus, as few and as small inputs as reach the same code: keep.sh TARGET
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=$1
# Larger inputs are left out, and then the largest of the rest, so that a clone stays small.
input_bytes_max=1024 corpus_bytes_max=24576
host=$(rustc -vV | sed -n 's/^host: //p')
merged=$(mktemp -d) small=$(mktemp -d)
trap 'rm -rf "$merged" "$small"' EXIT
find "tests/fuzz/corpus/$target" "target/fuzz-corpus/$target" -type f -size "-$((input_bytes_max + 1))c" -exec cp -t "$small" {} +
"target/fuzz/$host/release/$target" -set_cover_merge=1 "$merged" "tests/fuzz/corpus/$target" "$small"
sum=0
while read -r size file; do
    sum=$((sum + size))
    [ "$sum" -gt "$corpus_bytes_max" ] && break
    cp -n "$file" "tests/fuzz/corpus/$target/"
done < <(find "$merged" -type f -printf '%s %p\n' | sort -n)
du -sb "tests/fuzz/corpus/$target"
