"""Chromosomes in the order that people expect."""

from __future__ import annotations

import numpy as np

from scmap_cli.data.peaks import Peaks, chromosome_order


def test_numbers_are_in_order_and_letters_behind_them() -> None:
    names = ["chrX", "chr10", "chr2", "chrM", "chr1", "chr2", "chr1_random", "chrY"]
    assert chromosome_order(names) == ["chr1", "chr1_random", "chr2", "chr10", "chrM", "chrX", "chrY"]
    assert chromosome_order(["X", "11", "2"]) == ["2", "11", "X"]


def test_peaks_by_chromosome() -> None:
    chrom = np.array(["chr10", "chr2", "chr10", "chr2"])
    order, names, sizes = Peaks(chrom, np.array([5, 9, 5, 1]), np.array([9, 12, 7, 3])).by_chromosome()
    assert (order.tolist(), names, sizes.tolist()) == ([3, 1, 2, 0], ["chr2", "chr10"], [2, 2])
