#!/usr/bin/env python3
"""Where the heap of an idle session goes: one line for each place that allocates, with its callers.

    loadtest/heap.py target/debug/chappe target/release/loadtest [plain|starttls|direct] [sessions]

Runs the server twice under heaptrack (Debian's package), with 500 and with 500 + sessions idle sessions, kills it while they are
there, and divides the difference of what is live. "chunk" is what glibc makes of a size on x86-64. A debug build allocates the same
as a release build. The table in docs/memory.md was made with it.
"""

import collections
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BASE = 500
INTERPRET = "/usr/lib/heaptrack/libexec/heaptrack_interpret"
# Frames that say nothing about who wants the memory.
NOBODY = re.compile(r"^$|/rustc/|^library/|hashbrown-|smallvec-|tokio-[0-9.]*/src/(runtime|task|util)|^src/(runtime|task|raw)/|actix-rt")

CONFIG = """domains = ["localhost"]
data_dir = "{folder}/data"
listen.c2s = "127.0.0.1:{0}"
listen.c2s_tls = "127.0.0.1:{1}"
listen.admin = "127.0.0.1:{2}"
tls.required = false
registration.in_band = true
archive.default = "never"
log.level = "warn"
[limits]
bytes_per_connection = "off"
stanzas_per_connection = "off"
bytes_per_address = "off"
stanzas_per_address = "off"
connections_per_address = "off"
login_failures_per_address = "off"
"""


def free_ports():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(command, folder):
    """A server of its own configuration, when it takes connections; and its port."""
    ports = free_ports()
    with open(f"{folder}/chappe.toml", "w") as file:
        file.write(CONFIG.format(*ports, folder=folder))
    process = subprocess.Popen([*command, "--config", f"{folder}/chappe.toml", "run"], stdout=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        time.sleep(0.1)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports[0])) == 0:
                return process, ports[0], ports[1]
    sys.exit("the server does not start")


def register(chappe, loadtest, folder, accounts):
    process, port, _ = start([chappe], folder)
    subprocess.run([loadtest, "register", "--server", f"127.0.0.1:{port}", "--tls", "plain", "--accounts", str(accounts)], check=True)
    process.send_signal(signal.SIGTERM)
    process.wait()


def live(chappe, loadtest, data, tls, sessions):
    """Sizes and stacks of what is live with so many sessions."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(data, f"{folder}/data")
        process, plain, direct = start(["heaptrack", "-r", "-o", f"{folder}/heap", chappe], folder)
        port = direct if tls == "direct" else plain
        command = [loadtest, "idle", "--server", f"127.0.0.1:{port}", "--tls", tls, "--accounts", str(sessions + 1)]
        clients = subprocess.Popen([*command, "--base", str(sessions), "-n", "1", "--settle", "30"], stderr=subprocess.DEVNULL)
        # heaptrack is a script: the server is what was started last below it.
        below = subprocess.run(["pgrep", "-g", str(process.pid), "-x", "chappe"], capture_output=True, text=True, check=True)
        server = int(below.stdout.split()[0])
        while len(os.listdir(f"/proc/{server}/fd")) < sessions + 15:
            time.sleep(0.2)
        # All are logged in; the last ones say that they are there.
        time.sleep(20)
        os.kill(server, signal.SIGKILL)
        clients.wait()
        process.wait()
        raw = next(f"{folder}/{name}" for name in os.listdir(folder) if name.startswith("heap"))
        unpacked = subprocess.Popen(["zstdcat", raw], stdout=subprocess.PIPE)
        text = subprocess.run([INTERPRET], stdin=unpacked.stdout, capture_output=True, check=True).stdout
    return read(text.decode(errors="replace").splitlines())


def read(lines):
    strings, places, stacks, kinds, count = [""], [None], [None], [], collections.Counter()
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "s":
            strings.append(rest.partition(" ")[2])
        elif kind in ("i", "t", "a"):
            numbers = [int(n, 16) for n in rest.split()]
            if kind == "i":
                frames = [numbers[i : i + 3] for i in range(2, len(numbers), 3)]
                places.append([(strings[f[1]], f[2], strings[f[0]]) if len(f) == 3 else ("", 0, strings[f[0]]) for f in frames])
            else:
                (stacks if kind == "t" else kinds).append(tuple(numbers))
        elif kind in ("+", "-"):
            count[int(rest, 16)] += 1 if kind == "+" else -1
    found = collections.Counter()
    for kind, n in count.items():
        size, at = kinds[kind]
        stack = []
        while at:
            place, at = stacks[at]
            stack += places[place] or []
        found[size, tuple(stack)] += n
    return found


def main():
    chappe, loadtest = (os.path.abspath(path) for path in sys.argv[1:3])
    tls = sys.argv[3] if len(sys.argv) > 3 else "plain"
    sessions = int(sys.argv[4]) if len(sys.argv) > 4 else 2_000
    with tempfile.TemporaryDirectory() as folder:
        register(chappe, loadtest, folder, BASE + sessions + 1)
        few = live(chappe, loadtest, f"{folder}/data", tls, BASE)
        many = live(chappe, loadtest, f"{folder}/data", tls, BASE + sessions)
    rows = {}
    for size, stack in set(few) | set(many):
        n = (many[size, stack] - few[size, stack]) / sessions
        who = tuple(frame for frame in stack if not NOBODY.search(frame[0]))[:4]
        row = rows.setdefault(who, [0, 0, 0])
        for i, amount in enumerate((max(32, (size + 8 + 15) // 16 * 16), size, 1)):
            row[i] += n * amount
    print("  chunk    asked  pieces")
    print("%7.0f  %7.0f  %6.2f  all" % tuple(sum(row[i] for row in rows.values()) for i in range(3)))
    for who, row in sorted(rows.items(), key=lambda item: -item[1][0]):
        if row[0] >= 8:
            callers = " < ".join(f"{re.sub(r'.*/(registry/src/[^/]*|work[^/]*)/', '', file)}:{line}" for file, line, _ in who)
            print("%7.0f  %7.0f  %6.2f  %s" % (*row, callers))


main()
