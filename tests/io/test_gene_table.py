"""Gene tables: identifiers without versions, symbols that are a gene's alone, biotypes."""

from __future__ import annotations

import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.gene_table import read_gene_table, stem

TEXT = """gene_id\tgene_name\tgene_type
ENSG00000000001.4\tAAA\tprotein_coding
ENSG00000000002.1\tBBB\tlncRNA
ENSG00000000003.1\tTWICE\tprotein_coding
ENSG00000000004.1\tTWICE\tprotein_coding
ENSG00000000005.2\t\tprotein_coding
"""


def test_names_lead_to_symbols(tmp_path):
    (tmp_path / "t.tsv").write_text(TEXT)
    table = read_gene_table(tmp_path / "t.tsv")
    assert table.canonical["AAA"] == table.canonical["ENSG00000000001"] == "AAA"
    assert table.canonical["ENSG00000000005"] == "ENSG00000000005"
    assert "TWICE" not in table.canonical
    assert "ENSG00000000003" not in table.canonical
    assert (table.dropped_biotype, table.dropped_repeated) == (0, 2)


def test_one_biotype_is_kept(tmp_path):
    (tmp_path / "t.tsv").write_text(TEXT)
    table = read_gene_table(tmp_path / "t.tsv", "protein_coding")
    assert "BBB" not in table.canonical
    assert table.dropped_biotype == 1


@pytest.mark.parametrize(
    ("text", "biotype", "told"),
    [
        ("", None, "is empty"),
        ("x\ty\n1\t2\n", None, "names no column"),
        ("gene_id\tgene_name\nE\tA\n", "protein_coding", "no column of biotypes"),
        (TEXT, "tRNA", "no gene of biotype tRNA"),
        ("gene_id\tgene_name\nE\n", None, "line 2: 1 fields"),
    ],
)
def test_unfit_tables(tmp_path, text, biotype, told):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(InputError, match=told):
        read_gene_table(tmp_path / "t.tsv", biotype)


def test_only_versions_of_identifiers_are_cut():
    assert stem("ENSG00000000001.14") == "ENSG00000000001"
    assert stem("RP11-206L10.2") == "RP11-206L10.2"
