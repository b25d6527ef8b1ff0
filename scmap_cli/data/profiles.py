"""What fragments look like as a whole: how long they are, and where they are cut around transcription start sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scmap_cli.io.fragments import Block

LONGEST = 1000
"""Fragments of more bases count as so long."""

REACH = 2000
"""Bases on either side of a start site."""


@dataclass
class Profile:
    """Tallies: ``lengths``, (1001,) int64 by bases; ``cuts``, (4001,) int64 by place, None without start sites."""

    lengths: np.ndarray
    cuts: np.ndarray | None

    def __add__(self, other: Profile) -> Profile:
        """Tallies of both."""
        cuts = None if self.cuts is None or other.cuts is None else self.cuts + other.cuts
        return Profile(self.lengths + other.lengths, cuts)


@dataclass(frozen=True)
class Profiler:
    """Takes tallies of blocks; ``sites`` are sorted positions by chromosome, None for lengths alone."""

    sites: Mapping[str, np.ndarray] | None

    @classmethod
    def around(cls, tss: pd.DataFrame | None) -> Profiler:
        """A profiler around start sites of a table with ``chrom`` and ``position``; a place counts once."""
        if tss is None:
            return cls(None)
        return cls({str(chrom): np.unique(part["position"].to_numpy()) for chrom, part in tss.groupby("chrom")})

    def of(self, block: Block) -> Profile:
        """Tallies of all fragments of a block, whatever their barcodes; safe in threads."""
        start, end = np.asarray(block.start, dtype=np.int64), np.asarray(block.end, dtype=np.int64)
        lengths = np.bincount(np.minimum(end - start, LONGEST), minlength=LONGEST + 1)
        if self.sites is None:
            return Profile(lengths, None)
        cuts = np.zeros(2 * REACH + 1, dtype=np.int64)
        for code, chrom in enumerate(block.chroms):
            sites = self.sites.get(chrom)
            if sites is None:
                continue
            rows = np.asarray(block.chrom) == code
            places = np.concatenate([start[rows], end[rows] - 1])
            first = np.searchsorted(sites, places - REACH)
            last = np.searchsorted(sites, places + REACH, side="right")
            # A cut near several sites counts at each of them.
            while (near := first < last).any():
                places, first, last = places[near], first[near], last[near]
                cuts += np.bincount(places - sites[first] + REACH, minlength=2 * REACH + 1)
                first = first + 1
        return Profile(lengths, cuts)
