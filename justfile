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

# Fuzzes one target for so many minutes (nightly compiler, cargo-fuzz): `just fuzz framer 10`
fuzz TARGET MINUTES="5":
    tests/fuzz/fuzz.sh {{TARGET}} {{MINUTES}}

# All targets, one after another, and a table at the end: `just fuzz-all 10`
fuzz-all MINUTES="5":
    tests/fuzz/fuzz.sh all {{MINUTES}}

# What fuzzing has found to reach new code, made small, into the committed corpus
fuzz-keep TARGET:
    tests/fuzz/keep.sh {{TARGET}}

# The parts of a message's way, by time (divan): framer, parser, head rewriting, modules, store
bench *ARGS:
    cargo bench -p chappe-bench {{ARGS}}

# Instructions of one message on each way, without sockets and disk (needs valgrind); `just instructions --profile chat` says where
instructions *WAYS:
    tests/bench/bench.sh {{WAYS}}

# A chat while the server is killed again and again, or its disk fails: `just crash 200 kill`, `just crash 50 power`
crash TIMES="200" FAULT="kill":
    cargo build --release -p chappe
    CHAPPE_BIN=$PWD/target/release/chappe cargo run --release -p chappe-tests --bin crash -- --kills {{TIMES}} --fault {{FAULT}}

# Every fault of the disk and the clock at length
crash-disk:
    for fault in "50 power" "20 full" "20 sync-error" "20 read-error" "10 slow" "40 clock"; do just crash $fault || exit 1; done

# A server that does not flush must be caught by power cuts: this succeeds when the crash test fails
crash-planted TIMES="3":
    cargo build --features planted -p chappe --target-dir target/planted
    ! CHAPPE_PLANT=no-sync CHAPPE_BIN=$PWD/target/planted/debug/chappe cargo run -p chappe-tests --bin crash -- --kills {{TIMES}} --fault power

# What docs/promise.md says, run, and its figures written: `just promise`, `just promise --long power`
promise *ARGS:
    tests/promise.sh {{ARGS}}

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

# A server built with a profile of itself under load (llvm-tools by rustup; a quarter of an hour): target/guided/chappe
guided:
    loadtest/guided.sh

# CPU and memory beside Prosody (from Debian) in the same run, into docs/figures.md: `just figures --quick --out target`
figures *ARGS:
    cargo run --release -p chappe-loadtest -- figures {{ARGS}}
