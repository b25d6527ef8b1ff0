"""SnapATAC2's part of fragments.py: import a fragment file, count it in peaks, save the matrix.

Runs in an environment of its own that has snapatac2 but not scmap, so it imports nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import scipy.sparse as sp


def main() -> None:
    """Import, count, save; the last line of stdout is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what fragments_data.py made")
    parser.add_argument("output", type=Path, help="h5ad to write")
    parser.add_argument("--count", default="fragment", choices=["fragment", "insertion", "paired-insertion"])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    # Here, so that -h needs no environment of its own.
    import snapatac2

    sizes = dict(line.split() for line in (args.folder / "chrom.sizes").read_text().splitlines())
    clock = time.perf_counter()
    data = snapatac2.pp.import_fragments(
        args.folder / "fragments.tsv.gz",
        {name: int(size) for name, size in sizes.items()},
        sorted_by_barcode=False,
        min_num_fragments=0,
        whitelist=args.folder / "barcodes.txt",
        tempdir=args.output.parent,
        n_jobs=args.threads,
    )
    imported = time.perf_counter() - clock
    clock = time.perf_counter()
    matrix = snapatac2.pp.make_peak_matrix(data, peak_file=args.folder / "peaks.bed", counting_strategy=args.count)
    counted = time.perf_counter() - clock
    clock = time.perf_counter()
    matrix.X = sp.csr_matrix(matrix.X)
    matrix.write_h5ad(args.output)
    facts = {"import": imported, "matrix": counted, "write": time.perf_counter() - clock}
    sys.stdout.write(json.dumps(facts | {"version": snapatac2.__version__}) + "\n")


if __name__ == "__main__":
    main()
