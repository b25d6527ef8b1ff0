"""``preprocess rna``: merged by name, numbers as scanpy's, the same bytes twice, nothing written on an error."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.io.programs import Programs, save_programs
from scmap_cli.keys import HISTORY, LOG1P_LAYER
from scmap_cli.stages.preprocess_rna import preprocess_rna


def data(n: int = 120, g: int = 200, seed: int = 0, names: list[str] | None = None) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    mean = rng.gamma(0.6, 2.0, g)
    counts = rng.negative_binomial(1.5, 1.5 / (1.5 + mean * rng.lognormal(0, 0.3, (n, 1))))
    obs = pd.DataFrame({"kind": np.where(np.arange(n) % 3 == 0, "a", "b")}, index=[f"cell{i}" for i in range(n)])
    var = pd.DataFrame(index=names or [f"MT-{i}" if i < 5 else f"G{i}" for i in range(g)])
    var["gene_ids"] = [f"ENSG{name}" for name in var.index]
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def save(adata: anndata.AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return save(data(), tmp_path / "in" / "a.h5ad")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "rna.h5ad"


def test_counts_and_columns_pass_through(source: Path, out: Path) -> None:
    truth = data()
    summary = preprocess_rna([source], out)
    found = read_h5ad(out)
    np.testing.assert_array_equal(found.X.toarray(), truth.X.toarray())
    assert isinstance(found.X, sp.csr_matrix)
    assert found.X.dtype == np.float32
    assert found.obs["kind"].tolist() == truth.obs["kind"].tolist()
    assert found.var["gene_ids"].tolist() == truth.var["gene_ids"].tolist()
    assert (summary["cells"], summary["genes"]) == (120, 200)
    json.dumps(summary)
    assert json.loads(found.uns[HISTORY])[0]["verb"] == "preprocess rna"
    assert Path(f"{out}.run.json").exists()


def test_the_same_run_gives_the_same_bytes(source: Path, out: Path) -> None:
    options = {"min_cells": 2, "normalize": True, "hvg": 50}
    preprocess_rna([source], out, **options)
    first = out.read_bytes()
    preprocess_rna([source], out, force=True, **options)
    assert out.read_bytes() == first


def test_qc_columns_equal_scanpy(source: Path, out: Path) -> None:
    import scanpy

    preprocess_rna([source], out)
    found, truth = read_h5ad(out), data()
    truth.var["mt"] = truth.var_names.str.startswith("MT-")
    scanpy.pp.calculate_qc_metrics(truth, qc_vars=["mt"], percent_top=None, inplace=True)
    for table, theirs in ((found.obs, truth.obs), (found.var, truth.var)):
        for name in theirs.columns.difference(["kind", "gene_ids"]):
            np.testing.assert_allclose(table[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_only_the_matrix_the_tables_and_the_history_are_carried(tmp_path: Path, out: Path) -> None:
    adata = data()
    adata.obsm["X_pca"], adata.uns["junk"] = np.zeros((120, 2)), {"a": 1}
    adata.layers["other"] = adata.X.copy()
    adata.uns[HISTORY] = json.dumps([{"verb": "before"}])
    preprocess_rna([save(adata, tmp_path / "a.h5ad")], out)
    found = read_h5ad(out)
    assert list(found.obsm) == list(found.layers) == []
    assert list(found.uns) == [HISTORY]
    assert [record["verb"] for record in json.loads(found.uns[HISTORY])] == ["before", "preprocess rna"]


def test_filters_equal_a_dense_reference_and_tell_their_numbers(source: Path, out: Path) -> None:
    dense = data().X.toarray()
    genes = (dense > 0).sum(1)
    mito = 100 * dense[:, :5].sum(1) / dense.sum(1)
    limits = {
        "min_genes": int(np.quantile(genes, 0.3)),
        "min_counts": float(np.quantile(dense.sum(1), 0.2)),
        "max_mito": float(np.quantile(mito, 0.8)),
    }
    kept = genes >= limits["min_genes"]
    kept &= (dense.sum(1) >= limits["min_counts"]) & (mito <= limits["max_mito"])
    columns = (dense[kept] > 0).sum(0) >= 20
    summary = preprocess_rna([source], out, min_cells=20, **limits)
    np.testing.assert_array_equal(read_h5ad(out).X.toarray(), dense[kept][:, columns])
    steps = summary["filters"]
    assert [step["filter"] for step in steps] == ["min-genes", "min-counts", "max-mito", "min-cells"]
    assert steps[0]["before"] == 120
    assert steps[2]["after"] == kept.sum()
    assert steps[3]["after"] == columns.sum()


def test_log1p_uses_the_total_over_all_genes_read(source: Path, out: Path) -> None:
    dense = data().X.toarray()
    preprocess_rna([source], out, normalize=True, hvg=40)
    found = read_h5ad(out)
    truth = np.log1p(found.X.toarray() / dense.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(found.layers[LOG1P_LAYER].toarray(), truth, rtol=1e-5)


@pytest.mark.parametrize("flavor", ["seurat_v3", "seurat", "cell_ranger"])
@pytest.mark.parametrize("by_batch", [False, True])
def test_variable_genes_are_scanpys(tmp_path: Path, out: Path, flavor: str, by_batch: bool) -> None:
    import scanpy

    adata = data(400, 600)
    path = save(adata, tmp_path / "a.h5ad")
    options = {"hvg_batch_key": "kind"} if by_batch else {}
    summary = preprocess_rna([path], out, hvg=100, hvg_flavor=flavor, **options)
    if flavor != "seurat_v3":
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(
        adata, n_top_genes=100, flavor=flavor, batch_key="kind" if by_batch else None, check_values=False
    )
    found = read_h5ad(out)
    assert found.var_names.tolist() == adata.var_names[adata.var["highly_variable"]].tolist()
    assert found.n_vars == 100
    assert summary["hvg"]["batch_key"] == ("kind" if by_batch else None)
    for name in adata.var.columns.difference(["gene_ids", "highly_variable"]):
        theirs = adata.var.loc[found.var_names, name]
        np.testing.assert_allclose(found.var[name].astype(float), theirs.astype(float), rtol=1e-4, err_msg=name)


def test_asking_for_more_genes_than_there_are_keeps_all(source: Path, out: Path) -> None:
    assert preprocess_rna([source], out, hvg=10_000)["genes"] == 200
    assert read_h5ad(out).var["highly_variable"].all()


def test_genes_that_none_could_be_chosen_from_are_all_kept(tmp_path: Path, out: Path) -> None:
    """Where nothing has to be chosen, a fit that would fail is not made: this one would end the process."""
    adata = data(n=40, g=30)
    adata.X = sp.csr_matrix(np.ones((40, 30), dtype=np.float32))
    path = save(adata, tmp_path / "flat.h5ad")
    for batch in (None, "half"):
        adata.obs["half"] = np.repeat(["a", "b"], 20)
        save(adata, path)
        with pytest.raises(InputError, match="only 0 genes vary" + (" in the batch 'a'" if batch else "")):
            preprocess_rna([path], out, hvg=10, hvg_batch_key=batch)
    assert preprocess_rna([path], out, hvg=30)["genes"] == 30


def pair(tmp_path: Path) -> tuple[anndata.AnnData, anndata.AnnData, list[Path]]:
    """Two samples that share genes 50..199 in another order, and some cell names."""
    one = data()
    names = [f"G{i}" for i in np.random.default_rng(1).permutation(np.arange(50, 250))]
    two = data(80, 200, seed=2, names=names)
    two.obs_names = [f"cell{i + 100}" for i in range(80)]
    two.obs["extra"] = 1.0
    return one, two, [save(one, tmp_path / "one.h5ad"), save(two, tmp_path / "two.h5ad")]


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_inputs_are_merged_by_gene_name(tmp_path: Path, out: Path, join: str) -> None:
    one, two, paths = pair(tmp_path)
    summary = preprocess_rna(paths, out, join=join)
    found = read_h5ad(out)
    first = pd.DataFrame(one.X.toarray(), columns=one.var_names)
    second = pd.DataFrame(two.X.toarray(), columns=two.var_names)
    truth = pd.concat([first, second], join=join).fillna(0)
    assert set(found.var_names) == set(truth.columns)
    np.testing.assert_array_equal(found.X.toarray(), truth[found.var_names].to_numpy())
    assert found.X.has_sorted_indices
    assert found.obs["batch"].tolist() == ["one"] * 120 + ["two"] * 80
    assert found.obs_names[0] == "cell0"
    assert found.obs_names[100] == "cell100-one"
    assert found.obs_names[120] == "cell100-two"
    assert found.obs_names[199] == "cell179"
    assert "extra" not in found.obs
    assert found.var["gene_ids"].tolist() == [f"ENSG{name}" for name in found.var_names]
    assert summary["merge"]["genes_common"] == 150
    assert summary["merge"]["cells_renamed"] == 40
    assert summary["merge"]["cell_columns_left_out"] == ["extra"]
    assert summary["batches"] == {"one": 120, "two": 80}


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_depth_is_of_all_genes_read_whatever_is_merged(tmp_path: Path, out: Path, join: str) -> None:
    one, two, paths = pair(tmp_path)
    preprocess_rna(paths, out, join=join, normalize=True)
    found = read_h5ad(out)
    depth = np.concatenate([adata.X.toarray().sum(1) for adata in (one, two)])
    np.testing.assert_allclose(found.obs["total_counts"], depth)
    np.testing.assert_allclose(
        np.expm1(found.layers[LOG1P_LAYER].toarray()), found.X.toarray() / depth[:, None] * 1e4, rtol=1e-4
    )
    genes = np.concatenate([(adata.X.toarray() > 0).sum(1) for adata in (one, two)])
    np.testing.assert_array_equal(found.obs["n_genes_by_counts"], genes)
    low = int(np.median(depth))
    assert preprocess_rna(paths, out, join=join, min_counts=low, force=True)["cells"] == (depth >= low).sum()


def test_gene_order_of_an_input_does_not_change_the_merge(tmp_path: Path, out: Path) -> None:
    _, two, paths = pair(tmp_path)
    preprocess_rna(paths, out)
    before = read_h5ad(out)
    save(two[:, ::-1].copy(), paths[1])
    preprocess_rna(paths, out, force=True)
    after = read_h5ad(out)
    assert after.var_names.tolist() == before.var_names.tolist()
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())


def test_columns_of_unlike_type_and_categories_merge_as_text(tmp_path: Path, out: Path) -> None:
    one, two, paths = pair(tmp_path)
    one.obs["mix"], two.obs["mix"] = pd.Categorical(["u", None] * 60), np.arange(80)
    one.obs["size"], two.obs["size"] = np.arange(120), np.arange(80) / 2
    save(one, paths[0])
    save(two, paths[1])
    preprocess_rna(paths, out, sample=["s1", "s2"], batch_key="sample")
    found = read_h5ad(out)
    assert found.obs["mix"].isna().sum() == 60
    assert found.obs["mix"].tolist()[121] == "1"
    assert found.obs["size"].tolist()[-1] == 39.5
    assert list(found.obs["sample"].cat.categories) == ["s1", "s2"]


def test_batches_without_a_value_become_unknown(tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = data()
    adata.obs["batch"] = [1.0, 2.0, np.nan] * 40
    with caplog.at_level("INFO", "scmap"):
        summary = preprocess_rna([save(adata, tmp_path / "a.h5ad")], out)
    assert summary["batches"] == {"1": 40, "2": 40, "unknown": 40}
    assert "40 cells" in caplog.text


def test_genes_in_no_program_are_dropped_before_variable_genes(source: Path, out: Path, tmp_path: Path) -> None:
    genes = np.array([f"G{i}" for i in range(50, 150)] + ["elsewhere"])
    mask = sp.csc_matrix(np.repeat([[1], [0], [1]], [60, 40, 1], axis=0).astype(np.uint8))
    size = np.array([61])
    path = tmp_path / "p.npz"
    save_programs(path, Programs(mask=mask, genes=genes, programs=np.array(["P"]), size_before=size, size_after=size))
    summary = preprocess_rna([source], out, programs=path, hvg=30)
    assert summary["programs"] == {"before": 200, "after": 60, "programs": 1}
    assert set(read_h5ad(out).var_names) <= {f"G{i}" for i in range(50, 110)}
    assert summary["genes"] == 30
    record = json.loads(read_h5ad(out).uns[HISTORY])[0]
    assert [one["name"] for one in record["inputs"]] == ["a.h5ad", "p.npz"]
    renamed = data(names=[f"Mouse{i}" for i in range(200)])
    with pytest.raises(InputError, match="none of the 61 genes"):
        preprocess_rna([save(renamed, tmp_path / "m.h5ad")], out.with_name("n.h5ad"), programs=path)


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_repeated_names_need_a_word(tmp_path: Path, out: Path) -> None:
    adata = data(names=["A", "B", "A", *(f"G{i}" for i in range(197))])
    adata.var["id"] = [f"E{i}" for i in range(200)]
    adata.obs_names = ["x", *adata.obs_names[:-1]]
    path = save(adata, tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="'A'"):
        preprocess_rna([path], out)
    assert list(out.parent.iterdir()) == []
    preprocess_rna([path], out, make_unique=True)
    assert read_h5ad(out).var_names[:3].tolist() == ["A", "B", "A-1"]
    preprocess_rna([path], out, gene_column="id", force=True)
    assert read_h5ad(out).var_names[:2].tolist() == ["E0", "E1"]
    with pytest.raises(InputError, match="no column 'nope'"):
        preprocess_rna([path], out, gene_column="nope", force=True)


def test_counts_come_from_the_layer_asked_for(tmp_path: Path, out: Path) -> None:
    adata = data()
    adata.layers["raw_counts"] = adata.X.copy()
    adata.X = sp.csr_matrix(adata.X / 3)
    path = save(adata, tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="non-integer"):
        preprocess_rna([path], out)
    assert preprocess_rna([path], out, layer="raw_counts")["inputs"][0]["counts_from"] == "layer 'raw_counts'"
    np.testing.assert_array_equal(read_h5ad(out).X.toarray(), data().X.toarray())


def broken(kind: str) -> anndata.AnnData:
    adata = data()
    if kind == "log-normalised":
        adata.X.data = np.log1p(adata.X.data)
    elif kind == "empty":
        adata = adata[:0].copy()
    elif kind == "zero":
        adata.X = sp.csr_matrix((120, 200), dtype=np.float32)
    else:
        adata.X.data[7] = {"NaN": np.nan, "negative": -1, "non-integer": 0.5}[kind]
    return adata


@pytest.mark.parametrize("kind", ["log-normalised", "empty", "zero", "NaN", "negative", "non-integer"])
def test_unfit_values_end_in_an_input_error_and_no_file(tmp_path: Path, out: Path, kind: str) -> None:
    path = save(broken(kind), tmp_path / "a.h5ad")
    with pytest.raises(InputError) as caught:
        preprocess_rna([path], out)
    assert "\n" not in str(caught.value)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"min_genes": 10**6},
        {"min_counts": 10**9},
        {"max_mito": 0, "min_counts": 1},
        {"min_cells": 10**6},
        {"max_mito": 5, "mito_prefix": ("zz-",)},
        {"hvg": 10, "hvg_batch_key": "absent"},
        {"batch_key": "absent"},
        {"hvg": 10, "hvg_batch_key": "lonely"},
        {"sample": ["s"], "batch_key": "kind"},
    ],
)
def test_options_that_leave_nothing_are_input_errors(tmp_path: Path, out: Path, options: dict) -> None:
    adata = data()
    adata.X = sp.csr_matrix(np.hstack([np.ones((120, 5), np.float32), adata.X.toarray()[:, 5:]]))
    adata.obs["lonely"] = ["one"] + ["many"] * 119
    path = save(adata, tmp_path / "a.h5ad")
    with pytest.raises(InputError):
        preprocess_rna([path], out, **options)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"hvg": 0},
        {"hvg": 5, "hvg_flavor": "best"},
        {"hvg_batch_key": "kind"},
        {"join": "left"},
        {"min_genes": -1},
        {"max_mito": 101},
        {"max_mito": float("nan")},
        {"sample": ["a", "b"]},
        {"sample": [""]},
        {"batch_key": ""},
    ],
)
def test_contradictory_options_are_usage_errors(source: Path, out: Path, options: dict) -> None:
    with pytest.raises(UsageError):
        preprocess_rna([source], out, **options)
    with pytest.raises(UsageError):
        preprocess_rna([source, source], out)
    with pytest.raises(UsageError):
        preprocess_rna([], out)


def test_merging_without_a_gene_in_common_tells_names(tmp_path: Path, out: Path) -> None:
    other = data(names=[f"ENS{i}" for i in range(200)])
    paths = [save(data(), tmp_path / "a.h5ad"), save(other, tmp_path / "b.h5ad")]
    with pytest.raises(InputError, match="ENS0"):
        preprocess_rna(paths, out)
    for path, version in zip(paths, (3, 11), strict=True):
        save(data(names=[f"ENSG{i:011}.{version}" for i in range(200)]), path)
    with pytest.raises(InputError) as caught:
        preprocess_rna(paths, out)
    assert "they agree without the versions" in str(caught.value.hint)
    save(data(), paths[0])
    other = data()
    other.obs["batch"] = "x"
    with pytest.raises(InputError, match="'batch'"):
        preprocess_rna([paths[0], save(other, paths[1])], out)


def test_an_existing_output_and_a_dry_run_are_left_alone(source: Path, out: Path) -> None:
    plan = preprocess_rna([source], out, dry_run=True)
    assert plan["inputs"][0]["form"] == "h5ad"
    assert list(out.parent.iterdir()) == []
    json.dumps(plan)
    out.write_text("mine")
    with pytest.raises(OutputExistsError):
        preprocess_rna([source], out)
    assert out.read_text() == "mine"
    with pytest.raises(InputError):
        preprocess_rna([source.with_name("absent.h5ad")], out, force=True)
    assert out.read_text() == "mine"


def test_cells_and_genes_keep_their_counts_through_a_second_run(source: Path, out: Path) -> None:
    preprocess_rna([source], out, min_cells=30)
    second = out.with_name("second.h5ad")
    preprocess_rna([out], second)
    np.testing.assert_array_equal(read_h5ad(out).X.toarray(), read_h5ad(second).X.toarray())
    assert len(json.loads(read_h5ad(second).uns[HISTORY])) == 2


def test_memory_stays_a_small_multiple_of_the_sparse_matrix(tmp_path: Path) -> None:
    n, g = 20_000, 5_000
    code = f"""
        import resource, sys
        import numpy as np, scipy.sparse as sp, anndata, scanpy, skmisc.loess
        from scmap_cli.stages.preprocess_rna import preprocess_rna
        rng = np.random.default_rng(0)
        per = 100
        columns = np.sort((rng.beta(0.5, 3, ({n}, per)) * {g}).astype(np.int32), axis=1)
        matrix = sp.csr_matrix((np.ones(columns.size, np.float32), columns.ravel(),
                                np.arange(0, columns.size + 1, per)), shape=({n}, {g}))
        matrix.sum_duplicates()
        size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
        adata = anndata.AnnData(matrix)
        adata.obs["batch"] = ["x", "y"] * ({n} // 2)
        adata.write_h5ad("{tmp_path}/a.h5ad")
        small = anndata.AnnData(matrix[:200, :500].copy())
        small.write_h5ad("{tmp_path}/small.h5ad")
        preprocess_rna(["{tmp_path}/small.h5ad"], "{tmp_path}/o.h5ad", hvg=50, normalize=True)
        del adata, small, matrix, columns
        def now(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        before = now()
        open("/proc/self/clear_refs", "w").write("5")
        preprocess_rna(["{tmp_path}/a.h5ad"], "{tmp_path}/p.h5ad", min_cells=2, hvg=1000, normalize=True)
        line = [l for l in open("/proc/self/status") if l.startswith("VmHWM")][0]
        print(size, int(line.split()[1]) * 1024 - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True)
    if done.returncode and "clear_refs" in done.stderr:
        pytest.skip("this kernel does not reset the peak of memory")
    assert done.returncode == 0, done.stderr
    size, used = map(int, done.stdout.split())
    assert used < n * g * 4 / 3
    assert used < 8 * size + (40 << 20)


def labelled(path: Path) -> Path:
    adata = data(n=120, g=60, names=["mt-Nd1", "Mtor", "Rps6", "Rps6ka1", "Gapdh", *(f"G{i}" for i in range(55))])
    adata.obs["kind"] = np.array(["a", "b", "c"])[np.arange(120) % 3]
    # G0 is in class a alone, G1 in a tenth of each class, G2 in all cells.
    dense = adata.X.toarray()
    dense[:, 5:8] = 0
    dense[::3, 5] = 3
    dense[::10, 6] = 1
    dense[:, 7] = 2
    dense[:, [1, 3]] = (np.arange(120) % 2)[:, None]
    dense[::3, 4] = 4
    dense[1::3, 4] = dense[2::3, 4] = 0
    adata.X = sp.csr_matrix(dense)
    return save(adata, path)


def test_gene_filter_of_the_markermap_paper(tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = labelled(tmp_path / "a.h5ad")
    (tmp_path / "house.txt").write_text("GAPDH\n")
    options = {"gene_filter": "markermap", "label_key": "kind"}
    summary = preprocess_rna([path], out, **options)
    kept = set(read_h5ad(out).var_names)
    assert {"Mtor", "Rps6ka1", "Gapdh", "G0"} <= kept
    assert not kept & {"mt-Nd1", "Rps6", "G1", "G2"}
    assert summary["gene_filter"]["classes"] == 3
    assert "takes no house-keeping gene out" in caplog.text
    caplog.clear()
    preprocess_rna([path], out, force=True, housekeeping=tmp_path / "house.txt", **options)
    assert "house-keeping gene out" not in caplog.text
    assert kept - set(read_h5ad(out).var_names) == {"Gapdh"}


def test_gene_filter_by_training_cells_does_not_see_the_others(tmp_path: Path, out: Path) -> None:
    path = labelled(tmp_path / "a.h5ad")
    (tmp_path / "cells.txt").write_text("\n".join(f"cell{i}" for i in range(60)) + "\n")
    options = {"gene_filter": "markermap", "label_key": "kind", "train_cells": tmp_path / "cells.txt"}
    preprocess_rna([path], out, **options)
    before = read_h5ad(out).var_names.tolist()
    other = anndata.read_h5ad(path)
    dense = other.X.toarray()
    dense[60:] = np.random.default_rng(1).poisson(1, (60, 60))
    other.X = sp.csr_matrix(dense)
    preprocess_rna([save(other, tmp_path / "b.h5ad")], out, force=True, **options)
    assert read_h5ad(out).var_names.tolist() == before
    preprocess_rna([tmp_path / "b.h5ad"], out, force=True, **options | {"train_cells": None})
    assert read_h5ad(out).var_names.tolist() != before


@pytest.mark.parametrize("options", [{"hvg": 15}, {"hvg": 15, "hvg_flavor": "seurat_v3"}, {"min_cells": 20}], ids=str)
def test_genes_are_chosen_by_training_cells_alone(tmp_path: Path, out: Path, options: dict) -> None:
    (tmp_path / "cells.txt").write_text("\n".join(f"cell{i}" for i in range(60)) + "\n")
    first = data()
    second = data(seed=5)
    second.X = sp.vstack([first.X[:60], second.X[60:]], format="csr")
    kept = []
    for adata in (first, second):
        path = save(adata, tmp_path / "a.h5ad")
        preprocess_rna([path], out, force=True, train_cells=tmp_path / "cells.txt", **options)
        kept.append(read_h5ad(out).var_names.tolist())
    preprocess_rna([save(first[:60].copy(), tmp_path / "half.h5ad")], out, force=True, **options)
    assert kept[0] == kept[1] == read_h5ad(out).var_names.tolist()
    assert 0 < len(kept[0]) < 200


@pytest.mark.parametrize(("base", "divisor"), [("2", np.log(2)), ("10", np.log(10))])
def test_log_base(source: Path, out: Path, base: str, divisor: float) -> None:
    preprocess_rna([source], out, normalize=True)
    natural = read_h5ad(out).layers[LOG1P_LAYER].toarray()
    preprocess_rna([source], out, normalize=True, log_base=base, force=True)
    found = read_h5ad(out)
    np.testing.assert_allclose(found.layers[LOG1P_LAYER].toarray(), natural / divisor, rtol=1e-6)
    assert found.uns["log1p"]["base"] == float(base)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"gene_filter": "markermap"}, UsageError, "needs classes"),
        ({"gene_filter": "smash", "label_key": "kind"}, UsageError, "--gene-filter must be markermap"),
        ({"label_key": "kind"}, UsageError, "--label-key says nothing without --gene-filter"),
        ({"train_cells": "cells.txt"}, UsageError, "--train-cells says nothing without a choice of genes"),
        ({"log_base": "2"}, UsageError, "--log-base says nothing without --normalize"),
        ({"log_base": "3", "normalize": True}, UsageError, "--log-base must be one of e, 2, 10"),
        ({"gene_filter": "markermap", "label_key": "no"}, InputError, "no obs column 'no'"),
    ],
)
def test_bad_options_of_the_gene_filter(source: Path, out: Path, options: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        preprocess_rna([source], out, **options)
    assert not out.exists()
