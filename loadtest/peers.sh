#!/bin/sh
# The servers that figures are compared with: installs them from Debian, says how to start them as `figures` does.
#
#   loadtest/peers.sh            install what is missing, then print the settings and the commands
#   loadtest/peers.sh prosody    install, then start Prosody in a new folder until interrupted
#   loadtest/peers.sh ejabberd   the same for ejabberd; options of `loadtest start` may follow (--archive, --synced)
set -eu

cd "$(dirname "$0")/.."

missing=
for package in prosody lua-dbi-sqlite3 ejabberd; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || { echo "as root: RUNLEVEL=1 apt-get install --no-install-recommends$missing" >&2; exit 1; }
    # With this run level neither is started as a service.
    # shellcheck disable=SC2086
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi

if [ $# -gt 0 ]; then
    program=$1
    shift
    exec cargo run --release -q -p chappe-loadtest -- start "$program" --folder "$(mktemp -d)" "$@"
fi

cat <<'END'
Both run with a configuration, data and ports of their own in one folder; the services that Debian installs are not used.

  loadtest start prosody --folder /tmp/prosody                       no archives
  loadtest start prosody --folder /tmp/prosody --archive             archives in files, never synced
  loadtest start prosody --folder /tmp/prosody --archive --synced    archives in SQLite, synced for each message
  loadtest start ejabberd --folder /tmp/ejabberd                     no archives
  loadtest start ejabberd --folder /tmp/ejabberd --archive           archives in Mnesia, never synced

Each prints its address and process for the other commands:

  loadtest register --server 127.0.0.1:PORT --tls plain --accounts 50
  loadtest chat --server 127.0.0.1:PORT --tls plain --accounts 50 --pid PID

Prosody: epoll, generational collector, accounts with SHA-256, log level warn, no limits.
ejabberd: Mnesia, accounts with SHA-256, log level error, no shapers; Erlang with kernel poll (+K true) and one scheduler (+S 1:1)
that sleeps rather than spins (+sbwt none); a node without epmd.
The files that hold all of it are written into the folder: prosody.cfg.lua, ejabberd.yml.
END
