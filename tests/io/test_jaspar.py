"""Motifs are read from both forms of JASPAR's format, and damaged ones refused with their line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.jaspar import read_jaspar

LETTERED = """>MA0004.1\tArnt
A  [ 4 19 0 ]
C  [16  0 20 ]
G  [ 0  1 0 ]
T  [ 0  0 0 ]

>M2
t [1 1]
g [2 2]
c [3 3]
a [4.5 4]
"""
PLAIN = ">MA0004.1 Arnt::Ahr var.2\n4 19 0\n16 0 20\n0 1 0\n0 0 0\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_both_forms_give_counts_by_place_and_base(tmp_path: Path) -> None:
    one, two = read_jaspar(write(tmp_path / "a.txt", LETTERED))
    assert (one.id, one.name, one.label) == ("MA0004.1", "Arnt", "MA0004.1_Arnt")
    assert (two.id, two.name, two.label) == ("M2", "M2", "M2")
    np.testing.assert_array_equal(one.counts_l4, [[4, 16, 0, 0], [19, 0, 1, 0], [0, 20, 0, 0]])
    np.testing.assert_array_equal(two.counts_l4, [[4.5, 3, 2, 1], [4, 3, 2, 1]])
    (plain,) = read_jaspar(write(tmp_path / "b.txt", PLAIN))
    assert plain.name == "Arnt::Ahr var.2"
    np.testing.assert_array_equal(plain.counts_l4, one.counts_l4)
    with gzip.open(tmp_path / "c.gz", "wt") as handle:
        handle.write(LETTERED)
    assert len(read_jaspar(tmp_path / "c.gz")) == 2


def test_shares_are_those_of_a_hundred_sites(tmp_path: Path) -> None:
    (one,) = read_jaspar(write(tmp_path / "s.txt", ">M1\n.7 .251\n.1 .25\n.1 .25\n.1 .25\n"))
    np.testing.assert_allclose(one.counts_l4.sum(1), 100)
    np.testing.assert_allclose(one.counts_l4[0], [70, 10, 10, 10])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# none\n", "holds no motif"),
        ("1 2\n>M1\n", "line 1: a row of numbers before the first motif"),
        (">\n1 2\n", "line 1: a motif has no identifier"),
        (">M1 X\n1 2\n1 2\n1 2\n", "line 1: motif M1 lacks the row of T"),
        (">M1\n1 2\n1 2\n1 2\n1 2\n1 2\n", "line 6: a fifth row"),
        (">M1\nA [1 2]\nA [1 2]\n", "line 3: motif M1 has a second row of A"),
        (">M1\n1 2\n1 2\n1 2 3\n1 2\n", "line 1: the rows of motif M1 have 2, 2, 3, 2 places"),
        (">M1\n1 2\n1 x\n1 2\n1 2\n", "line 3: '1 x' is no row of a motif"),
        (">M1\nA [ ]\n", "line 2: a motif has 1 to 100 places, here 0"),
        (">M1\n1 -2\n", "line 2: a count is negative"),
        (">M1\n1 nan\n", "line 2: a count is negative or not finite"),
        (">M1\n1 0\n1 0\n1 0\n1 0\n", "place 2 of motif M1 has no count"),
        (PLAIN + PLAIN, "holds motif MA0004.1 twice"),
    ],
)
def test_damaged_motifs_are_told_by_line(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        read_jaspar(write(tmp_path / "bad.txt", text))
