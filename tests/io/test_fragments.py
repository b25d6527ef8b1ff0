"""Fragment files: the same rows in every form, with any number of threads, and no cut or bad file that passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fragment_files import SIZES, as_text, fragments, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmap_cli.errors import InputError
from scmap_cli.io import bgzf, parsing
from scmap_cli.io.fragments import BadRows, Block, map_blocks
from scmap_cli.io.parsing import NameTable

FORMS = ["f.tsv", "f.tsv.gz", "f.tsv.bgz"]


def rows_of(block: Block) -> pd.DataFrame:
    names = [block.text[at : at + length].tobytes().decode() for at, length in block.places.tolist()]
    return pd.DataFrame(
        {
            "chrom": [block.chroms[i] for i in block.chrom],
            "start": block.start,
            "end": block.end,
            "barcode": [names[i] for i in block.barcode],
        }
    )


def read(path: Path, **options) -> pd.DataFrame:
    parts = list(map_blocks(path, rows_of, **options))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few hundred bytes, so that most rows lie across two of them."""
    monkeypatch.setattr(bgzf, "_TEXT_BYTES", 271)
    monkeypatch.setattr(bgzf, "_PACKED_BYTES", 4096)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.usefixtures("small_pieces")
def test_rows_come_as_they_stand_in_the_file(tmp_path: Path, name: str, columns: int, threads: int) -> None:
    truth = fragments(4000)
    found = read(write(tmp_path / name, as_text(truth, columns)), threads=threads)
    pd.testing.assert_frame_equal(found, truth[found.columns], check_dtype=False)


def test_whole_pieces_give_the_same(tmp_path: Path) -> None:
    truth = fragments(4000)
    found = read(write(tmp_path / "f.tsv.bgz", as_text(truth)))
    pd.testing.assert_frame_equal(found, truth[found.columns], check_dtype=False)


def test_headers_and_empty_lines_are_passed_over_and_many_names_are_held(tmp_path: Path) -> None:
    rows = [f"contig_{i}\t{i}\t{i + 1}\tcell{'x' * (i % 40)}{i}" for i in range(20_000)]
    rows[100:100] = ["# inside", "", "#"]
    found = read(write(tmp_path / "f.tsv", "\n".join(rows) + "\n\n"))
    assert found["chrom"].tolist() == [f"contig_{i}" for i in range(20_000)]
    assert found["barcode"].tolist() == [f"cell{'x' * (i % 40)}{i}" for i in range(20_000)]
    assert found["start"].tolist() == list(range(20_000))


def test_support_is_read_on_request(tmp_path: Path) -> None:
    truth = fragments(500)
    path = write(tmp_path / "f.tsv", as_text(truth))
    found = np.concatenate(list(map_blocks(path, lambda block: block.support, with_support=True)))
    assert found.tolist() == truth["support"].tolist()
    assert all(len(one) == 0 for one in map_blocks(path, lambda block: block.support))


def test_the_last_row_needs_no_line_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = fragments(50)
    path = write(tmp_path / "f.tsv", as_text(truth).rstrip("\n"))
    assert len(read(path)) == len(truth)
    assert "may have been cut" in caplog.text


BAD = {
    "chr1\t5\t9": "3 columns, 4 or 5 expected",
    "chr1": "1 column, 4 or 5 expected",
    "chr1\t5\t9\tA\t1\t+": "6 columns, 4 or 5 expected",
    "chr1 5 9 A": "1 column",
    "chrom\tstart\tend\tbarcode": "start 'start' is not a whole number",
    "chr1\t-5\t9\tA": "start '-5' is not a whole number",
    "chr1\t5.0\t9\tA": "start '5.0' is not a whole number",
    "chr1\t\t9\tA": "start '' is not a whole number",
    "chr1\t5\t9x\tA": "end '9x' is not a whole number",
    "chr1\t5\t 9\tA": "end ' 9' is not a whole number",
    "chr1\t9\t9\tA": "start 9 is not below end 9",
    "chr1\t10\t9\tA": "start 10 is not below end 9",
    "chr1\t5\t2147483648\tA": "end 2147483648 is too large",
    "chr1\t5\t99999999999999999999999\tA": "is too large",
    "chr1\t4294967301\t9\tA": "start 4294967301 is too large",
    "chr1\t5\t9\t": "the barcode is empty",
    "chr1\t5\t9\t\t2": "the barcode is empty",
    "\t5\t9\tA": "the chromosome is empty",
    "chr1\t5\t3001\tA": None,
    "HLA:B*15:01\t5\t3001\tA": "end 3001 lies beyond HLA:B*15:01, which has 3000 bases",
}


@pytest.mark.parametrize("row", BAD)
@pytest.mark.parametrize("before", [0, 40])
@pytest.mark.usefixtures("small_pieces")
def test_a_bad_row_is_named_by_line_and_counted(tmp_path: Path, row: str, before: int) -> None:
    good = [f"chr1\t{i}\t{i + 10}\tAC-1\t1" for i in range(before)]
    path = write(tmp_path / "f.tsv", "\n".join(["# one", *good, row, "chr2\t1\t2\tAC-1"]) + "\n")
    if BAD[row] is None:
        assert len(read(path, sizes=SIZES)) == before + 2
        return
    with pytest.raises(InputError) as error:
        read(path, sizes=SIZES, threads=2)
    assert f"line {before + 2}: " in str(error.value)
    assert BAD[row] in str(error.value)
    allowed = BadRows(path, 1)
    assert len(read(path, sizes=SIZES, bad_rows=allowed)) == before + 1
    assert allowed.count == 1


@pytest.mark.parametrize("support", ["x", "0", "", "1.5", "1000001", "3000000000"])
def test_a_support_that_is_no_number_is_bad_only_where_it_is_used(tmp_path: Path, support: str) -> None:
    path = write(tmp_path / "f.tsv", f"chr1\t1\t2\tA\t{support}\n")
    assert len(read(path)) == 1
    with pytest.raises(InputError, match="line 1: support"):
        read(path, with_support=True)


def test_bad_rows_are_refused_past_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "f.tsv", "chr1\t1\t2\tA\n" + "chr1\t3\n" * 7)
    allowed = BadRows(path, 7)
    assert len(read(path, bad_rows=allowed)) == 1
    assert allowed.count == 7
    assert [told.partition(":")[0] for told in allowed.told] == ["line 2", "line 3", "line 4"]
    with pytest.raises(InputError, match="6 are allowed"):
        read(path, bad_rows=BadRows(path, 6))


@pytest.mark.parametrize("row", ["chr1\t1\t2\tA\r\n", "chr1\t1\t2\tA\t1\r\n"])
@pytest.mark.parametrize("with_support", [True, False])
def test_windows_line_ends_are_refused_at_once(tmp_path: Path, row: str, with_support: bool) -> None:
    path = tmp_path / "f.tsv"
    path.write_bytes(row.encode() * 5)
    with pytest.raises(InputError, match="carriage return"):
        read(path, with_support=with_support, bad_rows=BadRows(path, 1000))


@pytest.mark.parametrize("name", FORMS)
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read(tmp_path / name)


def test_an_absent_file_and_an_endless_line_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="longer than"):
        read(write(tmp_path / "f.tsv", "A" * 9_000_000))


def test_a_gzip_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "f.tsv.gz", as_text(fragments(2000))).read_bytes()
    for cut in np.linspace(18, len(whole) - 1, 60).astype(int):
        (tmp_path / "cut.gz").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="truncated or corrupt"):
            read(tmp_path / "cut.gz", bad_rows=BadRows(tmp_path, 1))


def test_a_bgzf_file_cut_anywhere_is_refused_also_between_blocks(tmp_path: Path) -> None:
    whole = write(tmp_path / "f.bgz", as_text(fragments(9000))).read_bytes()
    ends, place = [], 0
    while place < len(whole):
        place += int.from_bytes(whole[place + 16 : place + 18], "little") + 1
        ends.append(place)
    assert len(ends) > 3
    for cut in [*ends[:-1], *np.linspace(18, len(whole) - 1, 60).astype(int)]:
        (tmp_path / "cut.bgz").write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"truncated|corrupt"):
            read(tmp_path / "cut.bgz")


@pytest.mark.parametrize("name", ["f.gz", "f.bgz"])
def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path, name: str) -> None:
    truth = fragments(3000)
    whole = write(tmp_path / name, as_text(truth)).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        place = int(rng.integers(0, len(whole)))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "flipped").write_bytes(bytes(flipped))
        try:
            found = read(tmp_path / "flipped")
        except InputError:
            refused += 1
        else:
            pd.testing.assert_frame_equal(found, truth[found.columns], check_dtype=False)
    assert refused > 90


line = st.one_of(
    st.builds(
        "\t".join,
        st.lists(
            st.one_of(st.integers(-5, 1 << 40).map(str), st.text("0189aA#. -é", max_size=12)), min_size=1, max_size=6
        ),
    ),
    st.builds(
        lambda low, more, name: f"chr1\t{low}\t{low + more}\t{name}",
        st.integers(0, 2**31),
        st.integers(-1, 5),
        st.text("ACGT-1é", min_size=1, max_size=30),
    ),
)


def fragment_of(row: str) -> tuple[str, int, int, str] | None:
    """What a row means, by Python's own string functions."""
    fields = row.split("\t")
    if len(fields) not in (4, 5) or not fields[0] or not fields[3]:
        return None
    if not all(one.isascii() and one.isdigit() for one in fields[1:3]):
        return None
    low, high = int(fields[1]), int(fields[2])
    return (fields[0], low, high, fields[3]) if low < high < 2**31 else None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(line, min_size=1, max_size=30), size=st.integers(20, 400))
def test_any_text_is_read_as_python_would(tmp_path: Path, lines: list[str], size: int) -> None:
    path = tmp_path / "f.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    kept = [one for one in lines if one and not one.startswith("#")]
    truth = [fragment_of(one) for one in kept]
    bad = BadRows(path, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bgzf, "_TEXT_BYTES", size)
        found = read(path, bad_rows=bad)
    assert [tuple(row) for row in found.itertuples(index=False)] == [one for one in truth if one is not None]
    assert bad.count == truth.count(None)


def test_names_are_numbered_in_order_and_found_again() -> None:
    rng = np.random.default_rng(0)
    names = [f"{'N' * int(k)}{i}" for i, k in enumerate(rng.integers(0, 30, 30_000))]
    table = NameTable()
    for start in range(0, len(names), 7_000):
        part = names[start : start + 7_000]
        assert table.add(part).tolist() == list(range(start, start + len(part)))
    assert table.add(names[::-1]).tolist() == list(range(len(names)))[::-1]
    assert table.names() == [name.encode() for name in names]
    assert table.ids(*parsing.as_text(["N", "absent"]), insert=False).tolist()[1] == -1
    assert len(table) == len(names)
