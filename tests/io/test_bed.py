"""Regions, sizes and barcodes as text."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.bed import read_barcodes, read_bed, read_sizes, write_bed


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.bed", "a.bed.gz"])
def test_bed_of_any_width(tmp_path: Path, name: str) -> None:
    text = "track name=x\n#c\nchrom\tstart\tend\nchr2\t5\t10\nchr1\t0\t8\tn\t3.5\t+\nchr1 1 4\n\n"
    table = read_bed(write(tmp_path / name, text.replace("track name=x\n#c\n", "")))
    assert table[["chrom", "start", "end"]].to_numpy().tolist() == [["chr2", 5, 10], ["chr1", 0, 8], ["chr1", 1, 4]]
    np.testing.assert_array_equal(table["score"], [np.nan, 3.5, np.nan])
    assert table["summit"].tolist() == [7, 4, 2]
    assert len(read_bed(write(tmp_path / name, text.replace("chrom\tstart\tend\n", "")))) == 3


def test_narrow_peaks_bring_signal_and_summit(tmp_path: Path) -> None:
    text = "chr1\t100\t200\tp\t50\t.\t7.5\t3\t2\t30\nchr1\t300\t400\tp\t50\t.\t1.5\t3\t2\t-1\n"
    table = read_bed(write(tmp_path / "a.narrowPeak", text))
    assert table["score"].tolist() == [7.5, 1.5]
    assert table["summit"].tolist() == [130, 350]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t5\n", "line 1: chromosome, start and end"),
        ("chr1\t1\t2\nchr1\t9\t9\n", "line 2: start 9 is not below end 9"),
        ("chr1\t-1\t9\n", "line 1: start '-1' is not a position"),
        ("chr1\t1\t2147483648\n", "line 1: end '2147483648' is not a position"),
        ("chr1\t1\tx\n", "end 'x' is not a position"),
        ("# nothing\n", "holds no intervals"),
        ("chr1\t1\t9\tp\t0\t.\t1\t1\t1\t8\n", "the summit lies 8 from start 1"),
        ("", "is empty"),
    ],
)
def test_unfit_bed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_bed(write(tmp_path / "a.bed", text))


def test_bed_goes_there_and_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [0, 7], "end": [5, 9]})
    write_bed(tmp_path / "b.bed", table)
    assert (tmp_path / "b.bed").read_text() == "chr1\t0\t5\nchr2\t7\t9\n"
    pd.testing.assert_frame_equal(read_bed(tmp_path / "b.bed")[table.columns], table)


def test_sizes(tmp_path: Path) -> None:
    assert read_sizes(write(tmp_path / "s", "chr2\t50\nchr1 70\nMT\t5\t99\t60\t61\n")) == {
        "chr2": 50,
        "chr1": 70,
        "MT": 5,
    }
    for text, message in (("chr1\t0\n", "has no length"), ("chr1\t5\nchr1\t5\n", "line 2: chr1 is repeated")):
        with pytest.raises(InputError, match=message):
            read_sizes(write(tmp_path / "s", text))
    with pytest.raises(InputError, match="is not a position"):
        read_sizes(write(tmp_path / "s", "chr1\tx\n"))
    with pytest.raises(InputError, match="a chromosome and its length"):
        read_sizes(write(tmp_path / "s", "chr1\n"))


def test_barcodes(tmp_path: Path) -> None:
    assert read_barcodes(write(tmp_path / "b.txt.gz", "barcode\tkind\nB-1\tx\n\nA-1\ty\n")) == ["B-1", "A-1"]
    assert read_barcodes(write(tmp_path / "b.txt", "B-1\r\nA-1\r\n")) == ["B-1", "A-1"]
    with pytest.raises(InputError, match="line 2: the barcode 'A' is repeated"):
        read_barcodes(write(tmp_path / "b.txt", "A\nA\n"))
    with pytest.raises(InputError, match="holds no barcodes"):
        read_barcodes(write(tmp_path / "b.txt", "# none\n"))
