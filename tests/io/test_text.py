"""Text tables: any separator, orientation and compression give the same counts; bad lines are told by number."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io import text
from scmap_cli.io.rna import read_rna
from scmap_cli.io.text import open_text, read_text_matrix

DENSE = np.random.default_rng(0).poisson(0.6, (7, 5))
CELLS, GENES = [f"c{i}" for i in range(7)], [f"g{i}" for i in range(5)]


def table(separator: str = "\t", corner: str | None = "name", transpose: bool = False, end: str = "\n") -> str:
    values, rows, columns = (DENSE.T, GENES, CELLS) if transpose else (DENSE, CELLS, GENES)
    lines = [separator.join(([] if corner is None else [corner]) + columns)]
    lines += [separator.join([name, *map(str, row)]) for name, row in zip(rows, values, strict=True)]
    return end.join(lines) + end


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";"), ("a.txt", " ")])
@pytest.mark.parametrize("corner", ["name", "", None])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_layout_reads_equal(
    tmp_path: Path, name: str, separator: str, corner: str | None, transpose: bool, zipped: bool
) -> None:
    content = table(separator, corner, transpose).encode()
    path = tmp_path / (name + ".gz" if zipped else name)
    path.write_bytes(gzip.compress(content) if zipped else content)
    adata = read_rna(path, transpose=transpose)
    np.testing.assert_array_equal(adata.X.toarray(), DENSE)
    assert adata.obs_names.tolist() == CELLS
    assert adata.var_names.tolist() == GENES
    assert adata.X.dtype == np.float32


@pytest.mark.parametrize("gene", ["GAPDH", "Gapdh", "ENSG00000111640", "ENSMUSG00000057666.15"])
@pytest.mark.parametrize("transpose", [False, True])
def test_genes_on_the_side_of_the_cells_are_refused(tmp_path: Path, gene: str, transpose: bool) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(table(transpose=transpose).replace("g3", gene))
    assert read_rna(path, transpose=transpose).var_names[3] == gene
    with pytest.raises(InputError, match=gene) as caught:
        read_rna(path, transpose=not transpose)
    assert "--transpose" in caught.value.hint
    path.write_text(table(transpose=transpose).replace("g3", gene).replace("c3", "ACTB"))
    assert read_rna(path, transpose=not transpose).obs_names[3] == gene  # either side may be the genes


@pytest.mark.parametrize("content", [table(end="\r\n"), "\ufeff" + table(), table().replace("\nc3", "\n\n\nc3")])
def test_windows_ends_marks_and_blank_lines_are_harmless(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content.encode())
    np.testing.assert_array_equal(read_text_matrix(tmp_path / "a.tsv").X.toarray(), DENSE)


def test_quoted_names_may_hold_the_separator(tmp_path: Path) -> None:
    content = table(",").replace("c3", '"c,3"').replace("g1", '"g,1"')
    (tmp_path / "a.csv").write_text(content)
    adata = read_text_matrix(tmp_path / "a.csv")
    assert adata.obs_names[3] == "c,3"
    assert adata.var_names[1] == "g,1"
    np.testing.assert_array_equal(adata.X.toarray(), DENSE)


@pytest.mark.parametrize("where", ["g1", "c3"])
def test_a_quote_that_is_not_closed_is_told(tmp_path: Path, where: str) -> None:
    (tmp_path / "a.tsv").write_text(table().replace(where, '"' + "g" * 140_000))
    with pytest.raises(InputError, match=r"a\.tsv cannot be split into fields") as caught:
        read_text_matrix(tmp_path / "a.tsv")
    assert caught.value.hint == 'look for a stray " in it'


def test_names_that_look_like_missing_values_are_names(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(table().replace("c3", "NA").replace("c4", "007"))
    assert read_text_matrix(tmp_path / "a.tsv").obs_names[3:5].tolist() == ["NA", "007"]


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tsv").write_text(table())
    monkeypatch.setattr(text, "_BLOCK_BYTES", 20)
    np.testing.assert_array_equal(read_text_matrix(tmp_path / "a.tsv").X.toarray(), DENSE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c4\t1\t2\t3\t4", "line 6: 5 fields, 6 expected"),
        ("c4\t1\t2\t3\t4\t5\t6", "line 6: 7 fields, 6 expected"),
        ("c4\t1\t2\tmany\t4\t5", "line 6, column 'g2': 'many'"),
        ("c4\t1\t2\t\t4\t5", "line 6, column 'g2': ''"),
        ("c4\t1\tNA\t3\t4\t5", "line 6, column 'g1': 'NA'"),
        ("c4\t1\tinf\t3\t4\t5", "line 6, column 'g1': 'inf'"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    lines = table().splitlines()
    lines[5] = line
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        read_text_matrix(tmp_path / "a.tsv")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_truncated_gzip_is_refused(tmp_path: Path, share: float) -> None:
    data = gzip.compress(table().encode())
    (tmp_path / "a.tsv.gz").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError):
        read_text_matrix(tmp_path / "a.tsv.gz")


def test_bgzf_without_its_last_block_is_refused(tmp_path: Path) -> None:
    head = bytes.fromhex("1f8b08040000000000ff0600424302001b00")
    whole = head + bytes.fromhex("0300") + bytes(8)
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(whole)
    with open_text(path) as handle:
        assert handle.read() == ""
    path.write_bytes(whole[:-4] + b"\x01" + whole[-3:])
    with pytest.raises(InputError, match="BGZF"), open_text(path):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"name\tg0\n", b"name\nc0\n", b"\xff\xfe\x00\x81", b"a\tb\nc0\t\xff\n"]
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(InputError):
        read_text_matrix(tmp_path / "a.tsv")


@pytest.mark.parametrize("name", ["a.bam", "a.rds", "a.zarr"])
def test_unknown_forms_are_refused_with_what_is_known(tmp_path: Path, name: str) -> None:
    if name.endswith(".zarr"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(InputError) as caught:
        read_rna(tmp_path / name)
    assert "10x" in str(caught.value.hint)
