"""``evaluate imputation --withhold`` without a model: baselines, files of values, zero-shot fits, misfits."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.npz import write_npz
from scmap_cli.stages.evaluate_withheld import evaluate_withheld


def write(path, n=150, g=40, seed=0, genes=None):
    rng = np.random.default_rng(seed)
    rate = np.exp(np.random.default_rng(7).normal(-0.2, 1, g))[None] * rng.lognormal(0, 0.6, n)[:, None]
    names = genes or [f"G{i}" for i in range(g)]
    obs, var = pd.DataFrame(index=[f"c{i}" for i in range(n)]), pd.DataFrame(index=names)
    anndata.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=obs, var=var).write_h5ad(path)
    return path


def methods(result):
    return {entry["method"]: entry for entry in result["results"]}


@pytest.fixture
def raw(tmp_path):
    return write(tmp_path / "raw.h5ad")


def score(*inputs, raw, **options):
    return evaluate_withheld(inputs, raw=raw, **({"withhold_share": 0.15} | options))


def test_baselines_are_in_order_and_the_file_is_the_result(tmp_path, raw):
    result = score(raw=raw, output=tmp_path / "o.json", baselines=("gene-mean", "additive", "magic"))
    found = methods(result)
    assert found["additive"]["mae"] < found["gene-mean"]["mae"]
    # Zeros count as values for MAGIC, which costs it.
    assert found["magic"]["mae"] > found["additive"]["mae"]
    assert json.loads((tmp_path / "o.json").read_text()) == result
    assert 0.12 < result["settings"]["entries"] / anndata.read_h5ad(raw).X.nnz < 0.18


def test_what_is_left_makes_files_that_are_scored(tmp_path, raw):
    score(raw=raw, observed_output=tmp_path / "left.h5ad", genes_output=tmp_path / "genes.tsv")
    left, whole = anndata.read_h5ad(tmp_path / "left.h5ad"), anndata.read_h5ad(raw)
    marked = left.layers["scmap_withheld"].toarray() > 0
    np.testing.assert_array_equal(left.X.toarray(), np.where(marked, 0, whole.X.toarray()))
    total = left.X.sum(1)
    truth = np.log1p(np.asarray(whole.X.toarray() / np.maximum(total, 1) * 1e4)).astype(np.float32)
    order = np.random.default_rng(0).permutation(150)
    names = {
        "cells": left.obs_names.to_numpy()[order].astype(str),
        "features": left.var_names.to_numpy()[::-1].astype(str),
    }
    write_npz(tmp_path / "i.npz", {"imputed": truth[order][:, ::-1], **names}, {"kind": "imputed"})
    found = methods(score(tmp_path / "i.npz", raw=raw))["i.npz"]
    assert not found["entries_checked"]
    assert found["mae"] < 1e-5
    assert found["pearson"] > 0.9999
    table = pd.read_csv(tmp_path / "genes.tsv", sep="\t")
    assert table["entries"].sum() == marked.sum()
    assert {"gene", "mae_additive", "pearson_additive"} <= set(table.columns)


def test_baselines_can_be_fitted_on_other_cells(tmp_path, raw):
    other = write(tmp_path / "other.h5ad", n=400, seed=1)
    own, shot = methods(score(raw=raw)), methods(score(raw=raw, fit_on=other))
    assert shot["additive"]["mae"] == pytest.approx(own["additive"]["mae"], rel=0.15)
    assert shot["additive"]["mae"] != own["additive"]["mae"]


def test_other_cells_are_thinned_as_the_test_cells_are(tmp_path, raw):
    """The mean of a gene is that of values normalised by observed counts, whatever the share that is hidden."""
    other = write(tmp_path / "other.h5ad", n=3000, seed=1)
    for share in (0.1, 0.6):
        tests = methods(score(raw=raw, fit_on=other, withhold_share=share))
        own = methods(score(raw=raw, withhold_share=share))
        assert tests["gene-mean"]["mae"] == pytest.approx(own["gene-mean"]["mae"], rel=0.08), share


def test_other_cells_with_some_of_the_genes_give_values_of_the_same_unit(tmp_path, raw):
    """Half of the genes are known of the other cells; the values are by the counts of all (a shift of .7 else)."""
    whole = anndata.read_h5ad(write(tmp_path / "other.h5ad", n=3000, seed=1))
    whole[:, ::2].write_h5ad(tmp_path / "half.h5ad")
    found = score(raw=raw, fit_on=tmp_path / "half.h5ad")
    (tmp_path / "genes.txt").write_text("\n".join(whole.var_names[::2]))
    expected = score(raw=raw, fit_on=tmp_path / "other.h5ad", features=tmp_path / "genes.txt")
    assert found["settings"]["entries"] == expected["settings"]["entries"]
    for name in ("gene-mean", "additive"):
        assert methods(found)[name]["mae"] == pytest.approx(methods(expected)[name]["mae"], rel=0.25)


def test_the_order_of_the_raw_file_does_not_matter(tmp_path, raw):
    score(raw=raw, observed_output=tmp_path / "left.h5ad")
    left, whole = anndata.read_h5ad(tmp_path / "left.h5ad"), anndata.read_h5ad(raw)
    left.X = sparse.csr_matrix(np.log1p(left.X.toarray()) + left.layers["scmap_withheld"].toarray())
    left.write_h5ad(tmp_path / "values.h5ad")
    rng = np.random.default_rng(0)
    whole[rng.permutation(150)][:, rng.permutation(40)].write_h5ad(tmp_path / "moved.h5ad")
    one, two = (methods(score(tmp_path / "values.h5ad", raw=path)) for path in (raw, tmp_path / "moved.h5ad"))
    assert one["values.h5ad"]["entries_checked"]
    assert one["values.h5ad"]["mae"] == pytest.approx(two["values.h5ad"]["mae"])
    assert one["additive"]["mae"] == pytest.approx(two["additive"]["mae"], rel=1e-5)
    whole.X.data[0] += 1
    whole.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="other entries"):
        score(tmp_path / "values.h5ad", raw=tmp_path / "other.h5ad")


def test_genes_can_be_chosen(tmp_path, raw):
    (tmp_path / "genes.txt").write_text("G1\nG2\nG3\nG4\n")
    assert score(raw=raw, features=tmp_path / "genes.txt")["settings"]["genes"] == 4


def test_misfits(tmp_path, raw):
    strange = write(tmp_path / "strange.h5ad", genes=[f"X{i}" for i in range(40)])
    with pytest.raises(InputError, match="0 genes in common"):
        score(raw=raw, fit_on=strange)
    with pytest.raises(InputError, match="lacks"):
        score(strange, raw=raw)
    for options in ({"withhold_share": 0.0}, {"withhold_share": 1.0}, {"baselines": ("best",)}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            score(raw=raw, **options)
    alike = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    with pytest.raises(UsageError, match="the same name, model"):
        score(*alike, raw=raw, genes_output=tmp_path / "genes.tsv")
    with pytest.raises(UsageError, match="magic"):
        score(raw=raw, fit_on=raw, baselines=("magic",))
