import io
import json
import zipfile

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from scmap_cli.errors import InputError, OutputExistsError
from scmap_cli.io.npz import SCHEMA_VERSION, array_shapes, read_npz, stream_rows, write_npz, write_npz_rows

ARRAYS = {
    "emb": np.arange(12, dtype=np.float32).reshape(3, 4),
    "names": np.array(["a", "bé", ""]),
    "flag": np.array([True, False]),
    "scalar": np.array(7),
    "empty": np.zeros((0, 3), dtype=np.int32),
}


def raw_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def header(**changes):
    return npy(np.array(json.dumps({"schema_version": 1, "kind": "x"} | changes)))


def claimed(shape, dtype="<f8", body=b"\0" * 80):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


def test_round_trip_keeps_values_shapes_and_types(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x", "extra": [1, "é"]})
    head, arrays = read_npz(tmp_path / "a.npz", kind="x")
    assert head == {"kind": "x", "extra": [1, "é"], "schema_version": SCHEMA_VERSION}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_equal_content_gives_equal_bytes_whatever_the_order_and_layout(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x", "b": 1})
    turned = {name: np.asfortranarray(array) if array.ndim else array for name, array in reversed(ARRAYS.items())}
    turned["emb"] = turned["emb"].astype(">f4")
    write_npz(tmp_path / "b.npz", turned, {"b": 1, "kind": "x"})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_itself_reads_our_files(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x"})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["emb"], ARRAYS["emb"])


def test_lists_of_strings_become_unicode_and_objects_are_refused(tmp_path):
    write_npz(tmp_path / "a.npz", {"n": np.array(["x", "yy"], dtype=object)}, {"kind": "x"})
    assert read_npz(tmp_path / "a.npz")[1]["n"].dtype == np.dtype("<U2")
    with pytest.raises(TypeError):
        write_npz(tmp_path / "b.npz", {"n": np.array([{}, 1], dtype=object)}, {"kind": "x"})
    assert not (tmp_path / "b.npz").exists()


def test_existing_output_stays_without_force(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x"})
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(OutputExistsError):
        write_npz(tmp_path / "a.npz", {"z": np.zeros(1)}, {"kind": "x"})
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_file_cut_at_any_point_is_an_input_error(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x"})
    whole = (tmp_path / "a.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for size in range(0, len(whole), 7):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_npz(cut)


def test_a_flipped_byte_never_gives_other_numbers_or_another_kind_of_error(tmp_path):
    write_npz(tmp_path / "a.npz", ARRAYS, {"kind": "x"})
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    bad = tmp_path / "bad.npz"
    for at in range(0, len(whole), 5):
        changed = whole.copy()
        changed[at] ^= 0x41
        bad.write_bytes(changed)
        try:
            _, arrays = read_npz(bad)
        except InputError:
            continue
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[name])


HOSTILE = {
    "pickle": {"header.npy": header(), "a.npy": npy(np.array([{}], dtype=object), allow_pickle=True)},
    "seven TiB": {"header.npy": header(), "a.npy": claimed((7 << 37,))},
    "negative": {"header.npy": header(), "a.npy": claimed((-10,))},
    "zero times huge": {"header.npy": header(), "a.npy": claimed((0, 1 << 70), body=b"")},
    "huge of nothing": {"header.npy": header(), "a.npy": claimed((1 << 40,), dtype="<U0", body=b"")},
    "structured": {"header.npy": header(), "a.npy": npy(np.zeros(2, dtype=[("p", "i4")]))},
    "not an array": {"header.npy": header(), "a.npy": b"hello"},
    "other member": {"header.npy": header(), "readme.txt": b"hello"},
    "path": {"header.npy": header(), "../a.npy": npy(np.zeros(1))},
    "no header": {"a.npy": npy(np.zeros(1))},
    "header no JSON": {"header.npy": npy(np.array("{")), "a.npy": npy(np.zeros(1))},
    "header a list": {"header.npy": npy(np.array("[1]"))},
    "header deep": {"header.npy": npy(np.array("[" * 100_000))},
    "no version": {"header.npy": npy(np.array('{"kind": "x"}'))},
    "version true": {"header.npy": header(schema_version=True)},
    "version text": {"header.npy": header(schema_version="1")},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_input_errors(tmp_path, name):
    raw_npz(tmp_path / "a.npz", HOSTILE[name])
    with pytest.raises(InputError):
        read_npz(tmp_path / "a.npz")


def test_repeated_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("header.npy", header())
        archive.writestr("a.npy", npy(np.zeros(1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(np.ones(1)))
    with pytest.raises(InputError, match="not a single plain array"):
        read_npz(tmp_path / "a.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("header.npy", header())
        archive.writestr("a.npy", claimed((1 << 27,), dtype="|u1", body=b"\0" * (1 << 27)))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 18
    with pytest.raises(InputError, match="bomb"):
        read_npz(tmp_path / "a.npz")


def test_more_than_the_allowed_bytes_are_refused(tmp_path):
    write_npz(tmp_path / "a.npz", {"a": np.zeros(1000)}, {"kind": "x"})
    with pytest.raises(InputError, match="allowed here"):
        read_npz(tmp_path / "a.npz", max_bytes=8000)


def test_a_newer_schema_is_refused_with_the_remedy(tmp_path):
    raw_npz(tmp_path / "a.npz", {"header.npy": header(schema_version=SCHEMA_VERSION + 1)})
    with pytest.raises(InputError, match="schema_version 2") as caught:
        read_npz(tmp_path / "a.npz")
    assert "update scmap" in caught.value.hint


def test_another_kind_a_missing_file_and_a_folder(tmp_path):
    write_npz(tmp_path / "a.npz", {}, {"kind": "x"})
    with pytest.raises(InputError, match="'programs' is needed"):
        read_npz(tmp_path / "a.npz", kind="programs")
    with pytest.raises(InputError, match="does not exist"):
        read_npz(tmp_path / "none.npz")
    with pytest.raises(InputError):
        read_npz(tmp_path)


def test_a_plain_npz_is_read_when_foreign_ones_are_allowed(tmp_path):
    np.savez(tmp_path / "a.npz", z=np.eye(2))
    head, arrays = read_npz(tmp_path / "a.npz", foreign=True)
    assert head == {}
    np.testing.assert_array_equal(arrays["z"], np.eye(2))


def test_rows_are_streamed_and_the_rest_read_without_them(tmp_path):
    table = np.arange(70, dtype=np.float16).reshape(14, 5)
    write_npz(tmp_path / "a.npz", {"table": table, "names": ["x", "y"]}, {"kind": "imputed"})
    assert array_shapes(tmp_path / "a.npz") == {"header": (), "names": (2,), "table": (14, 5)}
    for rows in (1, 4, 14, 100):
        blocks = list(stream_rows(tmp_path / "a.npz", "table", rows))
        assert all(len(block) <= rows for block in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks), table)
        assert blocks[0].dtype == np.float16
    _, others = read_npz(tmp_path / "a.npz", leave="table", max_bytes=2000)
    assert list(others) == ["names"]


def test_what_cannot_be_streamed(tmp_path):
    np.savez(tmp_path / "a.npz", flat=np.zeros(3), columns=np.zeros((3, 4), order="F"), table=np.ones((50, 40)))
    for name, match in (("flat", "not a table"), ("columns", "not a table"), ("none", "no array 'none'")):
        with pytest.raises(InputError, match=match):
            list(stream_rows(tmp_path / "a.npz", name, 2))
    whole = (tmp_path / "a.npz").read_bytes()
    spoiled = bytearray(whole)
    spoiled[whole.index(np.ones(40).tobytes()) + 100] ^= 1
    (tmp_path / "b.npz").write_bytes(spoiled)
    with pytest.raises(InputError, match="not a readable npz"):
        list(stream_rows(tmp_path / "b.npz", "table", 7))


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_a_killed_run_left_are_removed(tmp_path, sparse):
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    seen = []

    def blocks():
        for start in (0, 2):
            yield csr_matrix(table[start : start + 2]) if sparse else table[start : start + 2]
            seen.extend(path for path in tmp_path.iterdir() if path not in seen)

    write_npz_rows(tmp_path / "a.npz", blocks(), table.shape, {}, {"kind": "imputed"})
    assert len(seen) == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.npz"]
    _, arrays = read_npz(tmp_path / "a.npz")
    names = ("data", "indices", "indptr")
    whole = csr_matrix(tuple(arrays[name] for name in names), table.shape).toarray() if sparse else arrays["imputed"]
    np.testing.assert_array_equal(whole, table)
    seen[0].touch()
    write_npz(tmp_path / "a.npz", {"x": np.zeros(1)}, {"kind": "imputed"}, force=True)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a.npz"]
