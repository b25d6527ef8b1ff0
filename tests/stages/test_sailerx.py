"""SAILERX from a multiome file to embedding and imputed matrix, with any share of cells without RNA; every refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest
from multiome_files import CELLS, PEAKS, multiome

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.stages import alignment_search
from scmap_cli.stages.embed import embed
from scmap_cli.stages.impute import impute
from scmap_cli.stages.preprocess_multiome import preprocess_multiome
from scmap_cli.stages.train_sailerx import train_sailerx

SMALL = {"hidden": [8, 6], "latent": 6, "reference_width": 16, "positive_weight": "none", "alignment_weight": 300}
SHORT = {"epochs": 20, "batch_size": 60, "lr": 5e-3}


@dataclass(frozen=True)
class Made:
    data: Path
    model: Path


def write(path: Path, lacking: float = 0.0) -> Path:
    """A multiome file in which a share of the cells has no RNA."""
    rna, atac = multiome()
    folder = path.parent
    kept = rna[: max(2, round(CELLS * (1 - lacking)))].copy()
    write_h5ad(kept, folder / "rna.h5ad", force=True)
    write_h5ad(atac, folder / "atac.h5ad", force=True)
    # A reference of their own, as two cells have no principal components.
    whole = anndata.read_h5ad(folder / "rna.h5ad")
    whole.obsm["X_own"] = np.log1p(whole.X.toarray()) - 0.5
    write_h5ad(whole, folder / "rna.h5ad", force=True)
    key = "X_own" if lacking else None
    preprocess_multiome(
        path, rna=folder / "rna.h5ad", atac=folder / "atac.h5ad", components=8, reference_key=key, force=True
    )
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sailerx")
    made = Made(write(folder / "m.h5ad", lacking=0.4), folder / "model")
    train_sailerx(made.data, made.model, batch_key="batch", model_options=SMALL, train_options=SHORT)
    return made


def embedded(made: Made, folder: Path, **options: object) -> np.ndarray:
    embed(made.model, made.data, folder / "e.npz", force=True, **options)  # type: ignore[arg-type]
    return read_npz(folder / "e.npz", "embedding")[1]["embedding"]


def test_the_directory_says_what_the_model_was_told(made: Made) -> None:
    bundle = load_bundle(made.model)
    assert bundle.config["model"] == "sailerx"
    assert bundle.config["capabilities"] == ["embed", "impute"]
    assert bundle.config["chromosomes"] == 4
    assert bundle.config["cells_with_rna"] == 144
    assert bundle.config["reference"]["key"] == "X_rna"
    assert bundle.config["reference"]["id"].startswith("sha256:")
    assert bundle.config["structure"]["gamma"] == 300
    assert sum(bundle.config["structure"]["chromosome_peaks"]) == PEAKS
    history = (made.model / "history.csv").read_text().splitlines()
    assert {"alignment", "valid_alignment"} <= set(history[0].split(","))


def test_types_are_found_with_and_without_rna(made: Made, tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    data = anndata.read_h5ad(made.data)
    _, atac = multiome()
    types = multiome()[0][atac.obs_names].obs["type"].to_numpy()
    has = data.obs["has_rna"].to_numpy()
    z = embedded(made, tmp_path)
    assert z.shape == (CELLS, 6)
    # One space: cells without RNA are found among those with it.
    assert KNeighborsClassifier(5).fit(z[has], types[has]).score(z[~has], types[~has]) > 0.8
    bare = embedded(made, tmp_path, ignore_rna=True)
    np.testing.assert_allclose(bare[~has], z[~has], atol=1e-5)
    assert np.abs(bare[has] - z[has]).max() > 0.01


def test_a_reference_made_anew_is_not_taken_unasked(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = anndata.read_h5ad(made.data)
    data.uns["scmap_reference"] = "sha256:other"
    write_h5ad(data, tmp_path / "other.h5ad")
    other = Made(tmp_path / "other.h5ad", made.model)
    np.testing.assert_array_equal(embedded(other, tmp_path), embedded(made, tmp_path, ignore_rna=True))
    assert "is not the embedding that the model was trained with" in caplog.text
    np.testing.assert_array_equal(embedded(other, tmp_path, reference_key="X_rna"), embedded(made, tmp_path))
    del data.obsm["X_rna"]
    write_h5ad(data, tmp_path / "none.h5ad")
    bare = embedded(Made(tmp_path / "none.h5ad", made.model), tmp_path)
    np.testing.assert_array_equal(bare, embedded(made, tmp_path, ignore_rna=True))


def test_imputing_takes_the_rna_too(made: Made, tmp_path: Path) -> None:
    impute(made.model, made.data, tmp_path / "i.h5ad", batch_size=37)
    impute(made.model, made.data, tmp_path / "bare.h5ad", ignore_rna=True)
    found, bare = (anndata.read_h5ad(tmp_path / name) for name in ("i.h5ad", "bare.h5ad"))
    data = anndata.read_h5ad(made.data)
    assert found.var_names.tolist() == data.var_names.tolist()
    assert ((found.X > 0) & (found.X < 1)).all()
    has = data.obs["has_rna"].to_numpy()
    np.testing.assert_allclose(found.X[~has], bare.X[~has], atol=1e-5)
    assert np.abs(found.X[has] - bare.X[has]).max() > 1e-3


@pytest.mark.parametrize("lacking", [0.0, 0.99])
def test_any_share_of_cells_may_lack_rna(lacking: float, tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad", lacking)
    train = SHORT | {"epochs": 3, "validation_share": 0.0}
    summary = train_sailerx(data, tmp_path / "model", batch_key="batch", model_options=SMALL, train_options=train)
    assert np.isfinite(summary["train_loss"])
    assert np.isfinite(embedded(Made(data, tmp_path / "model"), tmp_path)).all()


def test_the_encoder_of_the_thesis_takes_no_reference(tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad")
    options = SMALL | {"reference_dropout": 1.0}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 2})
    one = Made(data, tmp_path / "model")
    assert not [name for name in load_bundle(one.model).tensors if name.startswith("reference.")]
    np.testing.assert_array_equal(embedded(one, tmp_path), embedded(one, tmp_path, ignore_rna=True))


def test_the_same_run_gives_the_same_bytes_and_unsorted_peaks_the_same_model(made: Made, tmp_path: Path) -> None:
    data = anndata.read_h5ad(made.data)
    write_h5ad(data[:, ::-1].copy(), tmp_path / "back.h5ad")
    for name, path in (("a", made.data), ("b", made.data), ("c", tmp_path / "back.h5ad")):
        train_sailerx(path, tmp_path / name, model_options=SMALL, train_options=SHORT | {"epochs": 2})
    tensors = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert tensors[0] == tensors[1] == tensors[2]


def test_the_elbow_is_found_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment_search, "EPOCHS", 4)
    monkeypatch.setattr(alignment_search, "CELLS", 150)
    monkeypatch.setattr(alignment_search, "GRID", (0.0, 30.0, 1000.0))
    data = write(tmp_path / "m.h5ad", lacking=0.4)
    options = SMALL | {"alignment_weight": "auto"}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 2})
    rows = [line.split("\t") for line in (tmp_path / "model" / "alignment.tsv").read_text().splitlines()]
    assert rows[0] == ["alignment_weight", "final_alignment"]
    gaps = {float(weight): float(gap) for weight, gap in rows[1:]}
    assert gaps[1000.0] < gaps[0.0]
    chosen = load_bundle(tmp_path / "model").config["structure"]["gamma"]
    assert chosen == alignment_search.elbow(list(gaps), list(gaps.values()))
    assert (tmp_path / "model" / "alignment.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [([1.0, 0.5, 0.09, 0.05, 0.0], 2.0), ([1.0, 0.0, 0.02, 0.0, 0.01], 1.0), ([0.3, 0.3, 0.3, 0.3, 0.3], 0.0)],
)
def test_the_elbow_of_known_curves(gaps: list[float], expected: float) -> None:
    assert alignment_search.elbow([0.0, 1.0, 2.0, 3.0, 4.0], gaps) == expected


def test_bad_inputs(made: Made, tmp_path: Path) -> None:
    data = anndata.read_h5ad(made.data)

    def refused(match: str, error: type[Exception] = InputError, change=None, **options: object) -> None:  # type: ignore[no-untyped-def]
        path = made.data
        if change is not None:
            path = tmp_path / "bad.h5ad"
            bad = data.copy()
            change(bad)
            write_h5ad(bad, path, force=True)
        with pytest.raises(error, match=match):
            train_sailerx(path, tmp_path / "m", **options)  # type: ignore[arg-type]

    def gap(adata: anndata.AnnData) -> None:
        adata.obsm["X_rna"][np.flatnonzero(adata.obs["has_rna"])[:2]] = np.nan

    def part(adata: anndata.AnnData) -> None:
        del adata.obs["has_rna"]
        adata.obsm["X_rna"][np.flatnonzero(~np.isnan(adata.obsm["X_rna"]).any(1))[0], 0] = np.nan

    def nobody(adata: anndata.AnnData) -> None:
        adata.obs["has_rna"] = False

    def dark(adata: anndata.AnnData) -> None:
        x = adata.X.tolil()
        x[[5, 6]] = 0
        adata.X = x.tocsr()

    def nowhere(adata: anndata.AnnData) -> None:
        adata.var_names = [f"peak{i}" for i in range(adata.n_vars)]
        adata.var = adata.var[[]]

    refused("no obsm key 'X_scVI'", reference_key="X_scVI")
    refused("NaN or infinite values for 2 cells with RNA", change=gap)
    refused("NaN or infinite values for 1 cells with RNA", change=part)
    refused("0 cells .* have RNA", change=nobody)
    refused("2 cells have no depth above 0", change=dark)
    refused("are no positions", change=nowhere)
    refused("no obs column 'rna_depth'", change=lambda a: a.obs.pop("rna_depth"))
    refused("not of true and false", change=lambda a: a.obs.__setitem__("has_rna", 1))
    refused("alignment_weight is 'most'", UsageError, model_options={"alignment_weight": "most"})
    refused("depth_weights is 'deep'", UsageError, model_options={"depth_weights": "deep"})
    refused("reference_dropout 2", UsageError, model_options={"reference_dropout": 2.0})
    refused("must be two or more", UsageError, model_options={"hidden": [8]})
    assert not (tmp_path / "m").exists()
    data.obsm["X_rna"] = data.obsm["X_rna"][:, :5]
    write_h5ad(data, tmp_path / "narrow.h5ad")
    with pytest.raises(InputError, match="has 5 dimensions"):
        embed(made.model, tmp_path / "narrow.h5ad", tmp_path / "e.npz")


def test_a_dry_run_plans(made: Made, tmp_path: Path) -> None:
    plan = train_sailerx(made.data, tmp_path / "m", batch_key="batch", dry_run=True)
    assert (plan["chromosomes"], plan["cells_with_rna"], plan["peaks"]) == (4, 144, PEAKS)
    assert json.loads(json.dumps(plan)) == plan
    assert not (tmp_path / "m").exists()
