# Short names for what is done often. `just --list` shows them.

# What CI does
ci:
    bash .ci/run

# Everything a newcomer runs: clients, then all tests
test:
    ./test.sh

# A server on localhost
run *ARGS:
    cargo run --release -- {{ARGS}}

# Format, then lint as CI does
lint:
    git ls-files '*.rs' | xargs rustfmt --edition 2024
    cargo clippy --workspace --all-targets -- -D warnings

# The layers of the architecture
layers:
    cargo test -p chappe --test layers

# Bans, licences and sources (needs cargo-deny; the advisory database where it can be reached)
deny:
    cargo deny check bans licenses sources

# The simulated cluster: `just sim 10000`, `just sim 1 --seed 42`
sim SEEDS="1000" *ARGS:
    cargo run --release -p chappe-sim -- --seeds {{SEEDS}} {{ARGS}}

# Each planted bug must be seen within so many seeds: `just planted 1000`
planted SEEDS="1000":
    crates/sim/planted.sh {{SEEDS}}

# A chat while the server is killed again and again: `just crash 200 kill`
crash TIMES="200" FAULT="kill":
    cargo build --release -p chappe
    CHAPPE_BIN=target/release/chappe cargo run --release -p chappe-tests --bin crash -- --kills {{TIMES}} --signal {{FAULT}}

# The table of RFCs and XEPs in the README, made anew
features:
    cargo run -q -p chappe -- features --write README.md

# The reference of all settings
reference:
    cargo run -q -p chappe -- reference

# The corpus of bad input at length; `just bad-input D13 F` for a part of it
bad-input *IDS:
    cargo build --release -p chappe
    CHAPPE_BIN=$PWD/target/release/chappe cargo run --release -p chappe-tests --bin bad-input -- {{IDS}}

# CPU and memory beside Prosody (from Debian) in the same run, into docs/figures.md: `just figures --quick --out target`
figures *ARGS:
    cargo run --release -p chappe-loadtest -- figures {{ARGS}}
