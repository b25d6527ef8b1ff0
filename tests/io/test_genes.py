"""Genes of BED and GTF files: coordinates, strands, names, start sites, and broken rows by number."""

from __future__ import annotations

import gzip

import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.genes import read_genes, read_tss

GTF = """#!genome-build X
chr1\tsrc\tgene\t101\t200\t.\t+\t.\tgene_id "E1"; gene_name "A";
chr1\tsrc\texon\t101\t150\t.\t+\t.\tgene_id "E1"; gene_name "A";
chr2\tsrc\tgene\t1\t50\t.\t-\t.\tgene_id "E2";
"""


def as_rows(genes):
    columns = (genes.names, genes.chrom, genes.start, genes.end, genes.forward)
    return list(zip(*(column.tolist() for column in columns), strict=True))


WANTED = [("A", "chr1", 100, 200, True), ("E2", "chr2", 0, 50, False)]


@pytest.mark.parametrize(
    "text",
    [
        GTF,
        "chr1\t100\t200\tA\t0\t+\nchr2\t0\t50\tE2\t0\t-\n",
        "track name=x\nchr1\t100\t200\tA\t+\r\nchr2\t0\t50\tE2\t-\r\n",
        "chr1\t100\t200\tA\t5\t+\t100\t200\t0\n\nchr2\t0\t50\tE2\t5\t-\t0\t0\t0\n",
    ],
    ids=["gtf", "bed6", "bed with strand in the fifth", "bed9"],
)
def test_every_form(tmp_path, text):
    (tmp_path / "g").write_text(text, newline="")
    with gzip.open(tmp_path / "g.gz", "wt") as handle:
        handle.write(text)
    assert as_rows(read_genes(tmp_path / "g")) == as_rows(read_genes(tmp_path / "g.gz")) == WANTED


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("chr1\t1\t2\tA\t0\t+\nchr1\t5\t5\tB\t0\t+\n", "line 2: start 5 is not below end 5"),
        ("chr1\t1\t2\tA\t0\t.\n", "line 1: the strand of 'A'"),
        ("chr1\t1\t2\n", "line 1: a gene has no name"),
        ("chr1\tx\t2\tA\t0\t+\n", "line 1: start 'x' is not a position"),
        ("chr1\t-1\t2\tA\t0\t+\n", "line 1: start '-1' is not a position"),
        ("chr1\t1\t2\t\t0\t+\n", "line 1: a gene has no name"),
        ('chr1\ts\tgene\t1\t2\t.\t+\t.\tother "x";\n', "line 1: a gene has no name"),
        ('chr1\ts\tgene\t0\t2\t.\t+\t.\tgene_id "x";\n', "line 1: start 0, but GTF counts from 1"),
        ('chr1\ts\texon\t1\t2\t.\t+\t.\tgene_id "x";\n', "holds no gene"),
        ("# nothing\n", "holds no gene"),
        ("", "is empty"),
    ],
)
def test_broken_files(tmp_path, text, match):
    (tmp_path / "g.bed").write_text(text)
    with pytest.raises(InputError, match=match):
        read_genes(tmp_path / "g.bed")


def sites(path, text):
    path.write_text(text)
    return read_tss(path).to_numpy().tolist()


def test_start_sites_of_bed_depend_on_the_strand(tmp_path):
    six = "chr1\t10\t20\tA\t0\t+\nchr1\t10\t20\tB\t0\t-\nchr1\t10\t30\tC\t0\t+\n"
    assert sites(tmp_path / "a.bed", six) == [["chr1", 10], ["chr1", 19]]
    assert sites(tmp_path / "a.bed", "chr1\t10\t20\tA\t-\n") == [["chr1", 19]]
    assert sites(tmp_path / "a.bed", "chr1\t10\t11\n") == [["chr1", 10]]
    with pytest.raises(InputError, match="10 bases without a strand"):
        sites(tmp_path / "a.bed", "chr1\t10\t20\n")


def test_start_sites_of_gtf_are_those_of_transcripts_else_genes(tmp_path):
    gene = 'chr1\tsrc\tgene\t11\t20\t.\t-\t.\tgene_id "a";\n'
    transcript = 'chr1\tsrc\ttranscript\t13\t20\t.\t+\t.\tgene_id "a";\n'
    assert sites(tmp_path / "a.gtf", gene) == [["chr1", 19]]
    assert sites(tmp_path / "a.gtf", gene + transcript) == [["chr1", 12]]
    with pytest.raises(InputError, match="holds no genes"):
        sites(tmp_path / "a.gtf", gene.replace("gene\t", "exon\t"))
