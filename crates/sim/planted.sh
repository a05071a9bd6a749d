#!/bin/sh
# Plants each bug of `types::planted` in turn and shows the first seed that sees it; fails if one is not seen.
set -eu
cd "$(dirname "$0")/../.."
exec cargo run --release -p chappe-sim --features planted -- --seeds "${1:-1000}" --planted
