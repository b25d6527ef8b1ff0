"""SAILER from peaks to embedding and imputed matrix: what the files hold, invariance, and every refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.models.sailer import Sailer
from scmap_cli.plots.imputation import BeforeAfter, before_after
from scmap_cli.stages import imputed, weight_search
from scmap_cli.stages.embed import embed
from scmap_cli.stages.impute import impute
from scmap_cli.stages.train_sailer import train_sailer
from scmap_cli.training.infer import restore_model

CELLS, PEAKS = 300, 150
SMALL = {"model_options": {"hidden": [32, 16], "latent": 4, "positive_weight": "none"}}
SHORT = {"train_options": {"epochs": 40, "batch_size": 50}}


def peaks() -> anndata.AnnData:
    """Three types with their own peaks; two batches that differ tenfold in depth."""
    rng = np.random.default_rng(0)
    kind, batch = rng.integers(3, size=CELLS), rng.integers(2, size=CELLS)
    profile = np.full((3, PEAKS), 0.03)
    for k in range(3):
        profile[k, 40 * k : 40 * k + 40] = 0.8
    depth = rng.lognormal(0, 0.3, CELLS) * np.where(batch == 0, 0.15, 0.6)
    x = (rng.random((CELLS, PEAKS)) < np.clip(profile[kind] * depth[:, None], 0, 0.95)).astype(np.int32)
    x[:, 0] = 1
    names = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(PEAKS)]
    obs = pd.DataFrame(
        {"type": kind.astype(str), "batch": np.where(batch == 0, "poor", "rich"), "fragments": depth * 1e4},
        index=[f"c{i}" for i in range(CELLS)],
    )
    made = anndata.AnnData(sparse.csr_matrix(x * rng.integers(1, 4, x.shape)), obs=obs, var=pd.DataFrame(index=names))
    made.varm["profile"] = profile.T
    return made


@dataclass(frozen=True)
class Made:
    data: Path
    model: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sailer")
    made = Made(folder / "peaks.h5ad", folder / "model")
    write_h5ad(peaks(), made.data)
    train_sailer(made.data, made.model, batch_key="batch", depth_key="fragments", **SMALL, **SHORT)
    return made


def test_the_directory_says_what_the_model_was_told(made: Made) -> None:
    bundle = load_bundle(made.model)
    assert bundle.config["model"] == "sailer"
    assert bundle.config["capabilities"] == ["embed", "impute"]
    assert [told["name"] for told in bundle.config["covariates"]] == ["fragments"]
    assert bundle.config["condition_depth"]["rich"] > 3 * bundle.config["condition_depth"]["poor"]
    assert bundle.categories["latent"] == ["z1", "z2", "z3", "z4"]
    opened = peaks().X > 0
    np.testing.assert_allclose(bundle.feature_means, np.asarray(opened.mean(0)).ravel(), rtol=1e-6)
    metrics = json.loads((made.model / "metrics.json").read_text())
    assert metrics["peaks"] == PEAKS
    assert "programs" not in metrics
    assert not (made.model / "programs.tsv").exists()
    assert "150 peaks" in (made.model / "README.md").read_text()


def test_types_stay_apart_and_depth_does_not_show(made: Made, tmp_path: Path) -> None:
    from sklearn.metrics import adjusted_rand_score

    embed(made.model, made.data, tmp_path / "e.h5ad", cluster_method="leiden", resolution=0.3)
    found = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert found.obsm["X_sailer"].shape == (CELLS, 4)
    rich = found.obs["batch"] == "rich"
    assert adjusted_rand_score(found.obs["type"][rich], found.obs["sailer_cluster"][rich]) > 0.8
    raw = np.corrcoef(np.log(found.obs["fragments"]), np.asarray((found.X > 0).sum(1)).ravel())[0, 1]
    worst = max(abs(np.corrcoef(np.log(found.obs["fragments"]), z)[0, 1]) for z in found.obsm["X_sailer"].T)
    assert worst < 0.35 < 0.8 < raw


def test_counts_count_once_and_new_batches_are_embedded_with_a_warning(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = anndata.read_h5ad(made.data)
    data.X = data.X.copy()
    data.X.data[:] = 1
    data.obs["batch"] = "new"
    write_h5ad(data, tmp_path / "once.h5ad")
    embed(made.model, made.data, tmp_path / "a.npz")
    embed(made.model, tmp_path / "once.h5ad", tmp_path / "b.npz")
    a, b = (read_npz(tmp_path / name, "embedding")[1]["embedding"] for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a, b)
    assert "'new'" in caplog.text


def test_imputed_rows_equal_the_plain_network(made: Made, tmp_path: Path) -> None:
    impute(made.model, made.data, tmp_path / "i.h5ad", batch_size=37)
    found = anndata.read_h5ad(tmp_path / "i.h5ad")
    assert found.X.dtype == np.float32
    assert found.obs["type"].tolist() == peaks().obs["type"].tolist()
    bundle = load_bundle(made.model)
    model = restore_model(Sailer, bundle.config, bundle.tensors, torch.device("cpu")).double()
    x = torch.from_numpy((peaks().X.toarray() > 0).astype(np.float64))
    with torch.no_grad():
        h = torch.nn.functional.leaky_relu(model.first_norm(x @ model.first_ph), 0.2)
        mean = model.head(model.encoder(h))[:, :4]
        rich = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(CELLS, -1)
        expected = torch.sigmoid(model.decoder(torch.cat([mean, rich], 1)) @ model.last_ph.T + model.last_p)
    np.testing.assert_allclose(found.X, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("rule", ["cell", "scale"])
def test_imputing_brings_the_profile_back(made: Made, tmp_path: Path, rule: str) -> None:
    impute(made.model, made.data, tmp_path / "i.h5ad", binarize=rule)
    data, found = peaks(), anndata.read_h5ad(tmp_path / "i.h5ad")
    assert sparse.issparse(found.X)
    truth = data.varm["profile"].T[data.obs["type"].astype(int)] > 0.5

    def dice(x: np.ndarray) -> float:
        return float((2 * (x & truth).sum(1) / (x.sum(1) + truth.sum(1))).mean())

    assert dice(found.X.toarray() > 0) > dice(data.X.toarray() > 0) + 0.2


def test_forms_of_the_output_agree(made: Made, tmp_path: Path) -> None:
    wanted = tmp_path / "peaks.txt"
    names = [peaks().var_names[i] for i in (90, 3, 41)]
    wanted.write_text("\n".join(names) + "\n")
    impute(made.model, made.data, tmp_path / "all.h5ad", batch="poor")
    whole = anndata.read_h5ad(tmp_path / "all.h5ad").X
    impute(made.model, made.data, tmp_path / "some.npz", features=wanted, batch="poor", batch_size=299)
    header, arrays = read_npz(tmp_path / "some.npz", "imputed")
    assert header["batch"] == "poor"
    assert arrays["features"].tolist() == names
    np.testing.assert_allclose(arrays["imputed"], whole[:, [90, 3, 41]], atol=1e-6)
    impute(made.model, made.data, tmp_path / "cut.h5ad", binarize="0.2", batch="poor", batch_size=64)
    impute(made.model, made.data, tmp_path / "cut.npz", binarize="0.2", batch="poor")
    cut = anndata.read_h5ad(tmp_path / "cut.h5ad").X
    np.testing.assert_array_equal(cut.toarray(), (whole > 0.2).astype(np.uint8))
    _, parts = read_npz(tmp_path / "cut.npz", "imputed")
    again = sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"]))
    assert (again != cut).nnz == 0
    impute(made.model, made.data, tmp_path / "scale.h5ad", binarize="scale", batch="poor")
    opened = peaks().X.toarray() > 0
    above = whole > np.maximum(opened.mean(0), opened.mean(1, keepdims=True))
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "scale.h5ad").X.toarray(), above)
    impute(made.model, made.data, tmp_path / "cell.h5ad", binarize="cell", features=wanted, batch="poor")
    above = whole > whole.mean(1, keepdims=True, dtype=np.float64)
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "cell.h5ad").X.toarray(), above[:, [90, 3, 41]])


@pytest.mark.parametrize("rule", ["none", "scale"])
def test_the_picture_shows_what_is_written_and_changes_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rule: str
) -> None:
    seen: list[BeforeAfter] = []
    monkeypatch.setattr(imputed, "before_after", lambda shown, path: (seen.append(shown), before_after(shown, path)))
    impute(made.model, made.data, tmp_path / "a.h5ad", binarize=rule, batch_size=37)
    impute(made.model, made.data, tmp_path / "b.h5ad", binarize=rule, batch_size=37, plot=tmp_path / "i.png")
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()
    assert (tmp_path / "i.png").read_bytes().startswith(b"\x89PNG")
    rows = np.sort(np.random.default_rng(0).permutation(CELLS)[:200])
    opened = peaks().X[rows].toarray() > 0
    written = anndata.read_h5ad(tmp_path / "a.h5ad").X[rows]
    written = written.toarray() if sparse.issparse(written) else written
    (shown,) = seen
    columns = peaks().var_names.get_indexer(shown.names_f)
    assert set(columns) == set(np.argsort(-opened.var(0), kind="stable")[:40])
    np.testing.assert_array_equal(shown.before_sf, opened[:, columns])
    np.testing.assert_array_equal(shown.after_sf, written[:, columns])
    np.testing.assert_allclose(shown.mean_before_g, opened.mean(0), rtol=1e-6)
    np.testing.assert_allclose(shown.mean_after_g, written.mean(0), rtol=1e-5)
    assert "200 of 300 cells" in shown.title
    # A figure that cannot be drawn costs neither the matrix nor the exit code.
    monkeypatch.setattr(imputed, "before_after", lambda shown, path: path.no_such_thing)
    impute(made.model, made.data, tmp_path / "c.h5ad", binarize=rule, plot=tmp_path / "none.png")
    assert (tmp_path / "c.h5ad").exists()
    assert not (tmp_path / "none.png").exists()
    assert "could not draw" in caplog.text


def test_the_same_run_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_sailer(made.data, tmp_path / name, batch_key="batch", **SMALL, train_options={"epochs": 2})
        impute(made.model, made.data, tmp_path / f"{name}.h5ad", batch_size=50)
    for file in ("model.safetensors", "history.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


def test_bad_inputs(made: Made, tmp_path: Path) -> None:
    data = anndata.read_h5ad(made.data)
    data.X = sparse.csr_matrix(data.X)
    data.X = sparse.vstack([data.X[:-2], data.X[-2:] * 0]).tocsr()
    write_h5ad(data, tmp_path / "empty.h5ad")
    with pytest.raises(InputError, match="2 cells have no depth above 0 in open peaks"):
        train_sailer(tmp_path / "empty.h5ad", tmp_path / "m")
    with pytest.raises(InputError, match="does not hold numbers"):
        train_sailer(made.data, tmp_path / "m", depth_key="type")
    with pytest.raises(UsageError, match="positive_weight"):
        train_sailer(made.data, tmp_path / "m", model_options={"positive_weight": "-2"})
    with pytest.raises(UsageError, match="invariance_bound"):
        train_sailer(made.data, tmp_path / "m", model_options={"invariance_bound": "loose"})
    assert not (tmp_path / "m").exists()
    with pytest.raises(UsageError, match="no batch 'third'"):
        impute(made.model, made.data, tmp_path / "i.h5ad", batch="third")
    for rule in ("1.5", "0", "often"):
        with pytest.raises(UsageError, match="--binarize"):
            impute(made.model, made.data, tmp_path / "i.h5ad", binarize=rule)
    (tmp_path / "strange.txt").write_text("chr9:1-2\n")
    with pytest.raises(InputError, match="first 'chr9:1-2'"):
        impute(made.model, made.data, tmp_path / "i.h5ad", features=tmp_path / "strange.txt")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no names"):
        impute(made.model, made.data, tmp_path / "i.npz", features=tmp_path / "none.txt")
    assert not list(tmp_path.glob("i.*"))


def test_missing_peaks_are_closed(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reads open and closed peaks"):
        embed(made.model, made.data, tmp_path / "e.npz", missing="reference-mean")


def test_a_file_of_genes_is_asked_about(made: Made, trained, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    train_sailer(made.data, tmp_path / "m", dry_run=True)
    assert "a file of peaks?" not in caplog.text
    train_sailer(trained.data, tmp_path / "m", dry_run=True)
    assert "a file of peaks?" in caplog.text


def test_a_model_that_cannot_impute(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="does not impute"):
        impute(trained.model, trained.data, tmp_path / "i.h5ad")


def test_a_dry_run_plans(made: Made, tmp_path: Path) -> None:
    plan = train_sailer(
        made.data, tmp_path / "m", batch_key="batch", dry_run=True, model_options={"positive_weight": "auto"}
    )
    share = plan["open_share"]
    assert share == pytest.approx(float((peaks().X > 0).sum()) / CELLS / PEAKS)
    # The weight is that of the training cells.
    assert plan["positive_weight"] == pytest.approx((1 - share) / share, rel=0.1)
    numbers = train_sailer(made.data, tmp_path / "m", dry_run=True, model_options={"positive_weight": 3})
    assert numbers["positive_weight"] == 3
    assert plan["conditions"] == ["poor", "rich"]
    assert not (tmp_path / "m").exists()


def test_the_weight_of_invariance_is_found_by_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_search, "EPOCHS", 2)
    monkeypatch.setattr(weight_search, "CELLS", 200)
    monkeypatch.setattr(weight_search, "INVARIANCES", (0.0, 0.5, 2.0, 8.0))
    asked = []

    def planned(emb_nz, target_n, *, discrete=False, seed=0):
        """Depth, then batch of each trial: a curve whose elbow is the third weight."""
        asked.append((emb_nz.copy(), len(target_n), discrete))
        return {"mean": (0.6, 0.5, 0.1, 0.09)[(len(asked) - 1) // 2]}

    monkeypatch.setattr(weight_search, "mutual_information", planned)
    write_h5ad(peaks(), tmp_path / "p.h5ad")
    options = SMALL["model_options"] | {"invariance": "auto"}
    train = {"epochs": 2, "batch_size": 50}
    train_sailer(tmp_path / "p.h5ad", tmp_path / "m", batch_key="batch", model_options=options, train_options=train)
    assert [discrete for _, _, discrete in asked] == [False, True] * 4
    assert {count for _, count, _ in asked} == {200}
    embeddings = [emb_nz for emb_nz, _, _ in asked[::2]]
    assert not any(np.array_equal(a, b) for a, b in pairwise(embeddings))
    assert load_bundle(tmp_path / "m").config["structure"]["lam"] == 2.0
    rows = [line.split("\t") for line in (tmp_path / "m" / "invariance.tsv").read_text().splitlines()]
    assert rows[0] == ["invariance_weight", "mutual_information"]
    assert [float(row[0]) for row in rows[1:]] == [0.0, 0.5, 2.0, 8.0]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx([1.2, 1.0, 0.2, 0.18])
    assert (tmp_path / "m" / "invariance.png").stat().st_size > 1000
