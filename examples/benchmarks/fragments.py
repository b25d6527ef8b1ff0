"""How fast fragments become a peak matrix, beside SnapATAC2's import and peak matrix, and whether the matrices agree.

    python3 -m venv snap-env && snap-env/bin/pip install snapatac2
    python examples/benchmarks/fragments.py DATA --snapatac2-python snap-env/bin/python [-o fragments.json]

DATA is made first if it is not there: 20 million fragments of 5,000 barcodes, BGZF, and 100,000 peaks, from a seed
(fragments_data.py). Every figure is of a whole process, Python's start and the writing of the output included. The
first run of scmap compiles its kernels and is shown apart; numba keeps them on disk, in ``NUMBA_CACHE_DIR`` if that is
set. Both sides get the same list of barcodes, and SnapATAC2 keeps its objects in memory. Its import also sorts by
barcode and keeps the fragments for later steps, which ours does not: the time from file to matrix is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
from measure import HERE, say

RULES = {"fragments": "fragment", "insertions": "insertion", "paired": "paired-insertion"}


def run_scmap(command: list[str], data: Path, output: Path, rule: str, threads: int) -> dict[str, Any]:
    """One run: wall and CPU seconds, peak memory, seconds of reading and counting alone, digest of the output."""
    words = [*command, "preprocess", "atac", data / "fragments.tsv.gz", "-o", output, "--peaks", data / "peaks.bed"]
    words += ["--barcodes", data / "barcodes.txt", "--count", rule, "-t", str(threads), "--force", "-q"]
    done = measure.measured(words, threads)
    facts = json.loads(output.with_name(output.name + ".run.json").read_text())["machine"]
    return {
        "threads": threads,
        "rule": rule,
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "peak_bytes": done.peak_bytes,
        "counting_seconds": facts["counting_seconds"],
        "fragments": facts["fragments"],
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }


def run_snapatac2(python: Path, data: Path, output: Path, rule: str, threads: int) -> dict[str, Any]:
    """One run of peer_snapatac2.py."""
    words = [python, HERE / "peer_snapatac2.py", data, output, "--count", RULES[rule], "--threads", str(threads)]
    done = measure.measured(words, threads)
    facts = {"seconds": done.seconds, "cpu_seconds": done.cpu_seconds, "peak_bytes": done.peak_bytes}
    return {"rule": rule, "threads": threads} | facts | {"parts": done.json()}


def differing(ours: Path, theirs: Path) -> int:
    """Entries in which two matrices differ, cells and peaks matched by name."""
    import anndata
    import numpy as np

    a, b = anndata.read_h5ad(ours), anndata.read_h5ad(theirs)
    if set(a.obs_names) != set(b.obs_names) or set(a.var_names) != set(b.var_names):
        raise SystemExit("the matrices have different cells or peaks")
    rows, columns = b.obs_names.get_indexer(a.obs_names), b.var_names.get_indexer(a.var_names)
    return int((a.X.astype(np.int64) != b.X.tocsr()[rows][:, columns].astype(np.int64)).nnz)


def main() -> None:
    """Make, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the made files")
    parser.add_argument("--fragments", type=int, default=20_200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scmap", help="command that starts scmap; by default the one beside this Python")
    parser.add_argument("--snapatac2-python", type=Path, help="Python of an environment with snapatac2")
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="JSON with every figure")
    args = parser.parse_args()
    if not (args.data / "chrom.sizes").exists():
        maker = [sys.executable, HERE / "fragments_data.py", args.data, "--fragments", str(args.fragments)]
        measure.measured([*maker, "--seed", str(args.seed)])
    machine = measure.machine()
    command = measure.scmap_command(args.scmap)
    ours: list[dict[str, Any]] = []
    peers: list[dict[str, Any]] = []
    agreement: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ.setdefault("NUMBA_CACHE_DIR", str(scratch / "numba"))
        cold = run_scmap(command, args.data, scratch / "cold.h5ad", "fragments", 2)
        say(f"first run, kernels compiled unless they were cached before: {cold['seconds']:.1f} s")
        for threads in (1, 2):
            for _ in range(args.repeats):
                ours.append(run_scmap(command, args.data, scratch / "fragments.h5ad", "fragments", threads))
        for rule in ("insertions", "paired"):
            ours.append(run_scmap(command, args.data, scratch / f"{rule}.h5ad", rule, 2))
        if args.snapatac2_python is not None:
            for rule in RULES:
                for _ in range(args.peer_repeats if rule == "fragments" else 1):
                    peers.append(
                        run_snapatac2(args.snapatac2_python, args.data, scratch / f"{rule}.peer.h5ad", rule, 2)
                    )
        same = len({one["sha256"] for one in [cold, *ours] if one["rule"] == "fragments"}) == 1
        for one in peers:
            rule = one["rule"]
            agreement[rule] = differing(scratch / f"{rule}.h5ad", scratch / f"{rule}.peer.h5ad")

    rows = []
    for threads in (1, 2):
        runs = [one for one in ours if one["threads"] == threads and one["rule"] == "fragments"]
        wall, counting = (measure.spread(one[key] for one in runs)["median"] for key in ("seconds", "counting_seconds"))
        rate = runs[0]["fragments"] / counting / threads / 1e6
        peak = max(one["peak_bytes"] for one in runs) / 1e6
        rows.append([f"scmap, {threads} thread(s)", f"{wall:.2f}", f"{counting:.2f}", f"{rate:.2f}", f"{peak:.0f}"])
    wall_of_ours = float(rows[1][1])
    for one in peers:
        parts = one["parts"]
        work = parts["import"] + parts["matrix"]
        rate = ours[0]["fragments"] / work / one["threads"] / 1e6
        label = f"SnapATAC2 {parts['version']}, {one['rule']}, 2 threads"
        rows.append([label, f"{one['seconds']:.2f}", f"{work:.2f}", f"{rate:.2f}", f"{one['peak_bytes'] / 1e6:.0f}"])
    say(measure.table(["", "wall s", "read+count s", "M fragments/s/core", "peak MB"], rows))
    say(f"same bytes with 1 and 2 threads and in every repeat: {same}")
    for rule, count in agreement.items():
        say(f"{rule}: {count} entries differ from SnapATAC2's")
    timed = [one["seconds"] for one in peers if one["rule"] == "fragments"]
    if timed:
        say(f"SnapATAC2's wall time over ours, 2 threads: {measure.spread(timed)['median'] / wall_of_ours:.1f}")
    measure.write_json(
        args.output,
        {
            "benchmark": "fragments",
            "machine": machine,
            "settings": measure.settings(args),
            "cold": cold,
            "scmap": ours,
            "snapatac2": peers,
            "same_bytes": same,
            "differing_entries": agreement,
            "versions": measure.versions("scmap-cli", "isal", "numba", "numpy", "scipy", "pysam"),
        },
    )


if __name__ == "__main__":
    main()
