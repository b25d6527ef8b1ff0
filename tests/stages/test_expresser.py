"""Expresser from corpus to imputed values through the stages: what is learned, written, resumed and refused."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.data.decomposition import gene_svd
from scmap_cli.errors import InputError, StoppedError, UsageError
from scmap_cli.io.bundle import load_bundle, read_history
from scmap_cli.io.npz import read_npz
from scmap_cli.io.shards import Corpus, open_corpus
from scmap_cli.plots.imputation import BeforeAfter, before_after
from scmap_cli.stages import imputed as writing
from scmap_cli.stages.embed import embed
from scmap_cli.stages.embed_genes import embed_genes
from scmap_cli.stages.evaluate_withheld import evaluate_withheld
from scmap_cli.stages.impute import impute
from scmap_cli.stages.preprocess_corpus import preprocess_corpus
from scmap_cli.stages.train_expresser import train_expresser

MODEL = {"preset": "tiny", "width": 16, "layers": 1, "max_genes": 48}
TRAIN = {"epochs": 2, "batch_size": 16, "lr": 0.01}
G = 60


def counts(n: int, seed: int) -> sparse.csr_matrix:
    """Cells of three types, of different depths."""
    shape = np.random.default_rng(9)
    profile = np.exp(shape.normal(-0.3, 1.2, (3, G)))
    rng = np.random.default_rng(seed)
    rate = profile[rng.integers(3, size=n)] * rng.lognormal(0, 0.5, n)[:, None]
    return sparse.csr_matrix(rng.poisson(rate).astype(np.float32))


def write(path: Path, n: int, seed: int, **layers: object) -> Path:
    genes = [f"G{i}" for i in range(G)]
    obs = pd.DataFrame(index=[f"{path.stem}{i}" for i in range(n)])
    anndata.AnnData(counts(n, seed), obs=obs, var=pd.DataFrame(index=genes), layers=layers).write_h5ad(path)
    return path


@dataclass(frozen=True)
class Case:
    corpus: Path
    test: Path
    model: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("expresser")
    files = [write(folder / "a.h5ad", 200, 0), write(folder / "b.h5ad", 120, 1)]
    preprocess_corpus(files, folder / "c.zarr", part_cells=96, block_cells=16)
    made = Case(folder / "c.zarr", write(folder / "test.h5ad", 80, 2), folder / "model")
    train_expresser(
        made.corpus, made.model, model_options=MODEL, train_options=TRAIN | {"epochs": 12, "lr": 0.02}, device="cpu"
    )
    return made


def test_it_learns_more_than_the_additive_model_and_says_how_fast(case: Case) -> None:
    found = evaluate_withheld([case.model], raw=case.test, withhold_share=0.1, device="cpu")
    by_method = {entry["method"]: entry for entry in found["results"]}
    assert by_method["model"]["mae"] < by_method["additive"]["mae"] < by_method["gene-mean"]["mae"]
    assert by_method["model"]["within_gene_pearson"] > by_method["gene-mean"]["within_gene_pearson"] == 0
    history = read_history(case.model)
    assert history[-1]["valid_mse"] < 0.7 * history[0]["valid_mse"]
    machine = json.loads(case.model.with_name("model.run.json").read_text())["machine"]
    assert machine["tokens_per_second"] > machine["cells_per_second"] > 0
    assert 0 < machine["model_flop_utilisation"] < 1


def train(case: Case, output: Path, **options: object) -> dict[str, bytes]:
    settings = TRAIN | dict(options.pop("train", {}))  # type: ignore[call-overload]
    train_expresser(case.corpus, output, model_options=MODEL, train_options=settings, device="cpu", **options)  # type: ignore[arg-type]
    return {
        path.name: path.read_bytes() for path in output.iterdir() if path.suffix in (".safetensors", ".csv", ".tsv")
    }


@pytest.mark.parametrize("steps", [3, 19, 20])
def test_resumed_in_the_middle_of_an_epoch_equals_straight(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    from scmap_cli.training.loop import Trainer

    straight = train(case, tmp_path / "straight")
    original, done = Trainer._step, 0

    def step(self, rows):  # type: ignore[no-untyped-def]
        nonlocal done
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, rows)

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(StoppedError):
        train(case, tmp_path / "broken")
    assert os.listdir(tmp_path / "broken") == ["checkpoints"]
    # what only a fresh run needs is not worked out again
    monkeypatch.setattr("scmap_cli.stages.train_expresser.gene_svd", None)
    assert train(case, tmp_path / "broken") == straight


def test_accumulated_batches_equal_one_large(case: Case, tmp_path: Path) -> None:
    from safetensors.numpy import load

    one = train(case, tmp_path / "one", train={"batch_size": 32, "adam_eps": 1e-3})
    four = train(case, tmp_path / "four", train={"batch_size": 8, "accumulate": 4, "adam_eps": 1e-3})
    left, right = load(one["model.safetensors"]), load(four["model.safetensors"])
    for name, expected in left.items():
        np.testing.assert_allclose(right[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)


def test_a_stopped_run_goes_on_with_other_batches_of_the_same_step(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another number of processes: the cells of a step stay, how they are split does not matter."""
    from safetensors.numpy import load

    from scmap_cli.training.loop import Trainer

    straight = train(case, tmp_path / "straight", train={"batch_size": 16, "adam_eps": 1e-3})
    original, done = Trainer._step, 0

    def step(self, rows):  # type: ignore[no-untyped-def]
        nonlocal done
        done += 1
        if done == 22:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, rows)

    monkeypatch.setattr(Trainer, "_step", step)
    with pytest.raises(StoppedError):
        train(case, tmp_path / "m", train={"batch_size": 16, "adam_eps": 1e-3})
    resumed = train(case, tmp_path / "m", train={"batch_size": 8, "accumulate": 2, "adam_eps": 1e-3})
    assert done < 22 + 60
    left, right = load(straight["model.safetensors"]), load(resumed["model.safetensors"])
    for name, expected in left.items():
        np.testing.assert_allclose(right[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)


def test_warm_up_and_cosine_move_the_rate(case: Case, tmp_path: Path) -> None:
    train(case, tmp_path / "m", train={"epochs": 4, "warmup": 0.5})
    rates = [row["lr"] for row in read_history(tmp_path / "m")]
    assert rates == sorted(rates[:2]) + sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0.001)
    assert max(rates) == pytest.approx(0.01)


def test_an_excluded_study_has_no_say(case: Case, tmp_path: Path) -> None:
    train(case, tmp_path / "m", exclude_studies=["b"])
    split = pd.read_csv(tmp_path / "m" / "split.tsv", sep="\t")
    assert set(split["cell"].str[0]) == {"a"}
    with pytest.raises(UsageError, match="no study 'x'"):
        train(case, tmp_path / "n", exclude_studies=["x"])
    with pytest.raises(InputError, match="0 cells"):
        train(case, tmp_path / "n", exclude_studies=["a", "b"])


def test_names_of_cells_are_read_for_the_directory_alone(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are most of what is known of a cell, and training needs none."""
    read, original = [], Corpus.columns
    monkeypatch.setattr(Corpus, "columns", lambda self, i, *names: read.append(names) or original(self, i, *names))
    options = {"model_options": MODEL, "train_options": TRAIN, "device": "cpu"}
    train_expresser(case.corpus, tmp_path / "m", dry_run=True, **options)  # type: ignore[arg-type]
    assert read
    assert not any("cell" in names for names in read)
    train_expresser(case.corpus, tmp_path / "m", exclude_studies=["b"], **options)  # type: ignore[arg-type]
    corpus = open_corpus(case.corpus)
    parts = [corpus.read(number, names=True) for number in range(len(corpus.parts))]
    names = [name for part in parts for name in part.names or [] if name[0] == "a"]
    assert pd.read_csv(tmp_path / "m" / "split.tsv", sep="\t")["cell"].tolist() == names


def test_gene_tokens_begin_as_the_co_expression_of_the_training_cells(case: Case, tmp_path: Path) -> None:
    tables = {}
    for start in ("co-expression", "random"):
        still = {"epochs": 1, "lr": 1e-9}
        options = MODEL | {"gene_start": start}
        train_expresser(case.corpus, tmp_path / start, model_options=options, train_options=still, device="cpu")
        tables[start] = load_bundle(tmp_path / start).tensors["gene_gd"].astype(np.float64)
    split = pd.read_csv(tmp_path / "random" / "split.tsv", sep="\t")
    trained = split.loc[split["split"] == "train", "cell"].tolist()
    whole = anndata.concat([anndata.read_h5ad(case.corpus.with_name(name)) for name in ("a.h5ad", "b.h5ad")])
    wanted = gene_svd(whole[trained, open_corpus(case.corpus).genes].X, MODEL["width"])
    wanted *= 0.1 / np.sqrt(np.square(wanted).mean())
    # components are known but for their signs
    np.testing.assert_allclose(np.abs(tables["co-expression"]), np.abs(wanted), atol=1e-5)
    assert np.abs(tables["random"]).max() < 0.1
    assert abs(np.corrcoef(tables["random"].ravel(), wanted.ravel())[0, 1]) < 0.2


def test_fine_tuning_starts_where_the_model_ended(case: Case, tmp_path: Path) -> None:
    tuned = {"epochs": 1, "lr": 1e-9}
    train(case, tmp_path / "m", start_from=case.model, train=tuned)
    old, new = load_bundle(case.model).tensors, load_bundle(tmp_path / "m").tensors
    np.testing.assert_allclose(new["gene_gd"], old["gene_gd"], atol=1e-6)
    preprocess_corpus([case.test], tmp_path / "t.zarr", genes=case.model)
    wide = MODEL | {"width": 32}
    with pytest.raises(UsageError, match="other sizes"):
        train_expresser(case.corpus, tmp_path / "n", start_from=case.model, model_options=wide, device="cpu")
    # Of the same sizes, but the weights mean something else.
    for other in ({"heads": 4}, {"binning": "quantile"}, {"residual": False}):
        name = next(iter(other))
        with pytest.raises(UsageError, match=f"was trained with {name}"):
            train_expresser(
                case.corpus, tmp_path / "n", start_from=case.model, model_options=MODEL | other, device="cpu"
            )
    shuffled = tmp_path / "genes.txt"
    shuffled.write_text("\n".join(f"G{i}" for i in reversed(range(G))))
    preprocess_corpus([case.test], tmp_path / "u.zarr", genes=shuffled)
    with pytest.raises(InputError, match="another gene list"):
        train_expresser(tmp_path / "u.zarr", tmp_path / "n", start_from=case.model, model_options=MODEL, device="cpu")


def test_a_changed_corpus_is_refused(case: Case, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "c.zarr"
    shutil.copytree(case.corpus, broken)
    victim = broken / "part-00001" / "gene" / "c" / "0"
    victim.write_bytes(victim.read_bytes()[:-3])
    with pytest.raises(InputError, match="part-00001"):
        train_expresser(broken, tmp_path / "m", model_options=MODEL, train_options=TRAIN, device="cpu")
    assert not (tmp_path / "m").exists()


def test_cells_are_embedded(case: Case, tmp_path: Path) -> None:
    embed(case.model, case.test, tmp_path / "e.npz", device="cpu")
    _, arrays = read_npz(tmp_path / "e.npz")
    assert arrays["embedding"].shape == (80, 16)
    with pytest.raises(UsageError, match="--variance"):
        embed(case.model, case.test, tmp_path / "f.npz", variance=True, device="cpu")


@pytest.mark.parametrize("form", ["npz", "tsv", "h5ad"])
def test_the_static_table_has_names(case: Case, tmp_path: Path, form: str) -> None:
    from scmap_cli.io.gene_data import read_embedding

    embed_genes(case.model, tmp_path / f"g.{form}", device="cpu")
    names, table = read_embedding(tmp_path / f"g.{form}")
    bundle = load_bundle(case.model)
    assert names.tolist() == bundle.features.tolist()
    np.testing.assert_allclose(table, bundle.tensors["gene_gd"], rtol=1e-5)


def test_missing_genes_are_not_expressed(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which it expresses"):
        embed(case.model, case.test, tmp_path / "e.npz", missing="reference-mean", device="cpu")


def test_a_dry_run_encodes_no_cell(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = embed_genes(case.model, tmp_path / "g.npz", input=case.test, device="cpu")
    monkeypatch.setattr("scmap_cli.stages.embed_genes._in_context", None)
    assert embed_genes(case.model, tmp_path / "h.npz", input=case.test, device="cpu", dry_run=True) == told
    assert not (tmp_path / "h.npz").exists()


def test_contextual_genes_are_means_over_cells(case: Case, tmp_path: Path) -> None:
    embed_genes(case.model, tmp_path / "g.npz", input=case.test, device="cpu", batch_size=7)
    embed_genes(case.model, tmp_path / "h.npz", input=case.test, device="cpu")
    (_, one), (_, two) = read_npz(tmp_path / "g.npz"), read_npz(tmp_path / "h.npz")
    np.testing.assert_allclose(one["embedding"], two["embedding"], atol=1e-5)
    expressed = np.asarray(anndata.read_h5ad(case.test).X.sum(0)).ravel() > 0
    assert one["genes"].tolist() == sorted(f"G{i}" for i in np.flatnonzero(expressed))


def test_candidates_are_imputed_and_own_values_stay(case: Case, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("\n".join(f"G{i}" for i in range(40)))
    impute(case.model, case.test, tmp_path / "i.npz", features=tmp_path / "genes.txt", device="cpu")
    _, arrays = read_npz(tmp_path / "i.npz")
    raw = anndata.read_h5ad(case.test).X.toarray()
    known = np.log1p(raw / raw.sum(1, keepdims=True) * 1e4)[:, :40]
    np.testing.assert_allclose(arrays["imputed"][known > 0], known[known > 0], rtol=1e-5)
    assert (arrays["imputed"][known == 0] > 0).all()


@pytest.mark.parametrize("form", ["h5ad", "npz"])
def test_marked_entries_are_imputed_as_in_the_evaluation(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The file of what is left, imputed by the verb, scores as the model does directly; other entries are refused."""
    observed, imputed = tmp_path / "observed.h5ad", tmp_path / f"imputed.{form}"
    direct = evaluate_withheld([case.model], raw=case.test, withhold_share=0.1, observed_output=observed, device="cpu")
    left = anndata.read_h5ad(observed)
    assert (left.X.multiply(left.layers["scmap_withheld"])).nnz == 0
    seen: list[BeforeAfter] = []
    monkeypatch.setattr(writing, "before_after", lambda shown, path: (seen.append(shown), before_after(shown, path)))
    plot = tmp_path / "imputed.png"
    impute(case.model, observed, imputed, entries_layer="scmap_withheld", device="cpu", plot=plot)
    # In the picture, what was marked comes to what was there.
    marked = left.layers["scmap_withheld"][:, left.var_names.get_indexer(seen[0].names_f)].toarray() > 0
    np.testing.assert_array_equal(seen[0].after_sf[~marked], seen[0].before_sf[~marked])
    assert (seen[0].before_sf[marked] == 0).all()
    assert (seen[0].after_sf[marked] > 0).all()
    assert plot.exists()
    if form == "h5ad":
        scored = evaluate_withheld([imputed], raw=case.test, withhold_share=0.1, features=case.model, device="cpu")
        assert scored["results"][-1]["mae"] == pytest.approx(direct["results"][-1]["mae"], rel=1e-4)
        assert scored["results"][-1]["entries_checked"]
    for other in ({"seed": 1, "withhold_share": 0.1}, {"seed": 0, "withhold_share": 0.2}):
        if form == "h5ad":
            with pytest.raises(InputError, match="without other entries"):
                evaluate_withheld([imputed], raw=case.test, device="cpu", **other)  # type: ignore[arg-type]
    if form == "npz":
        header, _ = read_npz(imputed)
        assert header["withheld"]["entries"] == direct["settings"]["entries_digest"]
        assert (header["withheld"]["seed"], header["withheld"]["share"]) == (0, 0.1)


def test_the_genes_that_are_scored_do_not_limit_what_a_model_sees(case: Case, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("\n".join(f"G{i}" for i in range(0, G, 4)))
    for name, features in (("all", None), ("some", tmp_path / "genes.txt")):
        evaluate_withheld(
            [case.model],
            raw=case.test,
            withhold_share=0.1,
            features=features,
            genes_output=tmp_path / f"{name}.tsv",
            device="cpu",
        )
    whole, some = (pd.read_csv(tmp_path / f"{name}.tsv", sep="\t", index_col=0) for name in ("all", "some"))
    assert 10 <= len(some) < len(whole)
    pd.testing.assert_frame_equal(some, whole.loc[some.index])


def extended(path: Path, case: Case) -> Path:
    """The test cells with ten more genes, which the model lacks."""
    adata = anndata.read_h5ad(case.test)
    more = np.random.default_rng(5).poisson(2.0, (adata.n_obs, 10)).astype(np.float32)
    genes = [*adata.var_names, *(f"X{i}" for i in range(10))]
    both = sparse.csr_matrix(sparse.hstack([adata.X, more]))
    anndata.AnnData(both, obs=adata.obs, var=pd.DataFrame(index=genes)).write_h5ad(path)
    return path


def test_values_are_by_all_counts_of_the_file(case: Case, tmp_path: Path) -> None:
    """Genes that the model lacks count for the total, of own values and of predicted ones."""
    wider = extended(tmp_path / "wider.h5ad", case)
    (tmp_path / "genes.txt").write_text("\n".join(f"G{i}" for i in range(40)))
    values = []
    for data in (case.test, wider):
        impute(case.model, data, tmp_path / "i.npz", features=tmp_path / "genes.txt", device="cpu", force=True)
        values.append(read_npz(tmp_path / "i.npz")[1]["imputed"])
    ratio = np.asarray(anndata.read_h5ad(case.test).X.sum(1) / anndata.read_h5ad(wider).X.sum(1))
    np.testing.assert_allclose(values[1], np.log1p(np.expm1(values[0]) * ratio), rtol=1e-4)
    found = evaluate_withheld([case.model], raw=wider, withhold_share=0.1, device="cpu")
    by_method = {entry["method"]: entry for entry in found["results"]}
    assert found["settings"]["genes"] == G
    assert by_method["model"]["mae"] < by_method["additive"]["mae"]


def test_a_candidate_has_the_same_value_in_any_list_and_file(case: Case, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(case.test)
    adata[[70, 3, 11]].write_h5ad(tmp_path / "few.h5ad")
    (tmp_path / "all.txt").write_text("\n".join(f"G{i}" for i in range(G)))
    (tmp_path / "few.txt").write_text("G9\nG31\nG2\n")
    impute(case.model, case.test, tmp_path / "all.npz", features=tmp_path / "all.txt", device="cpu")
    impute(case.model, tmp_path / "few.h5ad", tmp_path / "few.npz", features=tmp_path / "few.txt", device="cpu")
    whole, few = (read_npz(tmp_path / f"{name}.npz")[1]["imputed"] for name in ("all", "few"))
    np.testing.assert_allclose(few, whole[np.ix_([70, 3, 11], [9, 31, 2])], rtol=1e-5)


def test_cells_without_counts_get_no_values(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = anndata.read_h5ad(case.test)
    lil = adata.X.tolil()
    lil[[4, 9]] = 0
    adata.X = sparse.csr_matrix(lil)
    adata.write_h5ad(tmp_path / "some.h5ad")
    (tmp_path / "genes.txt").write_text("G1\nG2\n")
    impute(case.model, tmp_path / "some.h5ad", tmp_path / "i.npz", features=tmp_path / "genes.txt", device="cpu")
    values = read_npz(tmp_path / "i.npz")[1]["imputed"]
    assert (values[[4, 9]] == 0).all()
    assert (np.delete(values, [4, 9], axis=0) > 0).all()
    assert "2 cells have no observed count" in caplog.text
    # All that is left of every cell is marked, and so not told.
    adata.layers["all"] = sparse.csr_matrix((adata.X > 0).astype(np.int8))
    adata.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(InputError, match="no cell has an observed count"):
        impute(case.model, tmp_path / "none.h5ad", tmp_path / "j.npz", entries_layer="all", device="cpu")
    assert not (tmp_path / "j.npz").exists()


def test_what_is_asked_for_must_be_said(case: Case, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("G1\nNOVEL\n")
    with pytest.raises(UsageError, match="asked for"):
        impute(case.model, case.test, tmp_path / "i.npz", device="cpu")
    with pytest.raises(UsageError, match="--binarize"):
        impute(case.model, case.test, tmp_path / "i.npz", binarize="scale", device="cpu")
    with pytest.raises(InputError, match="NOVEL"):
        impute(case.model, case.test, tmp_path / "i.npz", features=tmp_path / "genes.txt", device="cpu")
    with pytest.raises(InputError, match="no layer 'x'"):
        impute(case.model, case.test, tmp_path / "i.npz", entries_layer="x", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genes.txt"]
