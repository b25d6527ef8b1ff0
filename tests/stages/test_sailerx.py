"""SAILERX from a multiome file to embedding and imputed matrix, with any share of cells without RNA; every refusal."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from multiome_files import CELLS, PEAKS, multiome

from scmap_cli.data.matrices import binarised
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.stages import peak_training, weight_search
from scmap_cli.stages.embed import embed
from scmap_cli.stages.impute import impute
from scmap_cli.stages.inputs import load_rna
from scmap_cli.stages.map_query import map_query
from scmap_cli.stages.preprocess_multiome import preprocess_multiome
from scmap_cli.stages.train_sailerx import train_sailerx
from scmap_cli.training.infer import restore_model
from scmap_cli.training.loop import Trainer

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
    assert {"alignment", "agreement", "valid_alignment", "valid_agreement"} <= set(history[0].split(","))


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
    assert np.abs(bare[has] - z[has]).max() > 0.01


def test_cells_have_length_one_unless_asked_otherwise(made: Made, tmp_path: Path) -> None:
    z = embedded(made, tmp_path)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-5)
    z = embedded(made, tmp_path, ignore_rna=True)
    options = SMALL | {"unit_length": "no"}
    train_sailerx(made.data, tmp_path / "any", batch_key="batch", model_options=options, train_options=SHORT)
    free = embedded(Made(made.data, tmp_path / "any"), tmp_path, ignore_rna=True)
    length = np.linalg.norm(free, axis=1, keepdims=True)
    assert length.std() > 0.01
    np.testing.assert_allclose(free / length, z, atol=1e-5)


def test_agreement_brings_cells_near_to_where_they_are_without_their_rna(made: Made, tmp_path: Path) -> None:
    has = anndata.read_h5ad(made.data).obs["has_rna"].to_numpy()

    def gap(model: Path) -> float:
        one = Made(made.data, model)
        seen, blind = embedded(one, tmp_path), embedded(one, tmp_path, ignore_rna=True)
        return float(np.linalg.norm(seen[has] - blind[has], axis=1).mean())

    options = SMALL | {"reference_agreement": 0}
    train_sailerx(made.data, tmp_path / "apart", batch_key="batch", model_options=options, train_options=SHORT)
    assert gap(made.model) < 0.8 * gap(tmp_path / "apart")
    assert "agreement" not in (tmp_path / "apart" / "history.csv").read_text().partition("\n")[0]
    # Where every cell has RNA there is nobody to agree with.
    whole = write(tmp_path / "whole.h5ad")
    train_sailerx(whole, tmp_path / "whole", model_options=SMALL, train_options=SHORT | {"epochs": 1})
    assert load_bundle(tmp_path / "whole").config["structure"]["agreement"] == 0
    assert load_bundle(made.model).config["structure"]["agreement"] == 10
    assert not load_bundle(tmp_path / "whole").config["structure"]["unit"]


def test_a_model_of_paired_cells_warns_of_cells_without_rna(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, warned = write(tmp_path / "m.h5ad"), "trained without agreement"
    taught = SMALL | {"reference_agreement": "10", "unit_length": "yes"}
    few = anndata.read_h5ad(data)[:30].copy()
    few.obs_names = "new-" + few.obs_names
    del few.obsm["X_rna"]
    write_h5ad(few, tmp_path / "few.h5ad")
    for name, options in (("plain", SMALL), ("taught", taught)):
        train_sailerx(data, tmp_path / name, model_options=options, train_options=SHORT | {"epochs": 1})
    for name, file, expected in (("plain", "m", False), ("taught", "few", False), ("plain", "few", True)):
        embedded(Made(tmp_path / f"{file}.h5ad", tmp_path / name), tmp_path)
        assert (warned in caplog.text) == expected
    assert "30 cells are encoded without RNA" in caplog.text
    assert "--reference-agreement 10 --unit-length yes" in caplog.text


def changed(made: Made, path: Path, change) -> Made:  # type: ignore[no-untyped-def]
    """The data after ``change``, beside the model."""
    data = anndata.read_h5ad(made.data)
    change(data)
    write_h5ad(data, path)
    return Made(path, made.model)


def without(made: Made, folder: Path) -> np.ndarray:
    """The embedding where the file has no reference."""
    return embedded(changed(made, folder / "without.h5ad", lambda data: data.obsm.pop("X_rna")), folder)


def turned(data: anndata.AnnData) -> None:
    """The reference of another space: the first dimension changes its sign."""
    data.obsm["X_rna"] = data.obsm["X_rna"] * np.where(np.arange(data.obsm["X_rna"].shape[1]) == 0, -1, 1)


def test_cells_of_the_training_tell_whether_a_reference_is_of_its_space(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, bare = embedded(made, tmp_path), without(made, tmp_path)

    def rounded(data: anndata.AnnData) -> None:
        data.uns["scmap_reference"] = "sha256:other"
        data.obsm["X_rna"] = 3 * data.obsm["X_rna"].astype(np.float16).astype(np.float64)

    # The same rows but for rounding and length, whatever the digest of the file says.
    np.testing.assert_allclose(embedded(changed(made, tmp_path / "r.h5ad", rounded), tmp_path), whole, atol=0.02)
    assert "not the embedding" not in caplog.text
    # The digest in the file is that of the training, and its rows are not.
    other = changed(made, tmp_path / "turned.h5ad", turned)
    np.testing.assert_array_equal(embedded(other, tmp_path), bare)
    assert "144 of 144 cells of the training have other rows" in caplog.text
    with pytest.raises(InputError, match="144 of 144 cells of the training have other rows"):
        embedded(other, tmp_path, reference_key="X_rna")

    def few(data: anndata.AnnData) -> None:
        data.obsm["X_rna"][np.flatnonzero(data.obs["has_rna"])[:3]] *= -1

    embedded(changed(made, tmp_path / "few.h5ad", few), tmp_path)
    assert "3 cells have the name of a cell of the training" in caplog.text


def test_of_other_cells_the_digest_or_the_user_tells_it(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, bare = embedded(made, tmp_path), without(made, tmp_path)

    def renamed(data: anndata.AnnData) -> None:
        data.obs_names = "new-" + data.obs_names

    def anew(data: anndata.AnnData) -> None:
        renamed(data)
        data.uns["scmap_reference"] = "sha256:other"

    np.testing.assert_array_equal(embedded(changed(made, tmp_path / "n.h5ad", renamed), tmp_path), whole)
    other = changed(made, tmp_path / "a.h5ad", anew)
    assert "not the embedding" not in caplog.text
    np.testing.assert_array_equal(embedded(other, tmp_path), bare)
    assert "is not the embedding that the model was trained with" in caplog.text
    np.testing.assert_array_equal(embedded(other, tmp_path, reference_key="X_rna"), whole)
    none = changed(made, tmp_path / "none.h5ad", lambda data: data.obsm.pop("X_rna"))
    np.testing.assert_array_equal(embedded(none, tmp_path), bare)


def test_a_file_of_another_origin_is_known_by_its_cells_alone(
    tmp_path: Path, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    own = changed(made, tmp_path / "own.h5ad", lambda data: data.uns.pop("scmap_reference"))
    train_sailerx(own.data, tmp_path / "model", model_options=SMALL, train_options=SHORT | {"epochs": 1})
    own = Made(own.data, tmp_path / "model")
    whole = embedded(own, tmp_path)
    assert "nothing tells whether" not in caplog.text
    np.testing.assert_array_equal(embedded(changed(own, tmp_path / "t.h5ad", turned), tmp_path), without(own, tmp_path))
    (own.model / "reference.npz").unlink()
    np.testing.assert_array_equal(embedded(own, tmp_path), whole)
    assert "nothing tells whether" in caplog.text


def test_nothing_that_is_told_of_a_batch_moves_a_cell(made: Made, tmp_path: Path) -> None:
    """Why queries are embedded and not mapped: a new batch's parameters would be those of the decoder."""
    bundle, counts = load_bundle(made.model), binarised(anndata.read_h5ad(made.data).X.astype(np.float32))
    model = restore_model(SailerX, bundle.config, bundle.tensors, torch.device("cpu"))
    seen = np.eye(bundle.config["reference"]["dimensions"])[np.zeros(CELLS, int)]
    told = {"covariates": np.ones((CELLS, 1)), "reference": seen, "weights": np.ones(CELLS)}
    batch = model.make_store(counts, np.zeros(CELLS, np.int64), **told).batch(torch.arange(CELLS))
    before = model.embed(batch).mean_nz
    with torch.no_grad():
        for part in (model.spread, model.decoder, model.spread_norm):
            for weight in part.parameters():
                weight.normal_(generator=torch.Generator().manual_seed(0))
    other = replace(batch, condition_n=1 - batch.condition_n, covariate_nc=batch.covariate_nc + 5)
    torch.testing.assert_close(model.embed(other).mean_nz, before, rtol=0, atol=0)
    with pytest.raises(InputError, match="sailerx model, which queries cannot be mapped onto") as refused:
        map_query(made.model, made.data, tmp_path / "q.h5ad", model_out=tmp_path / "q")
    assert "its encoder is not told batches" in str(refused.value.hint)


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


def test_types_are_found_where_most_cells_have_no_rna(tmp_path: Path) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    data = write(tmp_path / "m.h5ad", lacking=0.8)
    train_sailerx(data, tmp_path / "model", batch_key="batch", model_options=SMALL, train_options=SHORT)
    has = anndata.read_h5ad(data).obs["has_rna"].to_numpy()
    types = multiome()[1].obs_names.map(multiome()[0].obs["type"]).to_numpy()
    z = embedded(Made(data, tmp_path / "model"), tmp_path)
    # Of three types; the labels are those of the fifth of the cells that have RNA.
    assert KNeighborsClassifier(5).fit(z[has], types[has]).score(z[~has], types[~has]) > 0.6


@pytest.mark.parametrize("lacking", [0.0, 0.99])
def test_any_share_of_cells_may_lack_rna(lacking: float, tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad", lacking)
    train = SHORT | {"epochs": 3, "validation_share": 0.0}
    summary = train_sailerx(data, tmp_path / "model", batch_key="batch", model_options=SMALL, train_options=train)
    assert np.isfinite(summary["train_loss"])
    assert np.isfinite(embedded(Made(data, tmp_path / "model"), tmp_path)).all()


def test_means_have_a_linear_part_of_the_reference_without_agreement(tmp_path: Path) -> None:
    for lacking, more, linear in ((0.0, {}, True), (0.4, {}, False), (0.0, {"reference_agreement": 10}, False)):
        data = write(tmp_path / "m.h5ad", lacking=lacking)
        short = SHORT | {"epochs": 1}
        train_sailerx(data, tmp_path / "model", model_options=SMALL | more, train_options=short, force=True)
        bundle = load_bundle(tmp_path / "model")
        assert ("shortcut.weight" in bundle.tensors) == linear
    # Directories of before it have none.
    old = bundle.config | {"structure": {k: v for k, v in bundle.config["structure"].items() if k != "shortcut"}}
    assert restore_model(SailerX, old, bundle.tensors, torch.device("cpu")).shortcut is None


def test_the_linear_part_keeps_all_cosines_of_the_reference(tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad")
    options = SMALL | {"latent": 8}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 1, "lr": 1e-12})
    bundle = load_bundle(tmp_path / "model")
    model = restore_model(SailerX, bundle.config, bundle.tensors, torch.device("cpu"))
    rows = torch.nn.functional.normalize(torch.from_numpy(anndata.read_h5ad(data).obsm["X_rna"]).float())
    turned_nz = model.shortcut(rows)
    torch.testing.assert_close(turned_nz @ turned_nz.T, rows @ rows.T, atol=1e-5, rtol=0)


def test_cells_without_rna_borrow_from_donors(made: Made, tmp_path: Path) -> None:
    has = anndata.read_h5ad(made.data).obs["has_rna"].to_numpy()
    bundle = load_bundle(made.model)
    assert bundle.config["structure"]["lending"] == 0.6
    assert (bundle.config["structure"]["donors"], bundle.config["structure"]["others"]) == (144, 96)
    z, bare = embedded(made, tmp_path), embedded(made, tmp_path, ignore_rna=True)
    assert np.abs(z[~has] - bare[~has]).max() > 0.05
    options = SMALL | {"donor_share": 0}
    train_sailerx(made.data, tmp_path / "own", batch_key="batch", model_options=options, train_options=SHORT)
    own = embedded(Made(made.data, tmp_path / "own"), tmp_path)
    # The training is the same, and so are cells with RNA; the others by their peaks alone as well.
    np.testing.assert_array_equal(own[has], z[has])
    np.testing.assert_array_equal(own[~has], bare[~has])
    # Borrowers lie between their own place and their donor's.
    model = restore_model(SailerX, bundle.config, bundle.tensors, torch.device("cpu"))
    donor, trust = model.donors.lent(torch.from_numpy(bare[~has]))
    plain = bare[~has] + 0.6 * trust.numpy()[:, None] * (donor.numpy() - bare[~has])
    np.testing.assert_allclose(z[~has], plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-5)
    assert (np.abs(donor.numpy()[:, None] - z[has]).max(2).min(1) < 1e-5).all()
    assert 0.5 < trust.mean() <= 1
    # Without the file's reference no paired cell gets its own RNA back.
    lost = without(made, tmp_path)
    np.testing.assert_array_equal(lost[~has], z[~has])
    model_donor, _ = model.donors.lent(torch.from_numpy(bare[has]))
    assert (np.abs(model_donor.numpy() - z[has]).max(1) > 1e-4).all()
    # A cell's place is its own affair.
    few = changed(made, tmp_path / "few.h5ad", lambda adata: adata._inplace_subset_obs(np.arange(CELLS)[::-3]))
    np.testing.assert_allclose(embedded(few, tmp_path), z[::-3], atol=1e-5)


def test_donors_may_lend_where_all_have_rna_and_at_any_length(tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad")
    options = SMALL | {"donor_share": 0.5, "reference_agreement": 10}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 2})
    one = Made(data, tmp_path / "model")
    bundle = load_bundle(one.model)
    assert (bundle.config["structure"]["donors"], bundle.config["structure"]["others"]) == (CELLS, 0)
    model = restore_model(SailerX, bundle.config, bundle.tensors, torch.device("cpu"))
    bare = embedded(one, tmp_path, ignore_rna=True)
    donor, trust = model.donors.lent(torch.from_numpy(bare))
    assert (trust == 1).all()
    np.testing.assert_allclose(without(one, tmp_path), (bare + donor.numpy()) / 2, atol=1e-5)


def test_the_encoder_of_the_thesis_takes_no_reference(tmp_path: Path) -> None:
    data = write(tmp_path / "m.h5ad")
    options = SMALL | {"reference_dropout": 1.0}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 2})
    one = Made(data, tmp_path / "model")
    assert not [name for name in load_bundle(one.model).tensors if name.startswith("reference.")]
    # With or without RNA, all cells are seen alike.
    config = SailerXConfig(reference_dropout=1.0)
    assert (config.agreement(True), config.unit(True)) == (0.0, False)
    whole = embedded(one, tmp_path)
    np.testing.assert_array_equal(whole, embedded(one, tmp_path, ignore_rna=True))
    with pytest.raises(UsageError, match="--reference-key: the encoder of this model takes no reference"):
        embedded(one, tmp_path, reference_key="X_rna")
    # It is not even looked at: one that nothing could be made of does no harm.
    spoilt = changed(
        one, tmp_path / "s.h5ad", lambda adata: adata.obsm.__setitem__("X_rna", np.full((CELLS, 3), np.inf))
    )
    np.testing.assert_array_equal(embedded(spoilt, tmp_path), whole)


def test_a_missing_depth_is_refused(made: Made, tmp_path: Path) -> None:
    for key, what in (("atac_depth", "ATAC"), ("rna_depth", "RNA")):

        def gap(adata: anndata.AnnData, key: str = key) -> None:
            column = adata.obs[key].to_numpy(dtype=np.float64, copy=True)
            column[np.flatnonzero(adata.obs["has_rna"])[:2]] = np.nan
            adata.obs[key] = column

        bad = changed(made, tmp_path / f"{key}.h5ad", gap)
        with pytest.raises(InputError, match=f"2 cells with RNA have an {what} depth that is missing"):
            train_sailerx(bad.data, tmp_path / "m", model_options=SMALL)


def test_the_same_run_gives_the_same_bytes_and_unsorted_peaks_the_same_model(made: Made, tmp_path: Path) -> None:
    data = anndata.read_h5ad(made.data)
    write_h5ad(data[:, ::-1].copy(), tmp_path / "back.h5ad")
    for name, path in (("a", made.data), ("b", made.data), ("c", tmp_path / "back.h5ad")):
        train_sailerx(path, tmp_path / name, model_options=SMALL, train_options=SHORT | {"epochs": 2})
    tensors = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert tensors[0] == tensors[1] == tensors[2]


def test_the_elbow_is_found_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_search, "EPOCHS", 4)
    monkeypatch.setattr(weight_search, "CELLS", 150)
    monkeypatch.setattr(weight_search, "ALIGNMENTS", (0.0, 30.0, 1000.0))
    data = write(tmp_path / "m.h5ad", lacking=0.4)
    options = SMALL | {"alignment_weight": "auto"}
    train_sailerx(data, tmp_path / "model", model_options=options, train_options=SHORT | {"epochs": 2})
    rows = [line.split("\t") for line in (tmp_path / "model" / "alignment.tsv").read_text().splitlines()]
    assert rows[0] == ["alignment_weight", "final_alignment"]
    gaps = {float(weight): float(gap) for weight, gap in rows[1:]}
    assert gaps[1000.0] < gaps[0.0]
    chosen = load_bundle(tmp_path / "model").config["structure"]["gamma"]
    assert chosen == weight_search.elbow(list(gaps), list(gaps.values()))
    assert (tmp_path / "model" / "alignment.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([1.0, 0.5, 0.09, 0.05, 0.0], 2.0),
        ([1.0, 0.0, 0.02, 0.0, 0.01], 1.0),
        ([0.3, 0.3, 0.3, 0.3, 0.3], None),
        ([0.3, 0.4, 0.3, 0.5, 0.6], None),
    ],
)
def test_the_elbow_of_known_curves_is_never_the_weight_0(gaps: list[float], expected: float | None) -> None:
    assert weight_search.elbow([0.0, 1.0, 2.0, 3.0, 4.0], gaps) == expected


def test_trials_without_an_effect_leave_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weight_search, "EPOCHS", 1)
    monkeypatch.setattr(weight_search, "ALIGNMENTS", (0.0, 0.0))
    options = SMALL | {"alignment_weight": "auto"}
    train_sailerx(
        write(tmp_path / "m.h5ad"), tmp_path / "m", model_options=options, train_options=SHORT | {"epochs": 1}
    )
    assert load_bundle(tmp_path / "m").config["structure"]["gamma"] == 60000
    assert "no alignment weight lowers the final alignment" in caplog.text


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
    refused("reference_width 0", UsageError, model_options={"reference_width": 0})
    refused("donor_share is '1.5'", UsageError, model_options={"donor_share": 1.5})
    refused("donor_share is 'half'", UsageError, model_options={"donor_share": "half"})
    refused("donor_share 0.5 says", UsageError, model_options={"donor_share": 0.5, "reference_dropout": 1.0})
    refused("reference_agreement is '-1'", UsageError, model_options={"reference_agreement": -1})
    refused("says nothing", UsageError, model_options={"reference_agreement": 3, "reference_dropout": 1.0})
    refused("unit_length is 'one'", UsageError, model_options={"unit_length": "one"})
    refused("must be two or more", UsageError, model_options={"hidden": [8]})
    assert not (tmp_path / "m").exists()
    data.obsm["X_rna"] = data.obsm["X_rna"][:, :5]
    write_h5ad(data, tmp_path / "narrow.h5ad")
    with pytest.raises(InputError, match="has 5 dimensions"):
        embed(made.model, tmp_path / "narrow.h5ad", tmp_path / "e.npz")


def test_what_was_read_is_let_go_of_before_the_training(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[weakref.ref[anndata.AnnData]] = []

    def watched(*where: Any) -> Any:
        data = load_rna(*where)
        files.append(weakref.ref(data.adata))
        return data

    def looked(trainer: Trainer, resume: bool = False) -> Any:
        gc.collect()
        assert [file() for file in files] == [None]
        return whole(trainer, resume)

    whole = Trainer.fit
    monkeypatch.setattr(peak_training, "load_rna", watched)
    monkeypatch.setattr(Trainer, "fit", looked)
    train_sailerx(made.data, tmp_path / "m", model_options=SMALL, train_options=SHORT | {"epochs": 1})


def test_a_dry_run_plans(made: Made, tmp_path: Path) -> None:
    plan = train_sailerx(made.data, tmp_path / "m", batch_key="batch", dry_run=True)
    assert (plan["chromosomes"], plan["cells_with_rna"], plan["peaks"]) == (4, 144, PEAKS)
    assert json.loads(json.dumps(plan)) == plan
    assert not (tmp_path / "m").exists()
