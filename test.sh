#!/usr/bin/env bash
# Everything: installs the clients that the black-box tests drive, then runs all tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
fi
command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.90 or later" >&2; exit 1; }
bash tests/setup.sh
exec cargo test --workspace --locked "$@"
