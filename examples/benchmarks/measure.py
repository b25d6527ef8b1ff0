"""What every benchmark here shares: a process measured from outside, the machine it ran on, medians and a table.

Only the standard library is imported. That is needed, not taste: on Linux a child's peak memory starts at what its
parent holds, so a parent that had loaded torch would add its own size to every figure.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

#: what the numeric libraries look at, so that both sides get the same number of threads
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Measured:
    """One finished process: wall and CPU seconds, peak resident bytes, and what it wrote to stdout."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str

    def json(self) -> Any:
        """Read the last line of stdout as JSON: scripts print progress first and their result last."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def say(text: str) -> None:
    """Results and progress, to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measured(command: Sequence[str | Path], threads: int | None = None) -> Measured:
    """Run a command to its end; raise SystemExit with the end of its stderr if it fails.

    Parameters
    ----------
    command
        Program and arguments.
    threads
        Value of the thread variables in its environment; None leaves them as they are.
    """
    words = [str(word) for word in command]
    env = dict(os.environ)
    if threads is not None:
        env.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        clock = time.perf_counter()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - clock
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            tail = err.read().decode(errors="replace")[-3000:]
            raise SystemExit(f"exit code {process.returncode} from: {shlex.join(words)}\n{tail}")
        peak = usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
        return Measured(seconds, usage.ru_utime + usage.ru_stime, peak, out.read().decode(errors="replace"))


def flags(**options: object) -> list[str]:
    """Spell options as words: ``o=x`` is ``-o x``, ``batch_key=x`` is ``--batch-key x``, True is the flag alone."""
    words: list[str] = []
    for name, value in options.items():
        words.append(f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}")
        if value is not True:
            words.extend(str(item) for item in (value if isinstance(value, (list, tuple)) else [value]))
    return words


def scmap_command(given: str | None) -> list[str]:
    """Find what starts scmap: as given, else the script beside this Python, else ``python -m scmap_cli``."""
    if given:
        return shlex.split(given)
    script = Path(sys.executable).with_name("scmap")
    return [str(script)] if script.exists() else [sys.executable, "-m", "scmap_cli"]


def embedding_scores(
    command: Sequence[str | Path], files: Sequence[Path], *, label_key: str, batch_key: str | None, **options: object
) -> list[dict[str, float]]:
    """What embeddings tell of depth and batch, and their agreement with the labels, by ``scmap evaluate``.

    Parameters
    ----------
    command
        Starts scmap.
    files
        One embedding each.
    label_key, batch_key
        Columns; without batches there is no ``batch_mi``.
    options
        Further options of both verbs, among them ``threads``.

    Returns
    -------
    list of dict
        ``depth_mi`` and ``batch_mi`` are means over the dimensions, in nats; ``ari`` and ``nmi`` those at the number of
        clusters nearest to the number of labels, which picks nothing by the labels.
    """
    words = flags(**({} if batch_key is None else {"batch_key": batch_key}), quiet=True, **options)
    told = json.loads(measured([*command, "evaluate", "invariance", *files, *words]).stdout)
    words += flags(label_key=label_key)
    alike = json.loads(measured([*command, "evaluate", "clustering", *files, *words]).stdout)
    found = []
    for invariance, clustering in zip(told["results"], alike["results"], strict=True):
        entry = {"depth_mi": invariance["depth_mi"]["mean"]}
        if batch_key is not None:
            entry["batch_mi"] = invariance["batch_mi"]["mean"]
        found.append(entry | {name: clustering["matched"][name] for name in ("ari", "nmi")})
    return found


def training_facts(model: Path) -> dict[str, Any]:
    """Wall seconds of each epoch, cells trained on in one, and training losses, from what ``scmap train`` wrote."""
    run = json.loads(model.with_name(model.name + ".run.json").read_text())["machine"]
    with (model / "history.csv").open(newline="") as handle:
        losses = [float(row["train_loss"]) for row in csv.DictReader(handle)]
    # the rate in the file is that of the median epoch
    cells = round(run["cells_per_second"] * statistics.median(run["epoch_seconds"]))
    return {"epoch_seconds": run["epoch_seconds"], "cells_per_epoch": cells, "train_loss": losses}


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory, load and Python."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def versions(*names: str) -> dict[str, str | None]:
    """Installed versions of distributions in this environment; None where one is absent."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median, minimum, maximum and the values themselves."""
    kept = [float(value) for value in values]
    return {"median": statistics.median(kept), "min": min(kept), "max": max(kept), "values": kept}


def mean_sd(values: Iterable[float]) -> dict[str, Any]:
    """Mean and sample standard deviation (0 for one value), and the values themselves."""
    kept = [float(value) for value in values]
    return {"mean": statistics.fmean(kept), "sd": statistics.stdev(kept) if len(kept) > 1 else 0.0, "values": kept}


def shown(values: Sequence[float]) -> str:
    """Mean and standard deviation as text; empty where there is no value."""
    if not values:
        return ""
    found = mean_sd(values)
    return f"{found['mean']:.3f} +- {found['sd']:.3f}" if len(values) > 1 else f"{found['mean']:.3f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text columns: the first to the left, the others to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        [line[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]]
        for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every script has which runs several commands in a folder."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--scmap", help="command that starts scmap (default: the one beside this Python)")
    parser.add_argument("--threads", type=int, default=machine()["cores"])
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Every option as a JSON value."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


def earlier_runs(output: Path, compared: dict[str, Any]) -> dict[str, Any]:
    """The ``runs`` that an output holds of earlier calls; SystemExit if they were made with other settings."""
    if not output.exists():
        return {}
    earlier = json.loads(output.read_text())
    if earlier["compared"] != compared:
        raise SystemExit(f"{output} was made with other settings: {earlier['compared']}; give another -o")
    return dict(earlier["runs"])


def write_runs(args: argparse.Namespace, name: str, compared: dict[str, Any], runs: dict[str, Any]) -> None:
    """Write what :func:`earlier_runs` reads, with the machine and the versions."""
    result = {"benchmark": name, "machine": machine(), "compared": compared, "runs": runs, "settings": settings(args)}
    write_json(args.output, result | {"versions": versions("scmap-cli", "torch", "numpy", "anndata")})


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the result file, if one was asked for."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        say(f"\nwritten: {path}")
