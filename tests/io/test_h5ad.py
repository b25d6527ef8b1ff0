"""AnnData files: whole and self-contained ones are read back equal, hostile ones are refused with one line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmap_cli.errors import InputError
from scmap_cli.io import hdf5
from scmap_cli.io.h5ad import check_csr, open_h5, read_h5ad, write_h5ad


def small(n: int = 30, g: int = 20, seed: int = 0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    counts = sp.csr_matrix(rng.poisson(0.7, (n, g)).astype(np.float32))
    obs = pd.DataFrame({"kind": ["a", "b"] * (n // 2)}, index=[f"c{i}" for i in range(n)])
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(g)]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    small().write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


@pytest.mark.parametrize(
    "form",
    [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array, lambda x: x.toarray()],
    ids=["csr_matrix", "csc_matrix", "csr_array", "csc_array", "dense"],
)
@pytest.mark.parametrize("backed", [False, True])
def test_every_storage_form_reads_back_equal(tmp_path: Path, form, backed: bool) -> None:
    adata = small()
    truth = adata.X.toarray()
    adata.X = form(adata.X)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = read_h5ad(tmp_path / "a.h5ad", backed=backed)
    try:
        values = found.X[...] if backed else found.X
        dense = values.toarray() if sp.issparse(values) else np.asarray(values)
        np.testing.assert_array_equal(dense, truth)
        assert found.isbacked == backed
    finally:
        if backed:
            found.file.close()


def test_equal_content_gives_equal_bytes_whenever_written(tmp_path: Path) -> None:
    write_h5ad(small(), tmp_path / "a.h5ad")
    time.sleep(1.05)
    write_h5ad(small(), tmp_path / "b.h5ad")
    write_h5ad(read_h5ad(tmp_path / "a.h5ad"), tmp_path / "c.h5ad")
    first = (tmp_path / "a.h5ad").read_bytes()
    assert first == (tmp_path / "b.h5ad").read_bytes() == (tmp_path / "c.h5ad").read_bytes()


def test_writing_changes_nothing_in_the_object_and_stores_plain_strings(tmp_path: Path) -> None:
    adata = small()
    adata.obs["gap"] = pd.Series(["x", None] * 15, index=adata.obs_names, dtype=object)
    adata.obs["nullable"] = pd.array(["u", "v"] * 15, dtype="string")
    adata.uns = {"keep": {"a": 1, "none": None}, "none": None}
    before = adata.obs.copy()
    write_h5ad(adata, tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(adata.obs, before)
    found = read_h5ad(tmp_path / "a.h5ad")
    assert found.obs["kind"].tolist() == ["a", "b"] * 15
    assert found.obs["gap"].isna().sum() == 15
    assert found.obs["nullable"].tolist() == ["u", "v"] * 15
    assert set(found.uns) == {"keep"}
    assert set(found.uns["keep"]) == {"a"}


def test_raw_layers_and_pairwise_slots_survive_writing(tmp_path: Path) -> None:
    adata = small()
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.obsp["near"] = sp.identity(30, format="csr")
    view = adata[::2, :7]
    write_h5ad(view, tmp_path / "a.h5ad")
    found = read_h5ad(tmp_path / "a.h5ad")
    assert found.shape == (15, 7)
    assert found.raw.shape == (15, 20)
    np.testing.assert_array_equal(found.layers["counts"].toarray(), adata.X.toarray()[::2, :7])
    np.testing.assert_array_equal(found.obsp["near"].toarray(), np.eye(15))


_SPARSE = ["X", "layers/l", "raw/X", "obsm/o", "varm/v", "obsp/p", "uns/nested/u"]


@pytest.mark.parametrize(("where", "bad"), [*((where, 100_000_000) for where in _SPARSE), ("X", -1), ("X", 20)])
@pytest.mark.parametrize("backed", [False, True])
def test_bad_indices_anywhere_are_an_error_not_a_crash(tmp_path: Path, where: str, bad: int, backed: bool) -> None:
    adata = small(20, 20)
    adata.raw = adata.copy()
    square = sp.csr_matrix(adata.X)
    adata.layers["l"] = square.copy()
    adata.obsm["o"], adata.varm["v"], adata.obsp["p"] = square.copy(), square.copy(), square.copy()
    adata.uns["nested"] = {"u": square.copy()}
    file = tmp_path / "a.h5ad"
    adata.write_h5ad(file)
    with h5py.File(file, "r+") as handle:
        handle[f"{where}/indices"][3] = bad
    with pytest.raises(InputError, match=str(bad)):
        read_h5ad(file, backed=backed)


def test_a_bad_index_does_not_end_the_process(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle["X/indices"][:] = 2_000_000_000
    code = f"""
        from scmap_cli.errors import InputError
        from scmap_cli.io.h5ad import read_h5ad
        try:
            read_h5ad({str(path)!r}).X.toarray()
        except InputError as error:
            raise SystemExit(error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True)
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.__setitem__(0, 5), "does not rise"),
        (lambda p: p.__setitem__(3, 100_000), "does not rise"),
        (lambda p: p.__setitem__(-1, 3), "does not rise"),
    ],
)
def test_bad_indptr_is_refused(path: Path, change, message: str) -> None:
    with h5py.File(path, "r+") as handle:
        change(handle["X/indptr"])
    with pytest.raises(InputError, match=message):
        read_h5ad(path)


def test_lengths_that_disagree_are_refused() -> None:
    matrix = sp.csr_matrix(np.eye(4))
    for name in ("data", "indices", "indptr"):
        broken = matrix.copy()
        setattr(broken, name, getattr(broken, name)[:-1])
        with pytest.raises(InputError):
            check_csr(broken, "m")
    check_csr(matrix, "m")
    check_csr(matrix.tocsc(), "m")


def test_a_false_shape_is_never_allocated(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle["X"].attrs["shape"] = np.array([10**15, 20])
    with pytest.raises(InputError, match="indptr has"):
        read_h5ad(path)


def test_links_out_of_the_file_are_refused(path: Path, tmp_path: Path) -> None:
    small(seed=1).write_h5ad(tmp_path / "other.h5ad")
    with h5py.File(path, "r+") as handle:
        handle["layers/stolen"] = h5py.ExternalLink(str(tmp_path / "other.h5ad"), "/X")
    with pytest.raises(InputError, match="another file"):
        read_h5ad(path)


@pytest.mark.parametrize("target", ["/nowhere", "/layers", "/"])
def test_soft_links_that_dangle_or_bend_back_are_refused(path: Path, target: str) -> None:
    with h5py.File(path, "r+") as handle:
        handle["layers/link"] = h5py.SoftLink(target)
    with pytest.raises(InputError, match="link"):
        read_h5ad(path)


def test_a_soft_link_to_the_files_own_data_is_read(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle["layers/counts"] = h5py.SoftLink("/X")
    found = read_h5ad(path)
    np.testing.assert_array_equal(found.layers["counts"].toarray(), found.X.toarray())


def test_a_group_that_holds_itself_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle["uns/again"] = handle["uns"]
    with pytest.raises(InputError, match="is also"):
        read_h5ad(path)


def test_external_storage_is_refused(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(200)))
    with h5py.File(path, "r+") as handle:
        del handle["X"]
        handle.create_dataset("X", (30, 20), "u1", external=[(str(secret), 0, 600)])
    with pytest.raises(InputError, match="another file"):
        read_h5ad(path)


def test_virtual_datasets_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        del handle["X"]
        layout = h5py.VirtualLayout((30, 20), "f4")
        layout[:] = h5py.VirtualSource("else.h5", "X", (30, 20))
        handle.create_virtual_dataset("X", layout)
    with pytest.raises(InputError, match="virtual"):
        read_h5ad(path)


def test_more_than_memory_is_refused_before_it_is_read(path: Path) -> None:
    with h5py.File(path, "r+") as handle:
        handle.create_dataset("layers/huge", (10**9, 10**6), "f4", chunks=(1, 1000))
    with pytest.raises(InputError, match="declares"):
        read_h5ad(path)


def test_a_size_on_disk_is_not_held_against_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path) as handle:
        size = sum(handle[f"X/{key}"].nbytes for key in ("data", "indices", "indptr"))
    monkeypatch.setattr(hdf5, "available_memory", lambda: size)
    with pytest.raises(InputError, match="declares"), open_h5(path):
        pass
    with open_h5(path, on_disk=["/X"]):
        pass


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_file_is_an_input_error(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for backed in (False, True):
        with pytest.raises(InputError) as caught:
            read_h5ad(path, backed=backed)
        assert "\n" not in str(caught.value)


def test_flipped_bytes_of_the_matrix_are_read_or_refused(path: Path) -> None:
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    # Flips in HDF5's own string heap can crash HDF5 itself, so only the arrays of the matrix are changed.
    with h5py.File(path) as handle:
        chunks = [handle[f"X/{key}"].id.get_chunk_info(0) for key in ("data", "indices", "indptr")]
    places = np.concatenate([chunk.byte_offset + np.arange(chunk.size) for chunk in chunks])
    for position in rng.choice(places, 40, replace=False):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        path.write_bytes(bytes(broken))
        try:
            read_h5ad(path)
        except InputError:
            continue


@pytest.mark.parametrize("content", [b"", b"not an hdf5 file at all", b"\x89HDF\r\n\x1a\n"])
def test_other_files_are_input_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5ad").write_bytes(content)
    for bad in (tmp_path / "a.h5ad", tmp_path, tmp_path / "absent.h5ad"):
        with pytest.raises(InputError):
            read_h5ad(bad)


def test_an_hdf5_file_without_tables_is_no_anndata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as handle:
        handle["X"] = np.zeros(3)
    with pytest.raises(InputError, match="not an AnnData"):
        read_h5ad(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize("kind", ["obs", "var"])
def test_repeated_names_are_counted_and_three_are_told(tmp_path: Path, kind: str) -> None:
    adata = small()
    names = [f"n{i % 16}" for i in range(getattr(adata, kind).shape[0])]
    setattr(adata, f"{kind}_names", names)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"more than once \('n0', 'n1', 'n2', ...\)") as caught:
        read_h5ad(tmp_path / "a.h5ad")
    assert "--make-unique" in str(caught.value.hint)
    assert ("--gene-column" in str(caught.value.hint)) == (kind == "var")
    assert read_h5ad(tmp_path / "a.h5ad", unique=False).shape == adata.shape


def test_a_locked_file_can_be_read(path: Path) -> None:
    code = (
        "import fcntl,sys,time;f=open(sys.argv[1],'r+');fcntl.flock(f,fcntl.LOCK_EX);print(flush=True);time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            assert read_h5ad(path).n_obs == 30
        finally:
            holder.kill()


def test_a_full_disk_is_a_write_error_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
        import resource, signal
        import numpy as np, scipy.sparse as sp, anndata
        from scmap_cli.errors import WriteError
        from scmap_cli.io.h5ad import write_h5ad
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        adata = anndata.AnnData(sp.random(300, 300, 0.5, format="csr", dtype=np.float32))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            write_h5ad(adata, {str(tmp_path / "out.h5ad")!r})
        except WriteError as error:
            raise SystemExit(error.exit_code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True)
    assert done.returncode == 6, done.stderr
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
