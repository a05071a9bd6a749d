#!/bin/sh
# Installs the real clients that the tests drive, and Prosody, against which the tests are proven. Does nothing where all is there.
# Debian or Ubuntu; elsewhere install the named programs by hand. The tests fail, and say so, where one is missing.
set -eu
cd "$(dirname "$0")"

missing=
for program in prosody profanity go-sendxmpp tmux python3; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    # Debian would start Prosody on the standard ports; the tests start their own.
    # shellcheck disable=SC2086  # a list of names
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing
fi

# The environment is made anew when the list of packages changes.
if ! cmp -s clients/requirements.txt .venv/requirements.txt; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet -r clients/requirements.txt
    cp clients/requirements.txt .venv/requirements.txt
fi
echo "prosody, profanity, go-sendxmpp, tmux, $(.venv/bin/pip list 2>/dev/null | grep -i slixmpp | tr -s " ")"
