"""Fragments as a droplet pipeline leaves them, made from a seed: BGZF, sorted, five columns, with peaks and TSSs."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pysam

from scmap_cli.runtime.compiled import compiled

#: lengths of the human autosomes and X in GRCh38, rounded down to Mb
CHROMS = {
    f"chr{name}": size * 1_000_000
    for name, size in zip(
        [*range(1, 23), "X"],
        [248, 242, 198, 190, 181, 170, 159, 145, 138, 133, 135, 133, 114, 107, 101, 90, 83, 80, 58, 64, 46, 50, 156],
        strict=True,
    )
}
_CHUNK = 1 << 20


@compiled
def _digits(out, p, value):  # type: ignore[no-untyped-def]
    size, rest = 1, value // 10
    while rest:
        size += 1
        rest //= 10
    for k in range(p + size - 1, p - 1, -1):
        out[k] = 48 + value % 10
        value //= 10
    return p + size


@compiled
def _rows(name, start, end, barcode, barcodes, support):  # type: ignore[no-untyped-def]
    out = np.empty(len(start) * 64, np.uint8)
    p = 0
    for i in range(len(start)):
        out[p : p + len(name)] = name
        p += len(name)
        out[p] = 9
        p = _digits(out, p + 1, start[i])
        out[p] = 9
        p = _digits(out, p + 1, end[i])
        out[p] = 9
        p += 1
        width = barcodes.shape[1]
        out[p : p + width] = barcodes[barcode[i]]
        p += width
        out[p] = 9
        p = _digits(out, p + 1, support[i])
        out[p] = 10
        p += 1
    return out[:p]


def make(folder: Path, fragments: int, cells: int, peaks: int, seed: int) -> None:
    """Write ``fragments.tsv.gz``, ``peaks.bed``, ``barcodes.txt``, ``tss.bed`` and ``chrom.sizes`` into ``folder``.

    Peaks are disjoint and 200 to 1,100 bp wide. 60 % of the fragments are centred near a peak; their lengths have a
    nucleosome-free part and one and two nucleosomes, so that some are longer than the narrowest peaks. Cells' depths
    are log-normal.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (2 * cells, 16))]
    letters = np.unique(letters, axis=0)[rng.permutation(cells)]
    barcodes = np.concatenate([letters, np.tile(np.frombuffer(b"-1", np.uint8), (cells, 1))], axis=1)
    (folder / "barcodes.txt").write_bytes(b"".join(bytes(row) + b"\n" for row in np.sort(barcodes.view("S18"), axis=0)))
    (folder / "chrom.sizes").write_text("".join(f"{name}\t{size}\n" for name, size in CHROMS.items()))
    depth = rng.lognormal(0, 0.6, cells)
    cumulative = np.cumsum(depth / depth.sum())
    genome = sum(CHROMS.values())
    with (
        (folder / "peaks.bed").open("w") as bed,
        (folder / "tss.bed").open("w") as tss,
        pysam.BGZFile(str(folder / "fragments.tsv.gz"), "wb") as packed,
    ):
        packed.write(b"# made by examples/benchmarks/fragments_data.py\n")
        for chrom, size in CHROMS.items():
            k, n = peaks * size // genome, fragments * size // genome
            step = size // (k + 1)
            low = np.arange(k) * step + rng.integers(0, step - 1200, k) + 1
            high = low + rng.integers(200, 1101, k)
            np.savetxt(bed, np.column_stack([low, high]), fmt=f"{chrom}\t%d\t%d")
            middle = (low + high) // 2
            for place in middle[::5]:
                tss.write(f"{chrom}\t{place}\t{place + 1}\tgene\t0\t+\n")
            near = rng.random(n) < 0.6
            weight = np.cumsum(rng.gamma(0.8, 1.0, k))
            which = np.searchsorted(weight / weight[-1], rng.random(n)).clip(0, k - 1)
            centre = np.where(near, middle[which] + rng.normal(0, 250, n).astype(int), rng.integers(0, size, n))
            kind = rng.choice(3, n, p=[0.6, 0.3, 0.1])
            length = rng.normal(np.array([80, 190, 380])[kind], np.array([30, 25, 40])[kind]).astype(int).clip(20, 900)
            start = (centre - length // 2).clip(0, size - 1000)
            start.sort()
            barcode = np.searchsorted(cumulative, rng.random(n)).clip(0, cells - 1)
            support = rng.geometric(0.5, n)
            name = np.frombuffer(chrom.encode(), np.uint8)
            for first in range(0, n, _CHUNK):
                part = slice(first, first + _CHUNK)
                ends = start[part] + length[part]
                packed.write(_rows(name, start[part], ends, barcode[part], barcodes, support[part]).tobytes())


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fragments", type=int, default=20_200_000)
    parser.add_argument("--cells", type=int, default=5_000)
    parser.add_argument("--peaks", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make(args.folder, args.fragments, args.cells, args.peaks, args.seed)


if __name__ == "__main__":
    main()
