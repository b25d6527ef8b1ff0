"""Fragments made from a seed, written in every form, and plain references to compare with."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pysam

SIZES = {"chr1": 60_000, "chr2": 40_000, "chrM": 5_000, "HLA:B*15:01": 3_000}


def fragments(n: int = 3000, cells: int = 12, seed: int = 0) -> pd.DataFrame:
    """Rows in no order; lengths from 20 to 600, so that some span the narrow peaks of :func:`peaks`."""
    rng = np.random.default_rng(seed)
    chrom = rng.choice(list(SIZES), n, p=[0.5, 0.35, 0.1, 0.05])
    size = np.array([SIZES[name] for name in chrom])
    length = rng.integers(20, 600, n)
    start = (rng.random(n) * (size - length)).astype(int)
    names = [f"{''.join(rng.choice(list('ACGT'), 5 + i))}-{i}" for i in range(cells)]
    barcode = rng.choice(names, n, p=rng.dirichlet(np.full(cells, 5.0)))
    return pd.DataFrame(
        {"chrom": chrom, "start": start, "end": start + length, "barcode": barcode, "support": rng.integers(1, 9, n)}
    ).drop_duplicates(["chrom", "start", "end", "barcode"], ignore_index=True)


def peaks(n: int = 60, seed: int = 1, overlapping: bool = True) -> pd.DataFrame:
    """Peaks on two chromosomes, in no order; some overlap or hold others."""
    rng = np.random.default_rng(seed)
    chrom = rng.choice(["chr2", "chr1"], n)
    if overlapping:
        start = rng.integers(0, 30_000, n)
        end = start + np.where(rng.random(n) < 0.1, 5_000, rng.integers(30, 900, n))
    else:
        start = rng.permutation(np.arange(n) * 600)
        end = start + rng.integers(30, 590, n)
    return pd.DataFrame({"chrom": chrom, "start": start, "end": end}).drop_duplicates(ignore_index=True)


def as_text(rows: pd.DataFrame, columns: int = 5, header: str = "# made for a test\n") -> str:
    kept = rows[["chrom", "start", "end", "barcode", "support"][:columns]]
    return header + kept.to_csv(sep="\t", header=False, index=False, lineterminator="\n")


def write(path: Path, text: str) -> Path:
    """Plain, gzip or BGZF by the name's ending (.tsv, .gz, .bgz)."""
    if path.suffix == ".bgz":
        with pysam.BGZFile(str(path), "wb") as handle:
            handle.write(text.encode())
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)
    return path


def write_bed(path: Path, table: pd.DataFrame) -> Path:
    table[["chrom", "start", "end"]].to_csv(path, sep="\t", header=False, index=False)
    return path


def write_sizes(path: Path) -> Path:
    path.write_text("".join(f"{name}\t{size}\n" for name, size in SIZES.items()))
    return path


def counted(
    rows: pd.DataFrame, features: pd.DataFrame, rule: str, cells: list[str], support: bool = False
) -> np.ndarray:
    """The definition of the rules, fragment by fragment and feature by feature."""
    dense = np.zeros((len(cells), len(features)), np.int64)
    for j, (chrom, low, high) in enumerate(features[["chrom", "start", "end"]].itertuples(index=False)):
        for row in rows[rows["chrom"] == chrom].itertuples(index=False):
            if row.barcode not in cells:
                continue
            first, last = low <= row.start < high, low <= row.end - 1 < high
            hits = {
                "fragments": int(row.start < high and row.end > low),
                "insertions": int(first) + int(last),
                "paired": int(first or last),
            }[rule]
            dense[cells.index(row.barcode), j] += hits * (row.support if support else 1)
    return dense
