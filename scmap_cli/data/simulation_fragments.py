"""Fragments that give a simulated matrix back: placed inside the peaks of each count, and in windows of background.

Each count of a peak becomes one fragment that lies wholly in that peak, so counting overlaps gives the matrix and
counting cut sites twice the matrix. The two fragments of a count of 2 begin at places of different parity, so that none
is taken for a duplicate of the other. Background is drawn as SCAN-ATAC-Sim does it
(doi:10.1093/bioinformatics/btaa1039): windows of 1,000 bp that keep 1,000 bp away from every peak, without replacement
within each of two alleles. The released tool weighs them by bulk reads; here they weigh alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.data.peaks import Peaks
from scmap_cli.data.simulation_atac import draw_distinct
from scmap_cli.errors import InputError
from scmap_cli.runtime.threads import current_threads

_WINDOW = 1000
# Lengths of fragments: log-normal, around those without a nucleosome.
_LENGTH, _LENGTH_SD, _SHORTEST, _LONGEST = 100.0, 0.5, 20, 1000
_BLOCK = 256


@dataclass(frozen=True)
class Fragments:
    """Fragments of one chromosome, sorted by start, end and cell: (m,) int64, ``cell`` is the row in the matrix."""

    chrom: str
    start: np.ndarray
    end: np.ndarray
    cell: np.ndarray


def check_fragment_peaks(peaks: Peaks) -> None:
    """Refuse peaks in which fragments cannot be placed so that counting them gives the matrix.

    Raises
    ------
    InputError
        Peaks overlap, or one is shorter than 2 bp.
    """
    overlapping = peaks.overlapping()
    if overlapping:
        raise InputError(f"{overlapping} peaks overlap others, so a fragment would count for both", "merge them first")
    if int((peaks.end - peaks.start).min()) < 2:
        raise InputError("a peak is shorter than 2 bp, too short for two fragments", "give wider peaks")


def fragments_by_chromosome(
    counts: sparse.csr_matrix, peaks: Peaks, depth_n: np.ndarray, seed: int = 0
) -> Iterator[Fragments]:
    """All fragments of a simulation, one chromosome at a time in the order in which the peaks name them.

    Parameters
    ----------
    counts
        (n, P) counts of at most 2.
    peaks
        Positions, see :func:`check_fragment_peaks`.
    depth_n
        (n,) fragments of each cell; what is beyond its counts is background. Where there are not enough windows, a
        cell gets all of them.
    seed
        Same arguments and seed, same fragments.
    """
    in_peaks, background = np.random.SeedSequence([seed, 1]).spawn(2)
    names = [str(name) for name in pd.unique(peaks.chrom)]
    windows = [_windows(peaks.start[here], peaks.end[here]) for here in (peaks.chrom == name for name in names)]
    offset = np.cumsum([0, *map(len, windows)])
    inside_n = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel().astype(np.int64)
    window_m, cell_m, allele_m = _background(background, int(offset[-1]), depth_n - inside_n)
    by_peak = counts.tocsc()
    for which, (name, seeds) in enumerate(zip(names, in_peaks.spawn(len(names)), strict=True)):
        rng = np.random.default_rng(seeds)
        columns = np.flatnonzero(peaks.chrom == name)
        part = by_peak[:, columns]
        number = part.data.astype(np.int64)
        peak = np.repeat(columns[np.repeat(np.arange(len(columns)), np.diff(part.indptr))], number)
        second = np.arange(len(peak)) - np.repeat(np.cumsum(number) - number, number)
        first, last = np.searchsorted(window_m, offset[which : which + 2])
        edge = windows[which][window_m[first:last] - offset[which]]
        start, end = _place(
            rng,
            np.concatenate([peaks.start[peak], edge]),
            np.concatenate([peaks.end[peak], edge + _WINDOW]),
            np.concatenate([second, allele_m[first:last].astype(np.int64)]),
        )
        cell = np.concatenate([np.repeat(part.indices.astype(np.int64), number), cell_m[first:last].astype(np.int64)])
        order = np.lexsort((cell, end, start))
        yield Fragments(name, start[order], end[order], cell[order])


def fragment_lines(fragments: Fragments, cell_names: np.ndarray, rows: int = 1 << 19) -> Iterator[bytes]:
    """The fragments as tab-separated lines ``chrom start end cell 1``, in pieces of so many lines."""
    names = np.asarray(cell_names).astype(bytes)
    name_width = names.dtype.itemsize
    letters = names.view(np.uint8).reshape(len(names), name_width)
    head = np.frombuffer(f"{fragments.chrom}\t".encode(), dtype=np.uint8)
    tail = np.frombuffer(b"\t1\n", dtype=np.uint8)
    tab = np.frombuffer(b"\t", dtype=np.uint8)
    for first in range(0, len(fragments.start), rows):
        part = slice(first, first + rows)
        m = len(fragments.start[part])
        columns = [
            np.broadcast_to(head, (m, len(head))),
            _digits(fragments.start[part]),
            np.broadcast_to(tab, (m, 1)),
            _digits(fragments.end[part]),
            np.broadcast_to(tab, (m, 1)),
            letters[fragments.cell[part]],
            np.broadcast_to(tail, (m, len(tail))),
        ]
        text = np.concatenate(columns, axis=1)
        # Zero bytes are what shorter numbers and names leave empty.
        yield text[text != 0].tobytes()


def _digits(values: np.ndarray) -> np.ndarray:
    """(m, w) ASCII digits, with zero bytes in place of leading zeros."""
    width = len(str(int(values.max(initial=0))))
    power = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    text = np.empty((len(values), width), dtype=np.uint8)
    for at, ten in enumerate(power.tolist()):
        high = values // ten
        text[:, at] = np.where((high > 0) | (ten == 1), high % 10 + ord("0"), 0)
    return text


def _windows(start_p: np.ndarray, end_p: np.ndarray) -> np.ndarray:
    """Starts of the windows of a chromosome, up to its last peak, that keep a window's length from every peak."""
    start_w = np.arange(0, int(end_p.max()), _WINDOW, dtype=np.int64)
    order = np.argsort(start_p, kind="stable")
    start_p, end_p = start_p[order], np.maximum.accumulate(end_p[order])
    # The last peak that begins before the far border of the window, and where it ends.
    before = np.searchsorted(start_p, start_w + 2 * _WINDOW, side="left") - 1
    reach = np.where(before >= 0, end_p[np.maximum(before, 0)], -_WINDOW)
    return start_w[reach <= start_w - _WINDOW]


def _background(
    seeds: np.random.SeedSequence, n_windows: int, wanted_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows in ascending order with cell and allele of each background fragment, as int32, int32 and uint8."""
    starts = range(0, len(wanted_n), _BLOCK)

    def block(job: tuple[int, np.random.SeedSequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start, seed = job
        rng = np.random.default_rng(seed)
        drawn: list[np.ndarray] = []
        lengths: list[int] = []
        for wanted in wanted_n[start : start + _BLOCK].tolist():
            for half in (wanted - wanted // 2, wanted // 2):
                drawn.append(
                    draw_distinct(
                        rng,
                        n_windows,
                        lambda size: rng.integers(n_windows, size=size),
                        lambda: np.ones(n_windows),
                        half,
                    )
                )
                lengths.append(len(drawn[-1]))
        row = np.repeat(np.arange(len(lengths)), lengths)
        return np.concatenate(drawn).astype(np.int32), (start + row // 2).astype(np.int32), (row % 2).astype(np.uint8)

    with ThreadPoolExecutor(min(current_threads(), 8)) as pool:
        results = list(pool.map(block, zip(starts, seeds.spawn(len(starts)), strict=True)))
    window_m, cell_m, allele_m = (np.concatenate(parts) for parts in zip(*results, strict=True))
    order = np.argsort(window_m, kind="stable")
    return window_m[order], cell_m[order], allele_m[order]


def _place(
    rng: np.random.Generator, low: np.ndarray, high: np.ndarray, parity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of fragments within [low, high); a start is even or odd, counted from ``low``, by ``parity``."""
    length = np.rint(rng.lognormal(np.log(_LENGTH), _LENGTH_SD, size=len(low))).astype(np.int64)
    length = np.minimum(np.clip(length, _SHORTEST, _LONGEST), high - low - 1)
    room = (high - low - length - parity) // 2
    start = low + parity + 2 * np.floor(rng.random(len(low)) * (room + 1)).astype(np.int64)
    return start, start + length
