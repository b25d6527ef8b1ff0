"""How long the terminal takes to answer: ``scmap -h``, ``scmap --version`` and the help of every verb, against 0.3 s.

    python examples/benchmarks/startup.py -o startup.json

The verbs are read from the command tree itself, so a new one is timed without a change here. Each command runs
``--runs`` times as a process of its own, in turns, after one run that is not counted (it fills the disk cache and
writes Python's byte code). Figures are wall seconds from outside; the bar is on the median, the largest stands beside.
CPU seconds (median) tell a slow start from a busy machine: on an idle one the two agree.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import measure
from measure import measured, say

BAR_SECONDS = 0.3

#: walks the command tree of the Typer application and prints one command path a line
LIST_COMMANDS = """
import typer
from scmap_cli.cli.app import app
def walk(command, path):
    if path:
        print(" ".join(path))
    for name, inner in getattr(command, "commands", {}).items():
        walk(inner, [*path, name])
walk(typer.main.get_command(app), [])
"""


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    scmap = measure.scmap_command(args.scmap)
    machine = measure.machine()
    paths = [line.split() for line in measured([sys.executable, "-c", LIST_COMMANDS]).stdout.splitlines()]
    commands = [["-h"], ["--version"], *[[*path, "-h"] for path in paths]]
    # the last line is the floor that no Python program gets below
    jobs = {f"scmap {' '.join(words)}": [*scmap, *words] for words in commands}
    jobs["python -c pass"] = [sys.executable, "-c", "pass"]
    found: dict[str, list[measure.Measured]] = {name: [] for name in jobs}
    for run in range(args.runs + 1):
        for name, command in jobs.items():
            done = measured(command)
            if run:
                found[name].append(done)
    results, rows = {}, []
    for name, runs in found.items():
        wall = measure.spread(one.seconds for one in runs)
        cpu = measure.spread(one.cpu_seconds for one in runs)
        results[name] = {"seconds": wall, "cpu_seconds": cpu}
        below = "yes" if wall["median"] < BAR_SECONDS else "NO"
        rows.append([name, f"{wall['median']:.3f}", f"{wall['max']:.3f}", f"{cpu['median']:.3f}", below])
    say(f"{machine['cpu']}, load {machine['load_at_start']:.1f}, {args.runs} runs each")
    say(measure.table(["", "median s", "max s", "CPU s", f"< {BAR_SECONDS} s"], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "startup",
            "machine": machine,
            "runs": args.runs,
            "results": results,
            "versions": measure.versions("scmap-cli", "typer", "rich"),
        },
    )


if __name__ == "__main__":
    main()
