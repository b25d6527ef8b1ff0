"""``preprocess multiome``: cells pair by name, peaks by position; what has no partner is told; every refusal."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from multiome_files import CELLS, PEAKS, multiome
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.h5mu import read_h5mu
from scmap_cli.runtime.provenance import read_history
from scmap_cli.stages.preprocess_multiome import preprocess_multiome


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rna, atac = multiome()
    for name, adata in (("rna", rna), ("atac", atac)):
        write_h5ad(adata, tmp_path / f"{name}.h5ad")
    return tmp_path / "rna.h5ad", tmp_path / "atac.h5ad"


def changed(path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """The file with its AnnData put through ``change``, beside it."""
    adata = change(anndata.read_h5ad(path))
    target = path.with_name(f"changed-{path.name}")
    write_h5ad(adata, target, force=True)
    return target


def test_cells_are_paired_by_name_and_peaks_sorted(files: tuple[Path, Path], tmp_path: Path) -> None:
    summary = preprocess_multiome(tmp_path / "m.h5ad", rna=files[0], atac=files[1], components=8)
    found, (rna, atac) = anndata.read_h5ad(tmp_path / "m.h5ad"), multiome()
    assert (summary["paired"], summary["rna_alone"], summary["atac_alone"]) == (CELLS, 0, 0)
    assert summary["chromosomes"] == ["chr1", "chr2", "chr10", "chrX"]
    assert found.obs_names.tolist() == atac.obs_names.tolist()
    np.testing.assert_array_equal(found[:, atac.var_names].X.toarray(), atac.X.toarray())
    for _, table in found.var.groupby("chrom"):
        assert table["start"].is_monotonic_increasing
    assert found.var["chrom"].drop_duplicates().tolist() == summary["chromosomes"]
    np.testing.assert_array_equal(found.var["n_cells"], (found.X > 0).sum(0).A1)
    ours = rna[found.obs_names]
    np.testing.assert_array_equal(found.obs["rna_depth"], np.asarray(ours.X.sum(1)).ravel())
    np.testing.assert_array_equal(found.obs["atac_depth"], np.asarray(atac.X.sum(1)).ravel())
    assert found.obs["type"].tolist() == ours.obs["type"].tolist()
    assert found.obs["has_rna"].all()
    assert found.obsm["X_rna"].shape == (CELLS, 8)
    assert found.obsm["X_rna"].dtype == np.float32
    # Neighbours in the reference are of one type, so its rows are those of the right cells.
    from sklearn.neighbors import KNeighborsClassifier

    types = found.obs["type"].to_numpy()
    assert KNeighborsClassifier(5).fit(found.obsm["X_rna"], types).score(found.obsm["X_rna"], types) > 0.95
    assert [record["verb"] for record in read_history(found.uns)] == ["preprocess multiome"]
    preprocess_multiome(tmp_path / "again.h5ad", rna=files[0], atac=files[1], components=8)
    assert (tmp_path / "m.h5ad").read_bytes() == (tmp_path / "again.h5ad").read_bytes()


def test_cells_without_a_partner(files: tuple[Path, Path], tmp_path: Path) -> None:
    rna = changed(files[0], lambda a: a[[*range(150), *range(151, 200)]].copy())
    atac = changed(files[1], lambda a: a[10:].copy())
    summary = preprocess_multiome(tmp_path / "m.h5ad", rna=rna, atac=atac, components=5)
    found = anndata.read_h5ad(tmp_path / "m.h5ad")
    # The RNA is in reverse order: it lacks cells 0 to 39 and 89; the ATAC lacks the first ten.
    lacking = [f"c{i}" for i in [*range(10, 40), 89]]
    assert found.obs_names[~found.obs["has_rna"]].tolist() == lacking
    assert (summary["paired"], summary["rna_alone"], summary["atac_alone"]) == (199, 0, 31)
    assert np.isnan(found[lacking].obsm["X_rna"]).all()
    assert np.isfinite(found.obsm["X_rna"][found.obs["has_rna"]]).all()
    assert found.obs["rna_depth"].isna().sum() == 31
    summary = preprocess_multiome(tmp_path / "p.h5ad", rna=rna, atac=atac, components=5, paired_only=True)
    assert (summary["cells"], summary["without_rna"]) == (199, 0)


def test_further_sets_are_matched_by_position_and_are_batches(files: tuple[Path, Path], tmp_path: Path) -> None:
    _, more = multiome(seed=5, cells=60)
    order = np.random.default_rng(0).permutation(PEAKS)[:-10]
    renamed = more[:, order].copy()
    renamed.var_names = [name.replace(":", "-") for name in renamed.var_names]
    del renamed.obs["batch"]
    write_h5ad(renamed, tmp_path / "old.h5ad")
    summary = preprocess_multiome(
        tmp_path / "m.h5ad", rna=files[0], atac=files[1], atac_only=[tmp_path / "old.h5ad"], components=5
    )
    found = anndata.read_h5ad(tmp_path / "m.h5ad")
    assert (summary["with_rna"], summary["without_rna"], summary["peaks"]) == (CELLS, 60, PEAKS - 10)
    old = found[found.obs["scmap_set"] == "old"]
    assert set(old.obs["batch"]) == {"old"}
    assert not old.obs["has_rna"].any()
    # Their names recur in the paired set, which they have nothing to do with.
    assert old.obs_names[0] == "c0-old"
    np.testing.assert_array_equal(old.X.toarray(), more[:, found.var_names].X.toarray())


def test_batches_that_the_rna_alone_knows_stay_when_sets_are_added(
    files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, atac = multiome()

    def with_batch(adata: anndata.AnnData) -> anndata.AnnData:
        adata.obs["batch"] = atac.obs["batch"][adata.obs_names]
        return adata[:200].copy()

    def without_batch(adata: anndata.AnnData) -> anndata.AnnData:
        del adata.obs["batch"]
        return adata

    rna, bare = changed(files[0], with_batch), changed(files[1], without_batch)
    _, more = multiome(seed=5, cells=60, prefix="d")
    del more.obs["batch"]
    write_h5ad(more, tmp_path / "old.h5ad")
    with caplog.at_level(logging.INFO):
        preprocess_multiome(
            tmp_path / "m.h5ad", rna=rna, atac=bare, atac_only=[tmp_path / "old.h5ad"], sample=["new", "old"]
        )
    batch = anndata.read_h5ad(tmp_path / "m.h5ad").obs["batch"].astype(str)
    paired = anndata.read_h5ad(rna).obs["batch"].astype(str)
    assert batch[paired.index].tolist() == paired.tolist()
    assert batch.value_counts()[["new", "old"]].tolist() == [40, 60]
    assert set(batch) == {"poor", "rich", "new", "old"}
    assert "the column 'batch' is that of the RNA" in caplog.text
    assert "40 cells have no batch and get 'new'" in caplog.text
    assert f"{CELLS} cells x {PEAKS} features" in caplog.text


def test_a_reference_of_the_user_is_taken_as_it_is(files: tuple[Path, Path], tmp_path: Path) -> None:
    def add(adata: anndata.AnnData) -> anndata.AnnData:
        adata.obsm["X_scVI"] = np.random.default_rng(0).normal(size=(adata.n_obs, 7))
        return adata

    rna = changed(files[0], add)
    preprocess_multiome(tmp_path / "m.h5ad", rna=rna, atac=files[1], reference_key="X_scVI")
    found, ours = anndata.read_h5ad(tmp_path / "m.h5ad"), anndata.read_h5ad(rna)
    expected = pd.DataFrame(ours.obsm["X_scVI"], index=ours.obs_names).loc[found.obs_names]
    np.testing.assert_allclose(found.obsm["X_rna"], expected, rtol=1e-6)


def both(tmp_path: Path) -> anndata.AnnData:
    rna, atac = multiome()
    rna = rna[atac.obs_names]
    types = ["Gene Expression"] * rna.n_vars + ["Peaks"] * atac.n_vars
    var = pd.DataFrame({"feature_types": types}, index=[*rna.var_names, *atac.var_names])
    return anndata.AnnData(sparse.hstack([rna.X, atac.X]).tocsr(), obs=atac.obs, var=var)


def test_one_file_of_both_gives_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    preprocess_multiome(tmp_path / "two.h5ad", rna=files[0], atac=files[1], components=5)
    two = anndata.read_h5ad(tmp_path / "two.h5ad")
    whole = both(tmp_path)
    write_h5ad(whole, tmp_path / "one.h5ad")
    with h5py.File(tmp_path / "one.h5", "w") as handle:
        group, csc = handle.create_group("matrix"), whole.X.astype(np.int32)
        group["data"], group["indices"], group["indptr"] = csc.data, csc.indices.astype(np.int64), csc.indptr
        group["shape"] = np.array(whole.shape[::-1], dtype=np.int32)
        group["barcodes"] = np.array(whole.obs_names, dtype="S")
        for key, values in (("id", whole.var_names), ("name", whole.var_names)):
            group[f"features/{key}"] = np.array(values, dtype="S")
        group["features/feature_type"] = np.array(whole.var["feature_types"].astype(str), dtype="S")
    with h5py.File(tmp_path / "one.h5mu", "w") as handle:
        for name, path in zip(("rna", "atac"), files, strict=True):
            anndata.io.write_elem(handle.require_group("mod"), name, anndata.read_h5ad(path))
    for name in ("one.h5ad", "one.h5", "one.h5mu"):
        preprocess_multiome(tmp_path / "m.h5ad", input=tmp_path / name, components=5, force=True)
        found = anndata.read_h5ad(tmp_path / "m.h5ad")
        np.testing.assert_array_equal(found.X.toarray(), two.X.toarray())
        assert found.obs_names.tolist() == two.obs_names.tolist()
        np.testing.assert_allclose(found.obsm["X_rna"], two.obsm["X_rna"], rtol=1e-3, atol=1e-4)


def test_an_output_named_h5mu_holds_both_and_gives_the_same_again(files: tuple[Path, Path], tmp_path: Path) -> None:
    rna = changed(files[0], lambda a: a[:200].copy())
    preprocess_multiome(tmp_path / "m.h5ad", rna=rna, atac=files[1], components=5)
    preprocess_multiome(tmp_path / "m.h5mu", rna=rna, atac=files[1], components=5)
    one, both = anndata.read_h5ad(tmp_path / "m.h5ad"), read_h5mu(tmp_path / "m.h5mu")
    np.testing.assert_array_equal(both["atac"].X.toarray(), one.X.toarray())
    np.testing.assert_array_equal(both["atac"].obsm["X_rna"], one.obsm["X_rna"])
    cells = one.obs_names[one.obs["has_rna"]]
    assert both["rna"].obs_names.tolist() == cells.tolist()
    ours = anndata.read_h5ad(rna)[cells]
    np.testing.assert_array_equal(both["rna"].X.toarray(), ours.X.toarray())
    assert both["rna"].obs["type"].tolist() == ours.obs["type"].tolist()
    preprocess_multiome(tmp_path / "again.h5ad", input=tmp_path / "m.h5mu", components=5)
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.obsm["X_rna"], one.obsm["X_rna"])


def test_empty_peaks_chromosomes_and_cells_are_dropped_and_told(
    files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def empty(adata: anndata.AnnData) -> anndata.AnnData:
        x = adata.X.tolil()
        x[:, adata.var_names.str.startswith("chrX")] = 0
        x[3] = 0
        adata.X = x.tocsr()
        return adata

    def silent(adata: anndata.AnnData) -> anndata.AnnData:
        x = adata.X.tolil()
        x[0] = 0
        adata.X = x.tocsr()
        return adata

    caplog.set_level(logging.INFO)
    summary = preprocess_multiome(
        tmp_path / "m.h5ad", rna=changed(files[0], silent), atac=changed(files[1], empty), components=5
    )
    assert summary["chromosomes"] == ["chr1", "chr2", "chr10"]
    assert (summary["chromosomes_dropped"], summary["cells_without_open_peaks"]) == (1, 1)
    assert (summary["with_rna"], summary["without_rna"]) == (CELLS - 2, 1)
    for told in ("with them 1 chromosomes", "1 cells have no open peak", "1 cells have no RNA count", "are sorted"):
        assert told in caplog.text
    preprocess_multiome(tmp_path / "o.h5ad", rna=files[0], atac=files[1], components=5, keep_chrom=["chr2"])
    assert "all peaks lie on one chromosome" in caplog.text


def test_bad_inputs(files: tuple[Path, Path], tmp_path: Path) -> None:
    rna, atac = files
    out = tmp_path / "m.h5ad"

    def rename(adata: anndata.AnnData) -> anndata.AnnData:
        adata.obs_names = "S1#" + adata.obs_names
        return adata

    def gaps(adata: anndata.AnnData) -> anndata.AnnData:
        adata.obsm["X_pca"] = np.ones((adata.n_obs, 4))
        adata.obsm["X_pca"][[0, 3]] = np.nan
        return adata

    def move(adata: anndata.AnnData) -> anndata.AnnData:
        adata.var_names = [f"chr9:{i}-{i + 1}" for i in range(adata.n_vars)]
        return adata

    with pytest.raises(InputError, match="'c239' and 'S1#c0'"):
        preprocess_multiome(out, rna=rna, atac=changed(atac, rename))
    with pytest.raises(InputError, match=r"2 rows with NaN.*first 'c236'"):
        preprocess_multiome(out, rna=changed(rna, gaps), atac=atac, reference_key="X_pca")
    with pytest.raises(InputError, match=r"no obsm key 'X_umap' \(keys: none\)"):
        preprocess_multiome(out, rna=rna, atac=atac, reference_key="X_umap")
    with pytest.raises(InputError, match="no peak of changed-atac is one of atac"):
        preprocess_multiome(out, rna=rna, atac=atac, atac_only=[changed(atac, move)])
    with pytest.raises(InputError, match="no column feature_types"):
        preprocess_multiome(out, input=rna)
    with pytest.raises(InputError, match="leave no peak"):
        preprocess_multiome(out, rna=rna, atac=atac, drop_chrom=["chr*"])
    with pytest.raises(InputError, match="fewer than 61"):
        preprocess_multiome(out, rna=rna, atac=atac, components=60)
    with pytest.raises(UsageError, match="--rna needs --atac"):
        preprocess_multiome(out, rna=rna)
    with pytest.raises(UsageError, match="one file of both"):
        preprocess_multiome(out, input=rna, rna=rna, atac=atac)
    assert not out.exists()
