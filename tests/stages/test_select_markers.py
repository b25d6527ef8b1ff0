"""select-markers, its benchmark, and the evaluations of genes: files, splits without leakage, and refusals."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures.process import BrokenProcessPool

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmap_cli.errors import DeviceError, InputError, OutputExistsError, StoppedError, UsageError
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.keys import HISTORY, MARKER, MARKER_CLASS, MARKER_RANK, MARKER_SCORE
from scmap_cli.markers.base import run_selector
from scmap_cli.metrics.reconstruction import linear_map
from scmap_cli.registry import get_selector
from scmap_cli.stages import marker_benchmark as bench
from scmap_cli.stages import marker_model
from scmap_cli.stages.evaluate_markers import EVERYWHERE, SELECTION, evaluate_markers
from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
from scmap_cli.stages.marker_tables import read_markers
from scmap_cli.stages.panel import Fold, load_panel
from scmap_cli.stages.scores import render
from scmap_cli.stages.select_markers import select_markers

KEY = {"label_key": "cell_type"}


def table(n=160, g=60, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 4
    mean = np.tile(rng.gamma(2.0, 0.5, g), (n, 1))
    for code in range(4):
        mean[np.ix_(codes == code, range(3 * code, 3 * code + 3))] = 8.0
    counts = rng.poisson(mean * rng.lognormal(0, 0.2, (n, 1))).astype(np.float32)
    obs = pd.DataFrame({"cell_type": np.array(list("ABCD"))[codes]}, index=[f"c{i}" for i in range(n)])
    return anndata.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))


@pytest.fixture
def data(tmp_path):
    table().write_h5ad(tmp_path / "d.h5ad")
    return tmp_path / "d.h5ad"


def rows(text):
    lines = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_the_table_and_the_file_name_the_same_genes(tmp_path, data):
    out, h5ad, plot = tmp_path / "m.tsv", tmp_path / "m.h5ad", tmp_path / "m.png"
    result = select_markers(data, out, k=12, method="t-test", h5ad_output=h5ad, plot=plot, **KEY)
    found = rows(out.read_text())
    assert out.read_text() == result["table"]
    assert list(found[0]) == ["rank", "gene", "score", "class"]
    assert [row["gene"] for row in found] == result["genes"][0]
    assert {row["gene"] for row in found} == {f"G{i}" for i in range(12)}
    assert all("ABCD"[int(row["gene"][1:]) // 3] == row["class"] for row in found)
    adata = read_h5ad(h5ad)
    chosen = adata.var[adata.var[MARKER]].sort_values(MARKER_RANK)
    assert chosen.index.tolist() == result["genes"][0]
    np.testing.assert_allclose(chosen[MARKER_SCORE], [float(row["score"]) for row in found], rtol=1e-5)
    assert chosen[MARKER_CLASS].tolist() == [row["class"] for row in found]
    rest = adata.var[~adata.var[MARKER]]
    assert (rest[MARKER_RANK] == 0).all()
    assert rest[MARKER_SCORE].isna().all()
    assert json.loads(adata.uns[HISTORY])[-1]["verb"] == "select-markers"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_genes_of_raw_that_var_lacks_are_told_before_any_work(tmp_path):
    whole = table()
    part = whole[:, :20].copy()
    part.X = part.X * 0.5
    part.raw = whole
    part.write_h5ad(tmp_path / "raw.h5ad")
    options = {"k": 4, "method": "t-test", **KEY}
    with pytest.raises(InputError, match="genes of raw are not in var, such as 'G20'"):
        select_markers(tmp_path / "raw.h5ad", tmp_path / "m.tsv", h5ad_output=tmp_path / "m.h5ad", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.h5ad"]
    assert select_markers(tmp_path / "raw.h5ad", tmp_path / "m.tsv", **options)["genes"]


def test_the_gene_column_holds_for_the_genes_of_raw(tmp_path):
    """As a file of log values that keeps its counts in raw; the counts are of genes in an order of their own."""
    whole = table()
    whole.var["symbol"] = [f"S{i}" for i in range(60)]
    whole.var_names = [f"ENSG{i}" for i in range(60)]
    part = whole[:, ::-1].copy()
    part.X = part.X * 0.5
    part.raw = whole
    part.write_h5ad(tmp_path / "raw.h5ad")
    options = {"k": 12, "method": "t-test", "gene_column": "symbol", **KEY}
    found = select_markers(tmp_path / "raw.h5ad", tmp_path / "m.tsv", h5ad_output=tmp_path / "m.h5ad", **options)
    assert set(found["genes"][0]) == {f"S{i}" for i in range(12)}
    marked = anndata.read_h5ad(tmp_path / "m.h5ad").var
    assert set(marked.index[marked[MARKER]]) == set(found["genes"][0])


def test_equal_runs_give_equal_bytes(tmp_path, data):
    for name in ("a", "b"):
        select_markers(data, tmp_path / f"{name}.tsv", k=8, method="random", splits=2, **KEY)
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


@pytest.mark.parametrize("method", ["t-test", "hvg", "greedy-columns", "l1-logistic", "smash", "markermap-joint"])
def test_genes_of_a_split_do_not_depend_on_its_test_cells(tmp_path, data, method, monkeypatch):
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 3})
    before = select_markers(data, "-", k=8, method=method, splits=2, **KEY)["table"]
    adata = table()
    fold = Fold(load_panel(data, **KEY), 0, 0)
    changed = adata.X.toarray()
    changed[fold.test] = np.random.default_rng(1).poisson(5, (len(fold.test), 60))
    adata.X = sp.csr_matrix(changed)
    adata.write_h5ad(tmp_path / "other.h5ad")
    after = select_markers(tmp_path / "other.h5ad", "-", k=8, method=method, splits=2, **KEY)["table"]

    def first(text):
        return [row for row in rows(text) if row["split"] == "0"]

    assert first(after) == first(before)
    assert after != before


def test_training_cells_from_a_file(tmp_path, data):
    adata = table()
    names = adata.obs_names[:80].tolist()
    (tmp_path / "cells.txt").write_text("# half\n" + "\n".join(names) + "\n")
    adata[:80].copy().write_h5ad(tmp_path / "half.h5ad")
    some = select_markers(data, "-", k=10, method="t-test", train_cells=tmp_path / "cells.txt", **KEY)
    assert some["table"] == select_markers(tmp_path / "half.h5ad", "-", k=10, method="t-test", **KEY)["table"]
    (tmp_path / "cells.txt").write_text("c1\nnobody\n")
    with pytest.raises(InputError, match=r"1 cells are not in .* such as 'nobody'"):
        select_markers(data, "-", k=10, method="t-test", train_cells=tmp_path / "cells.txt", **KEY)


def test_forced_genes(tmp_path, data):
    (tmp_path / "in.txt").write_text("G50\nG40\n")
    (tmp_path / "out.txt").write_text("G0\n")
    forced = {"force_in": tmp_path / "in.txt", "force_out": tmp_path / "out.txt"}
    genes = select_markers(data, "-", k=12, method="t-test", **forced, **KEY)["genes"][0]
    assert genes[:2] == ["G50", "G40"]
    assert "G0" not in genes
    with pytest.raises(UsageError, match="2 genes are forced in, but -k is 1"):
        select_markers(data, "-", k=1, method="t-test", **forced, **KEY)
    (tmp_path / "out.txt").write_text("G50\n")
    with pytest.raises(UsageError, match="'G50' is forced in and out"):
        select_markers(data, "-", k=5, method="t-test", **forced, **KEY)
    (tmp_path / "out.txt").write_text("Nanog\n")
    with pytest.raises(InputError, match=r"--force-out: 1 genes are not in .* such as 'Nanog'"):
        select_markers(data, "-", k=5, method="t-test", **forced, **KEY)


def test_markermap_forces_genes_in_a_split_as_in_training(tmp_path, data, monkeypatch):
    """They are in the mask while the others are chosen, so a copy of one of them is not chosen beside it."""
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 30})
    (tmp_path / "in.txt").write_text("G50\nG40\n")
    (tmp_path / "out.txt").write_text("G0\n")
    forced = {"force_in": tmp_path / "in.txt", "force_out": tmp_path / "out.txt"}
    found = select_markers(data, "-", k=8, method="markermap", splits=1, **forced, **KEY)
    genes = found["genes"][0]
    assert {"G50", "G40"} < set(genes)
    assert "G0" not in genes
    fold = Fold(load_panel(data, **KEY), 0, 0)
    columns = {name: np.array([int(gene[1:]) for gene in path.read_text().split()]) for name, path in forced.items()}
    told = {"forced_in": columns["force_in"], "forced_out": columns["force_out"]}
    direct = marker_model.select_for_labels(fold.data(None), 8, seed=fold.seed, as_published=False, **told)
    assert [f"G{i}" for i in direct.genes] == genes
    scores = [float(row["score"]) for row in rows(found["table"])]
    assert [gene for gene, score in zip(genes, scores, strict=True) if np.isinf(score)] == genes[:2]


def test_cells_without_a_label_and_excluded_ones(tmp_path):
    adata = table()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object).where(np.arange(160) >= 8, np.nan)
    adata.write_h5ad(tmp_path / "gaps.h5ad")
    panel = load_panel(tmp_path / "gaps.h5ad", exclude_labels=["D"], **KEY)
    assert panel.classes == ("A", "B", "C")
    assert panel.counts.shape[0] == len(panel.codes) == panel.kept.sum() == 114
    with pytest.raises(InputError, match="no cell has the label 'E'"):
        load_panel(tmp_path / "gaps.h5ad", exclude_labels=["E"], **KEY)


BAD = [
    ({"method": None, "label_key": None}, UsageError, "the supervised mode needs labels"),
    ({"method": "t-tset"}, UsageError, "unknown method"),
    ({"k": 0}, UsageError, "-k must be at least 1"),
    ({"k": 61}, InputError, "61 genes are wanted of 60"),
    ({"label_key": None}, InputError, "needs labels"),
    ({"label_key": "no"}, InputError, "no obs column 'no'"),
    ({"splits": 0}, UsageError, "--splits"),
    ({"splits": 2, "plot": "x.png"}, UsageError, "--plot says nothing with --splits"),
    ({"k_grid": (3,)}, UsageError, "--k-grid says nothing without --benchmark"),
    ({"method": "hvg", "label_key": None, "plot": "x.png"}, UsageError, "--plot draws the markers by class"),
    ({"method": "hvg", "label_key": None, "exclude_labels": ["D"]}, UsageError, "--exclude-labels needs to know"),
    ({"benchmark": "m.txt"}, UsageError, "--method says nothing with --benchmark"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD, ids=[text for _, _, text in BAD])
def test_bad_options_write_nothing(tmp_path, data, options, error, text):
    with pytest.raises(error, match=text):
        select_markers(data, tmp_path / "m.tsv", **({"method": "t-test", "k": 5, **KEY} | options))
    assert [path.name for path in tmp_path.iterdir()] == ["d.h5ad"]


def test_a_class_too_small_to_split(tmp_path):
    adata = table()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:3, 0] = "rare"
    adata.write_h5ad(tmp_path / "rare.h5ad")
    with pytest.raises(InputError, match="'rare' has 3 cells, a split needs at least 4"):
        select_markers(tmp_path / "rare.h5ad", "-", k=5, method="t-test", splits=1, **KEY)
    assert len(select_markers(tmp_path / "rare.h5ad", "-", k=5, method="t-test", **KEY)["genes"][0]) == 5


def benchmark(tmp_path, data, **more):
    methods = tmp_path / "methods.txt"
    if not methods.exists():
        methods.write_text("t-test  # Welch\nt-test as-published\n\nhvg\nrandom\n")
    options = {"benchmark": methods, "k_grid": (4, 12), "splits": 2, "workers": 1, **KEY}
    return select_markers(data, tmp_path / "b.tsv", **(options | more))


def test_a_benchmark_is_what_its_parts_are(tmp_path, data):
    result = benchmark(tmp_path, data, summary=tmp_path / "s.tsv", plot=tmp_path / "b.png")
    found = rows((tmp_path / "b.tsv").read_text())
    assert len(found) == 4 * 2 * 2
    single = evaluate_markers(data, "-", method=["t-test"], k_grid=(4, 12), splits=2, **KEY)["results"]
    for entry in single:
        ours = [
            row
            for row in found
            if (row["method"], row["as_published"], row["k"]) == ("t-test", "false", str(entry["k"]))
        ]
        for measure, classifier in (("knn", "knn"), ("rf", "random-forest")):
            values = entry[classifier]["accuracy"]["values"]
            assert [float(row[f"{measure}_accuracy"]) for row in ours] == pytest.approx(values, abs=1e-5)
    linear = evaluate_reconstruction(data, "-", method=["hvg"], k=12, splits=2)["results"][0]["overall"]["mse"]
    assert len(linear["values"]) == 2
    means = rows((tmp_path / "s.tsv").read_text())
    at = {(row["method"], row["as_published"], row["k"]): row for row in means}
    t_test = [float(r["mse"]) for r in found if (r["method"], r["as_published"], r["k"]) == ("t-test", "false", "12")]
    assert float(at["t-test", "false", "12"]["mse_mean"]) == pytest.approx(np.mean(t_test), rel=1e-5)
    assert float(at["t-test", "false", "12"]["mse_sd"]) == pytest.approx(np.std(t_test, ddof=1), rel=1e-4)
    assert float(at["t-test", "false", "12"]["knn_accuracy_mean"]) > float(
        at["random", "false", "12"]["knn_accuracy_mean"]
    )
    machine = json.loads((tmp_path / "b.tsv.run.json").read_text())["machine"]
    assert (
        set(machine["selection_seconds"])
        == {"t-test", "t-test as-published", "hvg", "random"}
        == set(result["seconds"])
    )
    assert (tmp_path / "b.png").stat().st_size > 1000
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.slow
def test_processes_give_the_same_table(tmp_path, data):
    one = benchmark(tmp_path, data)["table"]
    two = benchmark(tmp_path, data, workers=2, force=True)["table"]
    assert two == one


def test_a_stopped_benchmark_goes_on(tmp_path, data, monkeypatch):
    whole = benchmark(tmp_path, data)["table"]
    (tmp_path / "b.tsv").unlink()
    count = []

    def counted(job, *given):
        count.append(job)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(job, *given)

    real = bench.work
    monkeypatch.setattr(bench, "work", counted)
    with pytest.raises(StoppedError, match="SIGTERM"):
        benchmark(tmp_path, data)
    assert not (tmp_path / "b.tsv").exists()
    assert len(count) == 3
    with pytest.raises(UsageError, match="left from a run with other options"):
        benchmark(tmp_path, data, k_grid=(5,))
    assert benchmark(tmp_path, data)["table"] == whole
    assert len(count) == 8


def test_half_a_line_of_a_killed_run_is_done_again(tmp_path, data, monkeypatch):
    whole = benchmark(tmp_path, data)["table"]
    kept = tmp_path / ".b.tsv.partial.jsonl"
    # As if the run had been killed at the end of its last job.
    monkeypatch.setattr(bench, "tables", lambda *parts: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        benchmark(tmp_path, data, force=True)
    monkeypatch.undo()
    kept.write_text(kept.read_text()[:-40])
    assert benchmark(tmp_path, data, force=True)["table"] == whole
    assert not kept.exists()


@pytest.mark.slow
def test_workers_that_a_signal_to_all_ends_are_told_as_a_stop(tmp_path, data, monkeypatch):
    def killed(running, finished):
        os.kill(os.getpid(), signal.SIGTERM)
        raise BrokenProcessPool

    monkeypatch.setattr(bench, "_collect", killed)
    with pytest.raises(StoppedError, match="SIGTERM; what is finished is kept"):
        benchmark(tmp_path, data, workers=2)


@pytest.mark.slow
def test_a_killed_worker_is_told_as_memory(tmp_path, data, monkeypatch):
    def killed(running, finished):
        raise BrokenProcessPool

    monkeypatch.setattr(bench, "_collect", killed)
    with pytest.raises(DeviceError, match="a worker process was killed"):
        benchmark(tmp_path, data, workers=2)
    assert not (tmp_path / "b.tsv").exists()


def test_with_force_a_benchmark_of_other_options_begins_anew(tmp_path, data):
    (tmp_path / ".b.tsv.partial.jsonl").write_text('{"run": "another"}\n{"job": "x", "rows": []}\n')
    with pytest.raises(UsageError):
        benchmark(tmp_path, data)
    assert len(rows(benchmark(tmp_path, data, force=True)["table"])) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t-test twice\n", "line 1: 'twice' is not as-published"),
        ("t-test\nt-test\n", "line 2: t-test is named twice"),
        ("# none\n", "names no method"),
        ("t-tset\n", "unknown method"),
    ],
)
def test_bad_files_of_methods(tmp_path, data, text, message):
    (tmp_path / "methods.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        benchmark(tmp_path, data)


def test_a_benchmark_on_counts_of_raw_depth(tmp_path, data, monkeypatch):
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 2})
    seen = {}
    (tmp_path / "methods.txt").write_text("hvg\nmarkermap\n")

    def store(counts, codes, **more):
        seen.update(more)
        return real(counts, codes, **more)

    real = marker_model.CsrStore
    monkeypatch.setattr(marker_model, "CsrStore", store)
    found = rows(benchmark(tmp_path, data, raw_depth=True, k_grid=(4,), splits=1)["table"])
    assert (seen["size_n"] == 1e4).all()
    fold = Fold(load_panel(data, raw_depth=True, **KEY), 0, 0)
    genes = run_selector(get_selector("hvg"), fold.data(), 4).genes
    logged = np.log1p(table().X.toarray())
    scale = logged[fold.train].mean(axis=0), logged[fold.train].std(axis=0, ddof=1)
    train, test = (((logged[cells] - scale[0]) / scale[1]).clip(-10, 10) for cells in (fold.train, fold.test))
    wrong = linear_map(train[:, genes], train, test[:, genes]) - test
    assert float(found[0]["mse"]) == pytest.approx((wrong**2).mean(), rel=1e-4)
    with pytest.raises(UsageError, match="--raw-depth says nothing without --benchmark"):
        select_markers(data, "-", method="hvg", raw_depth=True)


def test_a_benchmark_without_labels(tmp_path, data):
    (tmp_path / "methods.txt").write_text("hvg\ngreedy-columns\n")
    found = rows(benchmark(tmp_path, data, label_key=None)["table"])
    assert all(row["knn_accuracy"] == "" and float(row["mse"]) > 0 for row in found)
    (tmp_path / "methods.txt").write_text("t-test\n")
    with pytest.raises(InputError, match="t-test needs labels"):
        benchmark(tmp_path, data, label_key=None, force=True)


def test_evaluate_markers_of_methods_and_tables_agree(tmp_path, data):
    select_markers(data, tmp_path / "m.tsv", k=12, method="t-test", splits=3, **KEY)
    scores, confusion, plot = tmp_path / "s.json", tmp_path / "c.tsv", tmp_path / "s.png"
    more = {"confusion_output": confusion, "plot": plot}
    result = evaluate_markers(
        data, scores, method=["t-test"], markers=[tmp_path / "m.tsv"], k=12, splits=3, **more, **KEY
    )
    assert json.loads(scores.read_text()) == json.loads(render(result))
    one, two = result["results"]
    assert (one["source"], two["source"]) == ("method", "table")
    for classifier in ("knn", "random-forest"):
        assert one[classifier] == two[classifier]
        assert one[classifier]["accuracy"]["mean"] > 0.9
        assert len(one[classifier]["accuracy"]["values"]) == 3
        assert set(one[classifier]["classes"]) == set("ABCD")
    cells = [
        int(row["cells"])
        for row in rows(confusion.read_text())
        if (row["name"], row["classifier"]) == ("t-test", "knn")
    ]
    assert len(cells) == 16
    assert sum(cells) == 3 * 32
    assert plot.stat().st_size > 1000


def test_label_noise_in_both_designs(tmp_path, data):
    result = evaluate_markers(
        data, "-", method=["t-test"], k=12, splits=2, label_noise=(0.9,), plot=tmp_path / "n.png", **KEY
    )
    by_design = {entry["design"]: entry["knn"]["accuracy"]["mean"] for entry in result["results"]}
    assert set(by_design) == {None, EVERYWHERE, SELECTION}
    assert by_design[None] >= by_design[SELECTION] > by_design[EVERYWHERE]
    assert (tmp_path / "n.png").exists()


def test_more_genes_tell_more(tmp_path, data):
    result = evaluate_markers(data, "-", method=["random"], k_grid=(1, 40), splits=2, plot=tmp_path / "k.png", **KEY)
    few, many = (entry["random-forest"]["accuracy"]["mean"] for entry in result["results"])
    assert many > few


def test_sizes_of_a_ranking_are_of_one_choice(data, monkeypatch):
    from scmap_cli.stages import evaluate_markers as stage

    calls = []
    original = stage.run_selector

    def counted(spec, split, k, **how):
        calls.append((spec.name, k))
        return original(spec, split, k, **how)

    monkeypatch.setattr(stage, "run_selector", counted)
    options = {"method": ["t-test", "random"], "splits": 1, **KEY}
    both = evaluate_markers(data, "-", k_grid=(4, 9), **options)["results"]
    assert get_selector("t-test").nested
    assert [call for call in calls if call[0] == "t-test"] == [("t-test", 9)]
    few = evaluate_markers(data, "-", k=4, **options)["results"]
    assert [one for one in both if one["k"] == 4] == few


def test_tables_of_all_cells_are_warned_of_and_of_other_seeds_refused(tmp_path, data, caplog):
    select_markers(data, tmp_path / "all.tsv", k=6, method="t-test", **KEY)
    with caplog.at_level("WARNING", "scmap"):
        result = evaluate_markers(data, "-", markers=[tmp_path / "all.tsv"], splits=1, **KEY)
    assert "scores are too good" in caplog.text
    assert result["results"][0]["k"] == 6
    select_markers(data, tmp_path / "seed.tsv", k=6, method="t-test", splits=2, seed=5, **KEY)
    with pytest.raises(UsageError, match="splits of the seed 5"):
        evaluate_markers(data, "-", markers=[tmp_path / "seed.tsv"], splits=2, **KEY)
    with pytest.raises(UsageError, match="has 2 splits"):
        evaluate_markers(data, "-", markers=[tmp_path / "seed.tsv"], splits=3, seed=5, **KEY)
    with pytest.raises(UsageError, match="has 6 genes, 7 are wanted"):
        evaluate_markers(data, "-", markers=[tmp_path / "all.tsv"], k=7, splits=1, **KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nG1\n", "no column 'gene'"),
        ("gene\n", "holds no genes"),
        ("gene\nG1\nG1\n", "line 3: the gene 'G1' is there twice"),
        ("split\tseed\tgene\n0\tx\tG1\n", "line 2 is not of the header's form"),
        ("gene\tscore\nG1\n", "line 2 is not of the header's form"),
        ("split\tseed\tgene\n0\t1\tG1\n1\t2\tG1\n", "mixes splits of the seeds 1, 2"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    (tmp_path / "m.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_markers(tmp_path / "m.tsv")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": []}, UsageError, "nothing to evaluate"),
        ({"label_key": None}, UsageError, "missing --label-key"),
        ({"label_noise": (1.5,)}, UsageError, "--label-noise"),
        ({"splits": 0}, UsageError, "--splits"),
        ({"k": 0}, UsageError, "at least 1"),
        ({"method": ["x"]}, UsageError, "unknown method"),
        ({"exclude_labels": ["A", "B", "C"]}, InputError, "all cells are of the class 'D'"),
    ],
)
def test_bad_options_of_evaluate_markers(tmp_path, data, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_markers(data, tmp_path / "s.json", **({"method": ["t-test"], "splits": 1, **KEY} | options))
    assert not (tmp_path / "s.json").exists()


def test_evaluate_reconstruction(tmp_path, data):
    out = tmp_path / "r.json"
    result = evaluate_reconstruction(data, out, method=["greedy-columns", "random"], k=4, splits=2, **KEY)
    assert json.loads(out.read_text())["results"] == result["results"]
    greedy, chance = (entry["overall"]["mse"]["mean"] for entry in result["results"])
    assert greedy < chance
    assert set(result["results"][0]["types"]) == set("ABCD")
    assert result["results"][0]["types"]["A"]["cells"]["mean"] == 8
    with pytest.raises(OutputExistsError):
        evaluate_reconstruction(data, out, method=["random"], k=12)


def test_a_reconstruction_of_counts_that_is_perfect(tmp_path, data):
    table()[::-1, ::-1].copy().write_h5ad(tmp_path / "same.h5ad")
    for scale in ("scaled", "global"):
        entry = evaluate_reconstruction(
            data, "-", reconstruction=[tmp_path / "same.h5ad"], reconstruction_values="counts", scale=scale, **KEY
        )["results"][0]
        assert entry["overall"]["mse"] == pytest.approx(0, abs=1e-9)
        assert entry["overall"]["spearman"] == pytest.approx(1)
        assert entry["overall"]["cells"] == 160


def test_a_reconstruction_in_log1p_that_is_perfect(tmp_path, data):
    adata = table()
    adata.X = load_panel(data).log1p.toarray()
    adata.write_h5ad(tmp_path / "log1p.h5ad")
    for scale in ("scaled", "global"):
        entry = evaluate_reconstruction(
            data, "-", reconstruction=[tmp_path / "log1p.h5ad"], reconstruction_values="log1p", scale=scale,
            plot_types=tmp_path / f"{scale}.png", **KEY
        )["results"][0]  # fmt: skip
        assert entry["overall"]["mse"] == pytest.approx(0, abs=1e-9)
        assert (tmp_path / f"{scale}.png").stat().st_size > 1000


def test_a_reconstruction_on_the_papers_global_scale(tmp_path, data, caplog):
    adata = table()
    logged = np.log2(1 + adata.X.toarray().astype(np.float64))
    wrong = (logged - logged.mean()) / logged.std() + 0.5
    anndata.AnnData(wrong, obs=adata.obs, var=adata.var).write_h5ad(tmp_path / "off.h5ad")
    entry = evaluate_reconstruction(data, "-", reconstruction=[tmp_path / "off.h5ad"], scale="global")["results"][0]
    assert entry["overall"]["mse"] == pytest.approx(0.25, rel=1e-6)
    assert entry["overall"]["l2"] == pytest.approx(0.5 * np.sqrt(60), rel=1e-6)
    anndata.AnnData(wrong, obs=adata.obs, var=adata.var)[:50, :30].copy().write_h5ad(tmp_path / "part.h5ad")
    with caplog.at_level("WARNING", "scmap"):
        evaluate_reconstruction(data, "-", reconstruction=[tmp_path / "part.h5ad"], scale="global")
    assert "50 of 160 cells and 30 of 60 genes" in caplog.text


def test_bad_options_of_evaluate_reconstruction(tmp_path, data):
    for options in (
        {},
        {"method": ["hvg"], "scale": "x"},
        {"method": ["hvg"], "k": 0},
        {"method": ["hvg"], "splits": 0},
        {"method": ["hvg"], "plot_types": tmp_path / "types.png"},
    ):
        with pytest.raises(UsageError):
            evaluate_reconstruction(data, "-", **options)
    other = table()
    other.obs_names = [f"z{i}" for i in range(160)]
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="shares 0 cells and 60 genes"):
        evaluate_reconstruction(data, "-", reconstruction=[tmp_path / "other.h5ad"])
    negative = table()
    negative.X = negative.X.toarray() - 1.0
    negative.write_h5ad(tmp_path / "negative.h5ad")
    with pytest.raises(InputError, match="negative values are no counts"):
        evaluate_reconstruction(data, "-", reconstruction=[tmp_path / "negative.h5ad"], reconstruction_values="counts")


@pytest.mark.parametrize("verb", [evaluate_markers, evaluate_reconstruction])
def test_tables_of_one_name_are_refused(tmp_path, data, verb):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.tsv").write_text("gene\ng0\n")
    with pytest.raises(UsageError, match=r"the same name, m\.tsv"):
        verb(data, "-", markers=[tmp_path / "a/m.tsv", tmp_path / "b/m.tsv"], k=1, **KEY)


def test_dry_runs_check_and_write_nothing(tmp_path, data):
    (tmp_path / "methods.txt").write_text("hvg\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    select_markers(data, tmp_path / "m.tsv", method="hvg", k=5, dry_run=True)
    benchmark(tmp_path, data, dry_run=True)
    evaluate_markers(data, tmp_path / "s.json", method=["hvg"], dry_run=True, **KEY)
    evaluate_reconstruction(data, tmp_path / "r.json", method=["hvg"], dry_run=True)
    for verb in (evaluate_markers, evaluate_reconstruction):
        with pytest.raises(InputError, match="500 genes are wanted of 60"):
            verb(data, tmp_path / "s.json", method=["hvg"], k=500, dry_run=True, **KEY)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
