#!/usr/bin/env bash
# Builds the server with a profile of itself under load (profile-guided optimisation), all crates as one (fat LTO): the compiler
# then knows which paths a message takes. Some 15 minutes of two CPUs; the binary is target/guided/chappe.
#
#   loadtest/guided.sh
#   CPU=x86-64 loadtest/guided.sh      for CPUs of before 2013; the default is one with AVX2 (x86-64-v3)
#
# Needs rustup's component llvm-tools (installed here if it is not) and nothing else than what builds Chappe.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rustup component add llvm-tools >/dev/null
profdata=$(find "$(rustc --print sysroot)/lib/rustlib" -name llvm-profdata | head -1)
[ -n "$profdata" ] || { echo "llvm-profdata is not where rustup puts it" >&2; exit 1; }
out=$PWD/target/guided raw=$PWD/target/guided/raw
rm -rf "$raw" && mkdir -p "$raw"
cpu=
[ "$(uname -m)" != x86_64 ] || cpu=-Ctarget-cpu=${CPU:-x86-64-v3}
server_build() { # RUSTFLAGS FOLDER
    RUSTFLAGS="$1 $cpu" CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        cargo build --release --locked -p chappe --target-dir "$2"
}

# RUSTFLAGS reach whatever is built, so each build has a folder of its own.
echo "==> the server that counts"
server_build "-Cprofile-generate=$raw" "$out/counting"
cargo build --release --locked -q -p chappe-loadtest
loadtest=$PWD/target/release/loadtest folder=$(mktemp -d) server=
end() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

# What the figures measure, and what a mixed day brings, each for seconds: it is the paths that count.
begin() { # OPTION…: a server on the accounts that are there
    rm -f "$folder/started"
    "$loadtest" start "$out/counting/release/chappe" --folder "$folder/server" "$@" >"$folder/started" &
    server=$!
    until [ -s "$folder/started" ]; do kill -0 "$server" && sleep 0.2; done
    address=$(sed 's/.*--server \([^ ]*\).*/\1/' "$folder/started")
}
stop() { kill "$server" && wait "$server" || true; server=; }
load() { # SCENARIO OPTION…
    echo "==> $*"
    "$loadtest" run "loadtest/scenarios/$1.toml" --server "$address" --domain localhost "${@:2}" | grep -E '^(count|faults)'
}
begin
"$loadtest" register --server "$address" --tls plain --accounts 400 >/dev/null
"$loadtest" register --server "$address" --tls plain --accounts 60 --prefix friend >/dev/null
for transport in plain starttls; do
    load chat --transport "$transport" --set seconds=5
    load login --transport "$transport" --set logins=400
done
load login --transport starttls --set logins=400 --set resume=true
load chat --transport plain --set management=true --set seconds=5
load presence --transport plain --set clients=60 --set rate=100 --set seconds=5
load reconnect --transport plain --set seconds=5
stop
begin --archive
load chat --transport plain --set seconds=5
load chat --transport plain --set management=true --set seconds=5
load archive --transport plain --set seconds=5
load offline --transport plain
stop

"$profdata" merge -o "$out/chappe.profdata" "$raw"
echo "==> the server that knows"
server_build "-Cprofile-use=$out/chappe.profdata" "$out/knowing"
cp "$out/knowing/release/chappe" "$out/chappe"
echo "built: $out/chappe"
