"""Options that would change nothing beside the others are refused, before any file is looked at."""

from __future__ import annotations

import pytest

MAP = ("map-query", "model", "q.h5ad", "-o", "out.h5ad", "--model-out", "out-model")

EMBED = ("embed", "-o", "out.h5ad")
PCA = (*EMBED, "--baseline", "pca", "q.h5ad")
GENES = (*EMBED, "--genes", "model")

TOKENS = ("train", "expresser", "c.zarr", "-o", "model")

SELECT = ("select-markers", "q.h5ad", "-o", "out.tsv")
SCORE = ("evaluate", "markers", "q.h5ad", "-o", "out.json", "--label-key", "type")
REBUILT = ("evaluate", "reconstruction", "q.h5ad", "-o", "out.json", "--reconstruction", "r.h5ad")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*MAP, "--space", "latent"), "--space needs --label-key"),
        ((*MAP, "--unknown-below", "0.5", "--reference", "r.h5ad"), "--unknown-below needs --label-key"),
        ((*MAP, "--reference", "r.h5ad"), "--reference needs --label-key, --join or --plot"),
        ((*EMBED, "model", "q.h5ad", "--groupby", "batch"), "--groupby needs --program-scores"),
        ((*EMBED, "model", "q.h5ad", "--color", "batch"), "--color needs --plot"),
        ((*PCA, "--color", "batch"), "--color needs --plot"),
        ((*EMBED, "model", "q.h5ad", "--resolution", "0.5"), "--resolution needs --cluster"),
        ((*PCA, "--umap", "--cluster-backend", "igraph"), "--cluster-backend needs --cluster"),
        ((*PCA, "--tsne", "--neighbors", "15"), "--neighbors needs --cluster or --umap"),
        ((*PCA, "--cluster", "louvain", "--cluster-backend", "igraph"), "--cluster-backend is of --cluster leiden"),
        ((*PCA, "--batch-key", "batch"), "--batch-key is for --baseline lsi-harmony"),
        ((*PCA, "--plot", "p.png", "--color", "type", "--batch-key", "batch"), "--batch-key is for --baseline"),
        ((*TOKENS, "--start-from", "old", "--gene-start", "random"), "--gene-start is of a training that begins anew"),
        ((*TOKENS, "--no-decoder", "--no-residual"), "--residual is of the decoder"),
        ((*PCA, "--tfidf", "log-tfidf"), "--tfidf is of LSI"),
        ((*PCA, "--binary"), "--binary is of LSI"),
        ((*PCA, "--keep-first"), "--drop-first is of LSI"),
        ((*GENES, "--layer", "counts"), "--layer is about the cells of INPUT"),
        ((*SELECT, "--benchmark", "methods.txt", "-k", "50", "--k-grid", "5,10"), "-k says nothing with --k-grid"),
        ((*SELECT, "--model", "model", "-k", "50"), "-k says nothing with --model"),
        ((*SELECT, "--model", "model", "--as-published"), "--as-published says nothing with --model"),
        ((*SCORE, "--method", "hvg", "-k", "50", "--k-grid", "5,10"), "-k says nothing with --k-grid"),
        ((*SCORE, "--markers", "m.tsv", "--as-published"), "--as-published is about choosing genes"),
        (("preprocess", "peaks", "a.bed", "-o", "p.bed", "--q-value", "0.1"), "--q-value needs --call"),
        (
            ("preprocess", "multiome", "-o", "m.h5ad", "--reference-key", "X_scvi", "--components", "9"),
            "--components says nothing with --reference-key",
        ),
        (("simulate", "atac", "-o", "s.h5ad", "--open-above", "2"), "--open-above needs --bulk"),
        (
            ("simulate", "atac", "-o", "s.h5ad", "--bulk", "b.tsv", "--open-share", "0.2"),
            "--open-share is of generated",
        ),
        ((*REBUILT, "-k", "50"), "-k is not for --reconstruction"),
        ((*REBUILT, "--splits", "5"), "--splits is not for --reconstruction"),
        ((*REBUILT, "--as-published", "--markers", "m.tsv"), "--as-published is not for --reconstruction"),
        ((*REBUILT[:-2], "--method", "hvg", "--reconstruction-values", "same"), "needs --reconstruction"),
        ((*GENES, "--min-overlap", "0.5"), "--min-overlap is about the cells of INPUT"),
    ],
)
def test_an_option_without_use_is_2(scmap, words, told):
    assert told in scmap(*words, status=2).err
    assert scmap.files() == {}


@pytest.mark.parametrize("words", [("--join", "both.h5ad"), ("--plot", "both.png")])
def test_the_reference_is_also_for_other_outputs(scmap, words):
    assert "model" in scmap(*MAP, "--reference", "r.h5ad", *words, status=3).err


@pytest.mark.parametrize("verb", ["embed", "impute"])
@pytest.mark.parametrize("more", [["--reference-key", "X_pca"], ["--ignore-rna"]])
def test_a_model_without_a_reference(scmap, shelf, verb, more):
    words = (verb, shelf / "sailer", shelf / "data.h5ad", "-o", "out.h5ad", "--device", "cpu", "--dry-run", *more)
    assert more[0] in scmap(*words, status=2).err


def test_variances_that_there_are_not_are_refused_by_a_dry_run(scmap, shelf):
    words = ("embed", shelf / "expresser", shelf / "data.h5ad", "-o", "out.h5ad", "--device", "cpu", "--variance")
    assert "--variance" in scmap(*words, "--dry-run", status=2).err
