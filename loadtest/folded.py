#!/usr/bin/env python3
"""Folded stacks for a flame graph (flamegraph.pl, inferno, speedscope.app) out of what perf has recorded of a server:

    perf record -F 499 --call-graph dwarf,16000 -p PID -o perf.data -- sleep 2
    perf script --no-inline -i perf.data | loadtest/folded.py > chat.folded
"""
import re
import sys
from collections import Counter

FRAME = re.compile(r"^\s+[0-9a-f]+ (.*?)(?:\+0x[0-9a-f]+)? \((.*)\)$")


def folded(lines):
    counts, thread, frames = Counter(), "", []
    for line in lines:
        line = line.rstrip("\n")
        if not line.strip():
            if frames:
                counts[";".join([thread, *reversed(frames)])] += 1
            frames = []
        elif frame := FRAME.match(line):
            name, where = frame.groups()
            frames.append(name.replace(";", ":") if name != "[unknown]" else "[" + where.rsplit("/", 1)[-1] + "]")
        else:
            thread = line.split()[0]
    if frames:
        counts[";".join([thread, *reversed(frames)])] += 1
    return counts


for stack, count in sorted(folded(sys.stdin).items()):
    print(stack, count)
