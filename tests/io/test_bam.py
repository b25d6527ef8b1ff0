"""Read pairs of a BAM file become the fragments they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pysam
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io import bam
from scmap_cli.io.bam import BamOptions, bam_blocks, is_bam

HEADER = {"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr1", "LN": 10_000}, {"SN": "chr2", "LN": 10_000}]}
RAW = BamOptions(shift_start=0, shift_end=0)


def pair(name: str, chrom: int, start: int, end: int, barcode: str | None = "AC-1", flag: int = 0, mapq=(60, 60)):
    """Two reads of 20 bases at the ends of ``start..end``."""
    reads = []
    for place, other, own, quality in ((start, end - 20, 99, mapq[0]), (end - 20, start, 147, mapq[1])):
        read = pysam.AlignedSegment(pysam.AlignmentHeader.from_dict(HEADER))
        read.query_name, read.query_sequence, read.flag = name, "A" * 20, own | flag
        read.reference_id = read.next_reference_id = chrom
        read.reference_start, read.next_reference_start = place, other
        read.mapping_quality, read.cigarstring = quality, "20M"
        read.template_length = (end - start) if own == 99 else start - end
        if barcode is not None:
            read.set_tag("CB", barcode)
        reads.append(read)
    return reads


def write(path: Path, pairs: list, order: str = "coordinate") -> Path:
    reads = [read for one in pairs for read in one]
    if order == "coordinate":
        reads.sort(key=lambda read: (read.reference_id, read.reference_start))
    header = HEADER | {"HD": HEADER["HD"] | {"SO": order}}
    with pysam.AlignmentFile(str(path), "wb", header=header) as file:
        for read in reads:
            file.write(read)
    return path


def found(path: Path, options: BamOptions = RAW) -> list[tuple]:
    rows = []
    for block in bam_blocks(path, options):
        names = [block.text[at : at + length].tobytes().decode() for at, length in block.places.tolist()]
        for chrom, start, end, cell, support in zip(
            block.chrom, block.start, block.end, block.barcode, block.support, strict=True
        ):
            rows.append((block.chroms[chrom], int(start), int(end), names[cell], int(support)))
    return sorted(rows)


PAIRS = [
    pair("r1", 0, 100, 300),
    pair("r2", 0, 150, 260, "GT-1"),
    pair("r3", 1, 50, 90),
    pair("r4", 0, 100, 300),
    pair("r5", 0, 400, 500, mapq=(60, 10)),
    pair("r6", 0, 400, 600, flag=0x400),
    pair("r7", 0, 400, 700, flag=0x100),
    pair("r8", 0, 400, 800, None),
]
TRUTH = [("chr1", 100, 300, "AC-1", 2), ("chr1", 150, 260, "GT-1", 1), ("chr2", 50, 90, "AC-1", 1)]


@pytest.mark.parametrize("order", ["coordinate", "queryname"])
def test_pairs_that_pass_are_fragments_and_copies_count_once(tmp_path: Path, order: str) -> None:
    assert found(write(tmp_path / "a.bam", PAIRS, order)) == TRUTH


def test_reads_whose_mates_do_not_pass_are_let_go_of_by_chromosome(tmp_path: Path) -> None:
    pairs = [pair(f"good{c}", c, 100, 300) for c in (0, 1)]
    pairs += [pair(f"lone{c}-{i}", c, 400 + i, 600 + i, mapq=(60, 0)) for c in (0, 1) for i in range(50)]
    held = []
    with pysam.AlignmentFile(str(write(tmp_path / "a.bam", pairs)), "rb") as file:
        blocks = bam._read(tmp_path / "a.bam", file, RAW)
        for _ in blocks:
            held.append(len(blocks.gi_frame.f_locals["waiting"]))
    assert held[0] <= 1
    assert held[1] == 50


def test_filters_can_be_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bam", PAIRS)
    assert ("chr1", 400, 500, "AC-1", 1) in found(path, replace(RAW, min_mapq=10))
    copies = found(path, replace(RAW, keep_duplicates=True))
    assert copies.count(("chr1", 100, 300, "AC-1", 1)) == 2
    assert ("chr1", 400, 600, "AC-1", 1) in copies


def test_ends_are_moved_to_the_cuts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bam", PAIRS)
    assert found(path, BamOptions())[0] == ("chr1", 104, 295, "AC-1", 2)


def test_the_barcode_may_be_in_the_name_of_the_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bam", [pair("ACGT:1:2", 0, 1, 99, None), pair("x_TTTT:9", 0, 5, 99, None)])
    assert [row[3] for row in found(path, replace(RAW, barcode_from="name"))] == ["ACGT", "x_TTTT"]
    named = replace(RAW, barcode_from="name", barcode_regex=r"_([ACGT]+):")
    assert [row[3] for row in found(path, named)] == ["TTTT"]
    with pytest.raises(InputError, match="none of 2 read pairs has a barcode in CB"):
        found(path)


def test_reads_without_a_mate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 2 reads is of a proper pair"):
        found(write(tmp_path / "a.bam", [one[:1] for one in PAIRS[:2]]))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.bam", [pair(f"r{i}", 0, 10 + i, 200 + i) for i in range(3000)]).read_bytes()
    assert is_bam(tmp_path / "a.bam")
    for cut in (len(whole) - 28, len(whole) // 2):
        (tmp_path / "cut.bam").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="truncated or corrupt"):
            found(tmp_path / "cut.bam")
        with pytest.raises(InputError, match="truncated"):
            is_bam(tmp_path / "cut.bam")


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("chr1\t1\t2\tA\n")
    assert not is_bam(tmp_path / "a.tsv")
    (tmp_path / "a.cram").write_bytes(b"CRAM\3\0")
    with pytest.raises(InputError, match="CRAM"):
        is_bam(tmp_path / "a.cram")


def test_sizes_of_another_genome_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bam", PAIRS)
    assert list(bam_blocks(path, RAW, sizes={"chr1": 10_000, "chrX": 5}))
    with pytest.raises(InputError, match="aligned to chr2 of 10000 bases, and --chrom-sizes has 9000"):
        list(bam_blocks(path, RAW, sizes={"chr2": 9000}))
