"""Chromosomes in the order that people expect."""

from __future__ import annotations

from scmap_cli.data.peaks import chromosome_order


def test_numbers_are_in_order_and_letters_behind_them() -> None:
    names = ["chrX", "chr10", "chr2", "chrM", "chr1", "chr2", "chr1_random", "chrY"]
    assert chromosome_order(names) == ["chr1", "chr1_random", "chr2", "chr10", "chrM", "chrX", "chrY"]
    assert chromosome_order(["X", "11", "2"]) == ["2", "11", "X"]
