#!/bin/sh
# Holds `loadtest chat` against tsung: the same one-to-one chat over TLS at the same rate on the same server. Both must see the
# same rate, and the server must spend the same CPU for a message, each within TOLERANCE percent. Exit code 1 if not.
#
# loadtest runs before and after tsung, and its mean counts. On a machine with other work neither keeps its rate and the CPU of
# one message depends on how many are waiting: believe a failure only when the machine is quiet. At a few hundred a second most of
# what a message costs are wakes, which depend on who else is awake, tsung for one: there the two differ by 8 to 33 %.
#
#   loadtest/tsung/check.sh PROGRAM      prosody, ejabberd, or the path of Chappe's binary
#
# Needs tsung (apt-get install tsung) and a release build of loadtest, or its path in LOADTEST.
set -eu

PROGRAM=${1:?prosody, ejabberd, or the path of a binary}
RATE=${RATE:-2000}
PAIRS=${PAIRS:-25}
SECONDS_MEASURED=${SECONDS_MEASURED:-30}
TOLERANCE=${TOLERANCE:-20}

here=$(cd "$(dirname "$0")" && pwd)
loadtest=${LOADTEST:-$here/../../target/release/loadtest}
folder=$(mktemp -d)
users=$((2 * PAIRS))
started=
tsung=
# tsung is a shell with an Erlang under it, in a group of their own, and starts the epmd that is not there yet.
stop_tsung() {
    [ -n "$tsung" ] || return 0
    # At once: asked politely, its users go on for seconds.
    kill -s KILL -- "-$tsung" 2>/dev/null || true
    wait "$tsung" 2>/dev/null || true
    tsung=
    [ -n "$had_epmd" ] || epmd -kill > /dev/null 2>&1 || true
}
sampler=
had_epmd=$(epmd -names 2>/dev/null || true)
end() {
    stop_tsung
    [ -z "$sampler" ] || kill "$sampler" 2>/dev/null || true
    [ -z "$started" ] || { kill "$started" && wait "$started"; } 2>/dev/null || true
    [ -n "${KEEP:-}" ] || rm -rf "$folder"
}
trap end EXIT
trap 'exit 1' INT TERM

"$loadtest" start "$PROGRAM" --folder "$folder/server" > "$folder/started" &
started=$!
until [ -s "$folder/started" ]; do
    kill -0 "$started" || exit 1
    sleep 0.2
done
address=$(sed 's/.*--server \([^ ]*\).*/\1/' "$folder/started")
pid=$(sed 's/.*--pid \([0-9]*\).*/\1/' "$folder/started")
port=${address##*:}
"$loadtest" register --server "$address" --tls plain --accounts "$users"

# CPU of all threads of the server, microseconds.
cpu() { cat "/proc/$pid/task/"*/schedstat | awk '{ ns += $1 } END { printf "%.0f", ns / 1000 }'; }

ours() {
    "$loadtest" chat --server "$address" --tls starttls --accounts "$users" --pid "$pid" --pairs "$PAIRS" --rate "$RATE" --body 200 \
        --seconds "$SECONDS_MEASURED" --json > "$folder/ours.$1"
}
# The mean of a field over both runs.
field() {
    sed -n "s/^  \"$1\": \([0-9.]*\),*$/\1/p" "$folder"/ours.* | awk '{ sum += $1 } END { if (NR) printf "%.1f", sum / NR }'
}

ours before

# tsung: each user waits until all are there, then sends until well after the measured time.
arrival=$(((users + 9) / 10 + 5))
wait=$((arrival + 5))
awk -v n="$users" 'BEGIN { for (i = 0; i < n; i++) printf "user%d,secret,user%d\n", i, i % 2 ? i - 1 : i + 1 }' > "$folder/users.csv"
interval=$(awk -v n="$users" -v rate="$RATE" 'BEGIN { printf "%.4f", n / rate }')
messages=$(awk -v i="$interval" -v s="$SECONDS_MEASURED" -v w="$wait" 'BEGIN { printf "%d", (s + w + 40) / i }')
body=$(printf 'the quick brown fox jumps over the lazy dog %.0s' 1 2 3 4 5 | cut -c1-200)
sed -e "s|@PORT@|$port|" -e "s|@ARRIVAL@|$arrival|" -e "s|@USERS@|$users|" -e "s|@FOLDER@|$folder|" -e "s|@WAIT@|$wait|" \
    -e "s|@MESSAGES@|$messages|" -e "s|@INTERVAL@|$interval|" -e "s|@BODY@|$body|" "$here/chat.xml" > "$folder/chat.xml"
HOME=$folder setsid tsung -n -f "$folder/chat.xml" -l "$folder/log" start > "$folder/tsung.out" 2>&1 &
tsung=$!
(while :; do echo "$(date +%s.%N) $(cpu)"; sleep 0.5; done) > "$folder/samples" &
sampler=$!
sleep $((arrival + wait + 5))
from=$(date +%s)
# tsung tells every ten seconds what the last ten were.
sleep $((SECONDS_MEASURED + 12))
kill "$sampler"
sampler=
log=$(find "$folder/log" -name tsung.log)
stop_tsung
grep '^stats: error' "$log" && { echo "tsung saw errors" >&2; exit 1; }
# Messages between the first and the last dump of the measured time, and the server's CPU at the samples next to them.
theirs=$(awk -v from="$from" '
    FILENAME ~ /samples$/ { at[++n] = $1; cpu[n] = $2; next }
    /^# stats: dump at/ { now = $5; if (now >= from && !first) { first = last = now } else if (first) { last = now } }
    /^stats: request_noack / && now > first && first { requests += $3 }
    function used(when,  i) { for (i = 1; i < n && at[i] < when; i++); return cpu[i] }
    END {
        if (last > first && requests) printf "%.1f %.1f", requests / (last - first), (used(last) - used(first)) / requests
        else print "0 0"
    }' "$folder/samples" "$log")

sleep 3
ours after

awk -v rate="$(field rate)" -v cpu="$(field cpu_us_each)" -v their_rate="${theirs% *}" -v their_cpu="${theirs#* }" -v most="$TOLERANCE" '
    function near(what, ours, theirs, percent) {
        percent = theirs > 0 ? 100 * (ours / theirs - 1) : 999
        printf "%-22s loadtest %8.1f   tsung %8.1f   %+6.1f %%\n", what, ours, theirs, percent
        return percent <= most && percent >= -most
    }
    BEGIN {
        a = near("messages a second", rate, their_rate)
        b = near("CPU of one, µs", cpu, their_cpu)
        if (!a || !b) { print "further apart than " most " %"; exit 1 }
    }'
