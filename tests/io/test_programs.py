import numpy as np
import pytest
from scipy import sparse

from scmap_cli.errors import InputError
from scmap_cli.io.npz import read_npz, write_npz
from scmap_cli.io.programs import Programs, load_programs, save_programs


def example(genes=30, programs=5, seed=0):
    mask = sparse.csc_matrix((np.random.default_rng(seed).random((genes, programs)) < 0.3).astype(np.uint8))
    size = np.diff(mask.indptr).astype(np.int64)
    return Programs(
        mask, np.array([f"G{i}" for i in range(genes)]), np.array([f"P{i}" for i in range(programs)]), size + 2, size
    )


def test_round_trip(tmp_path):
    programs = example()
    save_programs(tmp_path / "p.npz", programs, {"note": "x"})
    loaded = load_programs(tmp_path / "p.npz")
    np.testing.assert_array_equal(loaded.mask.toarray(), programs.mask.toarray())
    assert loaded.mask.dtype == np.uint8
    for name in ("genes", "programs", "size_before", "size_after"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(programs, name))
    np.testing.assert_array_equal(loaded.covered, programs.mask.toarray().any(axis=1))
    assert read_npz(tmp_path / "p.npz")[0]["note"] == "x"


def test_index_order_does_not_change_the_bytes(tmp_path):
    programs = example()
    save_programs(tmp_path / "a.npz", programs)
    shuffled = programs.mask.tocsr().tocsc()
    for k in range(shuffled.shape[1]):
        column = slice(*shuffled.indptr[k : k + 2])
        shuffled.indices[column] = shuffled.indices[column][::-1]
    shuffled.has_sorted_indices = False
    save_programs(
        tmp_path / "b.npz",
        Programs(shuffled, programs.genes, programs.programs, programs.size_before, programs.size_after),
    )
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def spoil(name, value):
    def change(arrays):
        arrays[name] = value(arrays[name])

    return change


@pytest.mark.parametrize(
    "change",
    [
        spoil("mask_indices", lambda a: a + 1000),
        spoil("mask_indices", lambda a: a - 5),
        spoil("mask_indices", lambda a: a[::-1].copy()),
        spoil("mask_indices", lambda a: a[:-1]),
        spoil("mask_indices", lambda a: a.astype(float)),
        spoil("mask_indptr", lambda a: a[::-1].copy()),
        spoil("mask_indptr", lambda a: a[:-1]),
        spoil("mask_indptr", lambda a: a + 1),
        spoil("genes", lambda a: a[:-5]),
        spoil("genes", lambda a: np.repeat(a[:1], len(a))),
        spoil("programs", lambda a: np.repeat(a[:1], len(a))),
        spoil("programs", lambda a: np.arange(len(a))),
        spoil("size_after", lambda a: a[:-1]),
        spoil("size_before", lambda a: a[None]),
        lambda arrays: arrays.pop("genes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, change):
    save_programs(tmp_path / "a.npz", example())
    header, arrays = read_npz(tmp_path / "a.npz")
    change(arrays)
    write_npz(tmp_path / "b.npz", arrays, header)
    with pytest.raises(InputError):
        load_programs(tmp_path / "b.npz")


def test_other_npz_files_are_refused(tmp_path):
    write_npz(tmp_path / "a.npz", {"x": np.zeros(1)}, {"kind": "embedding"})
    with pytest.raises(InputError, match="'programs' is needed"):
        load_programs(tmp_path / "a.npz")
