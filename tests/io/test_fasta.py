"""Sequences of regions: by any index or none, plain or bgzip; other genomes are refused, and nothing is left behind."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pysam
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.fasta import UNKNOWN, read_regions

SEQUENCES = {"chr1": "ACGTNacgtRAC", "chr2": "GGGCCCTTTAAA"}


def genome(path: Path, width: int = 5) -> Path:
    lines = []
    for name, text in SEQUENCES.items():
        lines += [f">{name} told", *(text[i : i + width] for i in range(0, len(text), width))]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path, *regions: tuple[str, int, int]) -> list[list[int]]:
    chrom, start, end = (np.array(column) for column in zip(*regions, strict=True))
    return [codes.tolist() for codes in read_regions(path, chrom, start, end)]


def test_regions_are_codes_of_bases_and_the_folder_stays_clean(tmp_path: Path) -> None:
    path = genome(tmp_path / "g.fa")
    expected = [[0, 1, 2, 3, UNKNOWN, 0, 1, 2, 3, UNKNOWN, 0, 1], [3, 0, 0], [3, UNKNOWN, 0]]
    regions = (("chr1", 0, 12), ("chr2", 8, 11), ("chr1", 3, 6))
    assert read(path, *regions) == expected
    assert [file.name for file in tmp_path.iterdir()] == ["g.fa"]
    pysam.tabix_compress(str(path), str(tmp_path / "g.fa.gz"))
    assert read(tmp_path / "g.fa.gz", *regions) == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.fa", "g.fa.gz"]


def test_an_index_is_used_unless_it_is_older_than_the_file(tmp_path: Path) -> None:
    path = genome(tmp_path / "g.fa", width=5)
    pysam.faidx(str(path))
    before = (tmp_path / "g.fa.fai").read_bytes()
    assert read(path, ("chr2", 0, 4)) == [[2, 2, 2, 1]]
    genome(path, width=3)
    os.utime(path, (os.stat(path).st_atime, os.stat(f"{path}.fai").st_mtime + 10))
    assert read(path, ("chr2", 0, 4)) == [[2, 2, 2, 1]]
    assert (tmp_path / "g.fa.fai").read_bytes() == before


def test_another_genome_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = genome(tmp_path / "g.fa")
    with pytest.raises(InputError, match=r"1 chromosomes of the peaks are not in .*: 'chr9' \(it has 'chr1', 'chr2'\)"):
        read(path, ("chr1", 0, 2), ("chr9", 0, 2))
    with pytest.raises(InputError, match=r"1 peaks reach beyond the end .* chr2:8-13 of 12 bases"):
        read(path, ("chr1", 0, 12), ("chr2", 8, 13))
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.fa", ("chr1", 0, 2))
    (tmp_path / "text.fa").write_text("no sequences here\n")
    with pytest.raises(InputError, match="cannot be read as FASTA"):
        read(tmp_path / "text.fa", ("chr1", 0, 2))
    with gzip.open(tmp_path / "plain.fa.gz", "wt") as handle:
        handle.write(path.read_text())
    with pytest.raises(InputError, match="packed by gzip, not bgzip"):
        read(tmp_path / "plain.fa.gz", ("chr1", 0, 2))
