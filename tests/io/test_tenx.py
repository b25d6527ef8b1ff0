"""10x files: both HDF5 layouts and Matrix Market folders give the same cells x genes; broken ones are refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scmap_cli.errors import InputError
from scmap_cli.io.rna import read_rna, rna_form
from scmap_cli.io.tenx import read_10x_h5, read_10x_mtx

N, G = 12, 9
DENSE = np.random.default_rng(0).poisson(0.8, (N, G)).astype(np.int32)
BARCODES = [f"AAAC{i}-1" for i in range(N)]
IDS = [f"ENSG{i:05d}" for i in range(G)]
SYMBOLS = [f"GENE{i}" for i in range(G)]
TYPES = ["Gene Expression"] * (G - 2) + ["Antibody Capture"] * 2


def write_h5(path: Path, version: int) -> Path:
    csc = sp.csr_matrix(DENSE)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix" if version == 3 else "hg19")
        group["data"], group["indices"], group["indptr"] = csc.data, csc.indices.astype(np.int64), csc.indptr
        group["shape"] = np.array([G, N], dtype=np.int32)
        group["barcodes"] = np.array(BARCODES, dtype="S")
        if version == 3:
            for key, values in (("id", IDS), ("name", SYMBOLS), ("feature_type", TYPES), ("genome", ["hg38"] * G)):
                group[f"features/{key}"] = np.array(values, dtype="S")
        else:
            group["genes"], group["gene_names"] = np.array(IDS, dtype="S"), np.array(SYMBOLS, dtype="S")
    return path


def write_mtx(folder: Path, version: int, prefix: str = "") -> Path:
    folder.mkdir()
    coo = sp.coo_matrix(DENSE.T)
    lines = ["%%MatrixMarket matrix coordinate integer general", "%made by a test", f"{G} {N} {coo.nnz}"]
    lines += [f"{i + 1} {j + 1} {v}" for i, j, v in zip(coo.row, coo.col, coo.data, strict=True)]
    if version == 3:
        features = ["\t".join(row) for row in zip(IDS, SYMBOLS, TYPES, strict=True)]
    else:
        features = ["\t".join(row) for row in zip(IDS, SYMBOLS, strict=True)]
    files = {"matrix.mtx": lines, "barcodes.tsv": BARCODES}
    files["features.tsv" if version == 3 else "genes.tsv"] = features
    for name, content in files.items():
        text = ("\n".join(content) + "\n").encode()
        if version == 3:
            (folder / f"{prefix}{name}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / f"{prefix}{name}").write_bytes(text)
    return folder


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", ["h5", "mtx", "mtx prefix"])
def test_all_layouts_hold_the_same_counts(tmp_path: Path, version: int, form: str) -> None:
    if form == "h5":
        path = write_h5(tmp_path / "m.h5", version)
    else:
        path = write_mtx(tmp_path / "m", version, "GSM1_" if "prefix" in form else "")
    assert rna_form(path) == ("10x h5" if form == "h5" else "10x mtx")
    adata = read_rna(path)
    kept = G - 2 if version == 3 else G
    np.testing.assert_array_equal(adata.X.toarray(), DENSE[:, :kept])
    assert adata.obs_names.tolist() == BARCODES
    assert adata.var_names.tolist() == SYMBOLS[:kept]
    assert adata.var["gene_ids"].tolist() == IDS[:kept]
    assert read_rna(path, gene_column="gene_ids").var_names.tolist() == IDS[:kept]


def test_other_feature_types_are_kept_on_request(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", 3)
    assert read_10x_h5(path, feature_type=None).var["feature_types"].tolist() == TYPES
    assert read_10x_h5(path, feature_type="Antibody Capture").n_vars == 2
    with pytest.raises(InputError, match="Peaks"):
        read_10x_h5(path, feature_type="Peaks")


def test_the_matrix_file_itself_may_be_named(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "m", 3)
    np.testing.assert_array_equal(read_rna(folder / "matrix.mtx.gz").X.toarray(), DENSE[:, : G - 2])


def test_several_genomes_need_a_choice(tmp_path: Path) -> None:
    path = write_h5(tmp_path / "m.h5", 2)
    with h5py.File(path, "r+") as handle:
        handle.copy("hg19", "mm10")
    with pytest.raises(InputError, match="hg19, mm10"):
        read_10x_h5(path)
    assert read_10x_h5(path, genome="mm10").n_obs == N


@pytest.mark.parametrize(
    ("key", "position", "value"),
    [("indices", 2, 10**8), ("indices", 2, -1), ("indptr", 1, 10**6), ("shape", 0, 3), ("shape", 1, 10**8)],
)
def test_a_broken_h5_matrix_is_refused(tmp_path: Path, key: str, position: int, value: int) -> None:
    path = write_h5(tmp_path / "m.h5", 3)
    with h5py.File(path, "r+") as handle:
        handle[f"matrix/{key}"][position] = value
    with pytest.raises(InputError):
        read_10x_h5(path)


@pytest.mark.parametrize("key", ["data", "indptr", "shape", "barcodes", "features/id", "features"])
def test_a_missing_part_is_named(tmp_path: Path, key: str) -> None:
    path = write_h5(tmp_path / "m.h5", 3)
    with h5py.File(path, "r+") as handle:
        del handle[f"matrix/{key}"]
    with pytest.raises(InputError, match=key.rsplit("/", 1)[-1]):
        read_10x_h5(path)


@pytest.mark.parametrize("name", ["matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_truncated_gzip_members_are_refused(tmp_path: Path, name: str, share: float) -> None:
    folder = write_mtx(tmp_path / "m", 3)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError):
        read_10x_mtx(folder)


def rewrite(folder: Path, name: str, change) -> None:
    (folder / name).write_text(change((folder / name).read_text()))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("matrix.mtx", lambda t: t[: int(len(t) * 0.7)].rsplit("\n", 1)[0] + "\n"),
        ("matrix.mtx", lambda t: t + "1 1 7\n"),
        ("matrix.mtx", lambda t: t.replace("\n1 1 ", "\n99 1 ", 1) if "\n1 1 " in t else t + "99 1 1\n"),
        ("matrix.mtx", lambda t: t.replace("coordinate integer", "coordinate complex")),
        ("matrix.mtx", lambda t: t.replace("integer general", "integer symmetric")),
        ("matrix.mtx", lambda t: t.replace("%%MatrixMarket", "hello")),
        ("matrix.mtx", lambda t: t.replace(f"{G} {N} ", f"{G} {N} 9999")),
        ("matrix.mtx", lambda t: t.replace(f"{G} {N} ", f"{10**9} {10**9} 999999999")),
        ("matrix.mtx", lambda t: t.rsplit(" ", 1)[0] + " x\n"),
        ("barcodes.tsv", lambda t: t.split("\n", 1)[1]),
        ("genes.tsv", lambda t: t.split("\n", 1)[1]),
        ("genes.tsv", lambda t: t.replace("\tGENE3", "")),
        ("genes.tsv", lambda t: ""),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str, change) -> None:
    folder = write_mtx(tmp_path / "m", 2)
    rewrite(folder, name, change)
    with pytest.raises(InputError) as caught:
        read_10x_mtx(folder)
    assert "\n" not in str(caught.value)


def test_repeated_entries_are_refused(tmp_path: Path) -> None:
    folder = write_mtx(tmp_path / "m", 2)
    lines = (folder / "matrix.mtx").read_text().splitlines()
    lines[4] = lines[3]
    (folder / "matrix.mtx").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="more than once"):
        read_10x_mtx(folder)


@pytest.mark.parametrize("missing", ["matrix.mtx", "barcodes.tsv", "genes.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_mtx(tmp_path / "m", 2)
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing.replace("genes", "features")):
        read_10x_mtx(folder)
