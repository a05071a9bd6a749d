#!/bin/sh
# Very many sessions on one machine: SERVERS servers with EACH sessions each, one generator for each server, since a process has
# a limit of open files. Says what memory the servers take, and what a message costs and how long it takes beside them all;
# then what one message costs in one process among few sessions and among EACH.
#
#   loadtest/sessions.sh CHAPPE          path of Chappe's release binary
#
# Needs a release build of loadtest, or its path in LOADTEST. 150,000 sessions take 10 minutes of two CPUs and 4 GiB.
set -eu

CHAPPE=${1:?the path of the binary}
SERVERS=${SERVERS:-10}
EACH=${EACH:-15000}
TLS=${TLS:-plain}
RATE=${RATE:-400}
SCALE_RATE=${SCALE_RATE:-5000}
SETTLE=${SETTLE:-60}

here=$(cd "$(dirname "$0")" && pwd)
loadtest=${LOADTEST:-$here/../target/release/loadtest}
folder=$(mktemp -d)
all=
end() {
    # shellcheck disable=SC2086
    [ -z "$all" ] || kill $all 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' INT TERM

begin() { # N: starts server N
    "$loadtest" start "$CHAPPE" --folder "$folder/$1" > "$folder/$1.started" &
    all="$all $!"
    last=$!
    until [ -s "$folder/$1.started" ]; do
        kill -0 "$last" || exit 1
        sleep 0.2
    done
}
address() { sed 's/.*--server \([^ ]*\).*/\1/' "$folder/$1.started"; }
pid() { sed 's/.*--pid \([0-9]*\).*/\1/' "$folder/$1.started"; }
sockets() { awk '/^TCP:/ { print $3 }' /proc/net/sockstat; }
chat() { # N WHAT: a few pairs on server N
    printf '%s\n' "$2"
    "$loadtest" chat --server "$(address "$1")" --tls "$TLS" --prefix chat --accounts 50 --pid "$(pid "$1")" --rate "$RATE" --seconds 15 |
        grep -E '^(a second|CPU each|latency|faults)' | sed 's/^/    /'
}

echo "making $EACH accounts"
begin 0
"$loadtest" register --server "$(address 0)" --tls plain --accounts "$EACH" > /dev/null
"$loadtest" register --server "$(address 0)" --tls plain --prefix chat --accounts 50 > /dev/null
kill "$last" && wait "$last" || true
all=
n=1
while [ "$n" -lt "$SERVERS" ]; do
    mkdir "$folder/$n" && cp -a "$folder/0/data" "$folder/$n/"
    n=$((n + 1))
done
rm -f "$folder"/*.started
n=0
while [ "$n" -lt "$SERVERS" ]; do
    begin "$n"
    n=$((n + 1))
done

chat 0 "chat of 50 sessions, no others:"
before=$(sockets)
echo "$SERVERS × $EACH sessions log in"
n=0
generators=
while [ "$n" -lt "$SERVERS" ]; do
    "$loadtest" run "$here/scenarios/idle.toml" --server "$(address "$n")" --domain localhost --transport "$TLS" --accounts "$EACH" \
        --pid "$(pid "$n")" --set base=100 --set sessions=$((EACH - 100)) --set settle="$SETTLE" > "$folder/$n.idle" 2>&1 &
    generators="$generators $!"
    all="$all $!"
    n=$((n + 1))
done
start=$(date +%s)
wanted=$((2 * SERVERS * EACH))
while now=$(($(sockets) - before)) && [ "$now" -lt "$wanted" ]; do
    printf '\r%d of %d sessions, %d s ' $((now / 2)) $((SERVERS * EACH)) $(($(date +%s) - start)) >&2
    # shellcheck disable=SC2086
    kill -0 $generators || exit 1
    sleep 2
done
echo >&2
echo "$(((now) / 2)) connections are there after $(($(date +%s) - start)) s"
chat 0 "chat of 50 more sessions among them:"
n=0
sum=0
while [ "$n" -lt "$SERVERS" ]; do
    kib=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$(pid "$n")/status")
    sum=$((sum + kib))
    n=$((n + 1))
done
awk -v sum="$sum" -v n=$((SERVERS * EACH)) 'BEGIN { printf "memory of all servers: %.0f MiB, %.2f KiB a session, everything in it\n", sum / 1024, sum / n }'
# shellcheck disable=SC2086
wait $generators
sed -s -n 's/^memory each */growth of a session: /p; s/^faults */faults: /p' "$folder"/*.idle | sort | uniq -c

echo "one message at $SCALE_RATE a second, on one server:"
for pairs in 50 $((EACH / 2)); do
    printf '  %d sessions that chat:\n' $((2 * pairs))
    "$loadtest" chat --server "$(address 1)" --tls "$TLS" --accounts "$EACH" --pid "$(pid 1)" --pairs "$pairs" --rate "$SCALE_RATE" \
        --warm-up 5 --seconds 20 | grep -E '^(a second|CPU each|latency|faults)' | sed 's/^/    /'
done
