"""A corpus of synthetic cells: cells a second and peak memory of its building, and of reading it in batches.

    python examples/benchmarks/corpus.py [--cells 1000000] [--folder DIR]

Files of 100,000 cells (18,000 genes, about 600 of them expressed, as scmap writes h5ad but not compressed) are made
first, which is not timed. Peak memory is that of the process that builds, and of the one that reads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GENES, EXPRESSED, FILE_CELLS = 18000, 600, 100_000

# The kernel's own figure: that of getrusage starts at the size of whoever launched the process.
PEAK = """
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
"""

BUILD = """
import sys, time, json
from pathlib import Path
from scmap_cli.stages.preprocess_corpus import preprocess_corpus
files = sorted(Path(sys.argv[1]).glob("*.h5ad"))
clock, cpu = time.perf_counter(), time.process_time()
made = preprocess_corpus(files, Path(sys.argv[1]) / "c.zarr")
told = {"cells": made["cells"], "entries": made["entries"], "wall": time.perf_counter() - clock}
told |= {"cpu": time.process_time() - cpu, "mib": peak()}
print(json.dumps(told))
"""

READ = """
import sys, time, json
from pathlib import Path
import numpy as np, torch
from scmap_cli.data import corpus as module
from scmap_cli.data.tokens import TokenStore
from scmap_cli.io.shards import open_corpus
module.available_memory = lambda: 0  # as for a corpus that does not fit into memory
rows = module.CorpusRows(open_corpus(Path(sys.argv[1]) / "c.zarr"))
store = TokenStore(rows, np.zeros(len(rows)))
order = torch.from_numpy(store.order(np.arange(len(rows)), 0, "shuffle"))[: int(sys.argv[2])]
clock, cpu, peaks = time.perf_counter(), time.process_time(), []
for number, start in enumerate(range(0, len(order), 256)):
    store.batch(order[start : start + 256])
    if number % 200 == 199:
        peaks.append(peak())
told = {"cells": len(order), "wall": time.perf_counter() - clock, "cpu": time.process_time() - cpu, "mib": peaks}
print(json.dumps(told))
"""


def make(path: Path, cells: int, seed: int) -> None:
    """One file; the number of expressed genes varies twofold."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(seed)
    lengths = rng.integers(EXPRESSED * 2 // 3, EXPRESSED * 4 // 3, cells)
    total = int(lengths.sum())
    # Genes of a cell are equal steps apart from a random start, so that they rise and none comes twice.
    row = np.repeat(np.arange(cells), lengths)
    place = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    step = (GENES // lengths)[row]
    indices = (place * step + rng.integers(0, 1 << 30, total) % step).astype(np.int32)
    data = np.minimum(rng.geometric(0.5, total), 200).astype(np.float32)
    with h5py.File(path, "w") as handle:
        handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        text = h5py.string_dtype()
        for name, labels in (
            ("obs", [f"{path.stem}-{i}" for i in range(cells)]),
            ("var", [f"GENE{i:05d}" for i in range(GENES)]),
        ):
            frame = handle.create_group(name)
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            frame.attrs["column-order"] = np.array([], dtype=text)
            frame.create_dataset("_index", data=np.array(labels, dtype=object), dtype=text)
            frame["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        group = handle.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (cells, GENES)})
        group["indptr"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        group.create_dataset("indices", data=indices, chunks=(1 << 18,))
        group.create_dataset("data", data=data, chunks=(1 << 18,))


def run(code: str, *words: object) -> dict[str, object]:
    """The JSON that a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        for number, start in enumerate(range(0, options.cells, FILE_CELLS)):
            make(folder / f"study{number:02d}.h5ad", min(FILE_CELLS, options.cells - start), number)
        for name, told in (("build", run(BUILD, folder)), ("read", run(READ, folder, options.cells))):
            rate, cpu = (float(told["cells"]) / float(told[key]) for key in ("wall", "cpu"))  # type: ignore[arg-type]
            print(f"{name}: {rate:,.0f} cells a second, {cpu:,.0f} a CPU second, peak MiB {told['mib']}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
