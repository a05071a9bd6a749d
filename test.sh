#!/usr/bin/env bash
# Everything: installs the clients that the black-box tests drive, then runs all tests. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
    # shellcheck source=/dev/null
    . "$HOME/.cargo/env"
fi
command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or later" >&2; exit 1; }
bash tests/setup.sh
if [ $# -eq 0 ] && [ -z "${CHAPPE_BIN:-}" ]; then
    # The black-box tests drive the server of this very build. One that they built by themselves would have its own choice of
    # features, and half of all crates would be built again.
    cargo test --workspace --locked --no-run
    target=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    export CHAPPE_BIN=$target/debug/chappe
fi
exec cargo test --workspace --locked "$@"
