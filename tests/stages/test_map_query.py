"""``map-query``: alignment by name, conditions, labels, added programs, files, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.bundle import load_bundle
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.io.programs import Programs, load_programs, save_programs
from scmap_cli.stages.embed import embed
from scmap_cli.stages.gp_test import gp_test
from scmap_cli.stages.map_query import map_query
from scmap_cli.stages.simulate import simulate_rna
from scmap_cli.stages.train_expimap import train_expimap

SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 64}


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of the same simulated world as the reference, but drawn anew and without its batches."""
    path = tmp_path_factory.mktemp("query") / "query.h5ad"
    simulate_rna(path, preset="tiny", n_cells=120)
    data = anndata.read_h5ad(path)
    data.obs["lane"] = pd.Categorical(np.where(np.arange(120) % 2, "lane1", "lane2"))
    data.obs["plate"] = data.obs["lane"].astype(object).where(np.arange(120) > 10, None)
    write_h5ad(data, path, force=True)
    return path


def run(trained: Any, query: Path, folder: Path, **options: Any) -> dict[str, Any]:
    settings = {"model_out": folder / "mapped", "train_options": SHORT, "one_batch": "new"} | options
    return map_query(trained.model, query, folder / "m.h5ad", **settings)


def test_files_slots_and_the_reference_to_the_bit(trained: Any, query: Path, tmp_path: Path) -> None:
    summary = run(
        trained,
        query,
        tmp_path,
        reference=trained.data,
        label_key="cell_type",
        join=tmp_path / "j.h5ad",
        plot=tmp_path / "m.svg",
        new_programs=1,
    )
    drawn = (tmp_path / "m.svg").read_text()
    assert all(f"<!-- {title} -->" in drawn for title in ("batch", "origin", "label"))
    mapped, joined = anndata.read_h5ad(tmp_path / "m.h5ad"), anndata.read_h5ad(tmp_path / "j.h5ad")
    assert mapped.obsm["X_expimap"].shape == (120, 13)
    assert mapped.uns["expimap_names"][-1] == "new_1"
    for column in ("scmap_label", "scmap_label_confidence", "scmap_label_entropy", "scmap_novelty", "scmap_batch"):
        assert column in mapped.obs
    embed(trained.model, trained.data, tmp_path / "old.npz")
    old = read_npz(tmp_path / "old.npz")[1]["embedding"]
    assert joined.obs["scmap_origin"].tolist() == ["reference"] * 300 + ["query"] * 120
    np.testing.assert_array_equal(joined.obsm["X_expimap"][:300, :12], old)
    np.testing.assert_array_equal(joined.obsm["X_expimap"][300:], mapped.obsm["X_expimap"])
    assert joined.obs_names.is_unique
    assert set(joined.obs["scmap_batch"]) == {"new", *load_bundle(trained.model).categories["condition"]}
    # The mapped model needs nothing else: it embeds both files by itself.
    embed(tmp_path / "mapped", tmp_path / "j.h5ad", tmp_path / "again.npz")
    again = read_npz(tmp_path / "again.npz")[1]["embedding"]
    np.testing.assert_array_equal(again, joined.obsm["X_expimap"])
    assert {"overlap.json", "new_programs.tsv", "programs.tsv", "config.json"} <= {
        path.name for path in (tmp_path / "mapped").iterdir()
    }
    assert summary["labels"]["accuracy"] > 0.9
    assert summary["labels"]["true_labels"] == {"cells": 120, "known_to_reference": 120}
    assert not (tmp_path / "mapped" / "checkpoints").exists()


def test_how_labels_are_found_changes_them_and_nothing_else(trained: Any, query: Path, tmp_path: Path) -> None:
    found = []
    for i, options in enumerate(({}, {"refine": 0}, {"space": "decoder"}, {"space": "latent"}, {"components": 2})):
        (tmp_path / str(i)).mkdir()
        run(trained, query, tmp_path / str(i), reference=trained.data, label_key="cell_type", **options)
        found.append(anndata.read_h5ad(tmp_path / str(i) / "m.h5ad"))
    one, *others = found
    for other in others:
        np.testing.assert_array_equal(one.obsm["X_expimap"], other.obsm["X_expimap"])
        assert (one.obs["scmap_novelty"] != other.obs["scmap_novelty"]).any()


def test_labels_that_set_no_directions_apart_are_told(
    trained: Any, query: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = anndata.read_h5ad(trained.data)
    reference.obs["few"] = ["a", "b", *[""] * (reference.n_obs - 2)]
    write_h5ad(reference, tmp_path / "ref.h5ad")
    novelty = []
    for space in ("discriminant", "decoder"):
        caplog.clear()
        (tmp_path / space).mkdir()
        options: dict[str, Any] = {"reference": tmp_path / "ref.h5ad", "label_key": "few", "space": space}
        assert run(trained, query, tmp_path / space, **options)["labels"]["space"] == "decoder"
        assert json.loads((tmp_path / space / "m.h5ad.run.json").read_text())["machine"]["label_space"] == "decoder"
        novelty.append(anndata.read_h5ad(tmp_path / space / "m.h5ad").obs["scmap_novelty"].to_numpy())
        assert ("as by --space decoder" in caplog.text) is (space == "discriminant")
    np.testing.assert_array_equal(*novelty)


def test_batches_new_known_and_missing(trained: Any, query: Path, tmp_path: Path) -> None:
    summary = run(trained, query, tmp_path, one_batch=None, batch_key="plate")
    assert {name: entry["new"] for name, entry in summary["conditions"].items()} == {
        "lane1": True,
        "lane2": True,
        "unknown": True,
    }
    assert load_bundle(tmp_path / "mapped").categories["condition"][-3:] == ["lane1", "lane2", "unknown"]
    (tmp_path / "k").mkdir()
    known = run(trained, query, tmp_path / "k", one_batch=None)
    assert not any(entry["new"] for entry in known["conditions"].values())
    assert known["trained_parameters"] == 0
    before, after = load_bundle(trained.model).tensors, load_bundle(tmp_path / "k" / "mapped").tensors
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_without_any_batch_column(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(query)
    del data.obs["batch"]
    write_h5ad(data, tmp_path / "q.h5ad")
    summary = run(trained, tmp_path / "q.h5ad", tmp_path, one_batch=None, plot=tmp_path / "m.png")
    assert list(summary["conditions"]) == ["query"]
    with pytest.raises(InputError, match="no column batch or scmap_batch") as told:
        embed(tmp_path / "mapped", tmp_path / "q.h5ad", tmp_path / "e.npz")
    assert "the file that `scmap map-query` wrote" in str(told.value.hint)
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_bytes(trained: Any, query: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(trained, query, tmp_path / name, new_programs=1)
    for file in ("m.h5ad", "mapped/model.safetensors", "mapped/config.json", "mapped/new_programs.tsv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_permuted_extra_and_missing_genes(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(query)
    extra = anndata.AnnData(sparse.csr_matrix(np.ones((120, 2), np.float32)), obs=data.obs[[]])
    extra.var_names = ["EXTRA1", "EXTRA2"]
    wide = anndata.concat([extra, data[:, ::-1][:, 20:].copy()], axis=1)
    wide.obs = data.obs
    write_h5ad(wide, tmp_path / "q.h5ad")
    summary = run(trained, tmp_path / "q.h5ad", tmp_path)
    genes = json.loads((tmp_path / "mapped" / "overlap.json").read_text())
    assert genes == summary["genes"]
    assert (genes["matched"], genes["missing"], genes["extra"]) == (180, 20, 2)
    means = load_bundle(trained.model).feature_means
    assert genes["share_of_reference_counts"] == pytest.approx(1 - means[-20:].sum() / means.sum(), abs=1e-6)


def test_missing_genes_take_the_mean_of_the_reference(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(query)
    write_h5ad(data[:, :120].copy(), tmp_path / "q.h5ad")
    found = {}
    for policy in ("zero", "reference-mean"):
        (tmp_path / policy).mkdir()
        run(trained, tmp_path / "q.h5ad", tmp_path / policy, missing=policy)
        found[policy] = anndata.read_h5ad(tmp_path / policy / "m.h5ad")
    assert not np.array_equal(found["zero"].obsm["X_expimap"], found["reference-mean"].obsm["X_expimap"])
    assert found["reference-mean"].shape == (120, 120)


def test_added_programs_are_learnt_and_told(trained: Any, query: Path, tmp_path: Path) -> None:
    table = load_programs(trained.programs)
    part = Programs(
        table.mask[:, :2],
        table.genes,
        np.array(["PLANTED", table.programs[3]]),
        table.size_before[:2],
        table.size_after[:2],
    )
    save_programs(tmp_path / "more.npz", part)
    options = {"unconstrained_l1": 0.2}
    summary = run(
        trained, query, tmp_path, programs=tmp_path / "more.npz", new_programs=2, model_options=options,
        train_options={"epochs": 30, "batch_size": 32},
    )  # fmt: skip
    assert summary["added_programs"] == ["PLANTED", f"{table.programs[3]}_2", "new_1", "new_2"]
    with (tmp_path / "mapped" / "new_programs.tsv").open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    best = {row["program"]: row for row in rows if row["rank"] == "1"}
    assert (best["PLANTED"]["known_program"], best["PLANTED"]["share"]) == (table.programs[0], "1.0000")
    assert best["PLANTED"]["kind"] == "program"
    assert best["new_1"]["kind"] == "unconstrained"
    assert load_bundle(tmp_path / "mapped").categories["latent"][-4:] == summary["added_programs"]


def test_a_dry_run_tells_and_writes_nothing(trained: Any, query: Path, tmp_path: Path) -> None:
    plan = run(trained, query, tmp_path, dry_run=True, new_programs=2)
    assert plan["trained_parameters"] == 32 + 2 * 200 + 2 * (33 * 2) + 2 * 200
    assert plan["genes"]["matched"] == 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"join": Path("j.h5ad")}, UsageError, "--join needs"),
        ({"label_key": "cell_type"}, UsageError, "--label-key needs"),
        ({"new_programs": -1}, UsageError, "--new-programs"),
        ({"neighbors": 0}, UsageError, "--neighbors"),
        ({"refine": -1}, UsageError, "--refine"),
        ({"unknown_below": 1.5}, UsageError, "--unknown-below"),
        ({"missing": "mean"}, UsageError, "--missing"),
        ({"space": "pca"}, UsageError, "--space"),
        ({"one_batch": None, "batch_key": "nope"}, InputError, "no obs column 'nope'"),
    ],
)
def test_options_that_make_no_sense(
    trained: Any, query: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        run(trained, query, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def renamed(query: Path, path: Path, names: Any) -> Path:
    data = anndata.read_h5ad(query)
    data.var_names = names(data.var_names)
    data.write_h5ad(path)
    return path


def test_names_in_the_wrong_case_are_refused_with_the_reason(trained: Any, query: Path, tmp_path: Path) -> None:
    path = renamed(query, tmp_path / "q.h5ad", lambda names: names.str.lower())
    with pytest.raises(InputError, match=r"0 of the model's 200 genes \(0\.0%") as caught:
        run(trained, path, tmp_path)
    assert "200 names would match if upper and lower case" in str(caught.value.hint)


def test_duplicated_names_are_refused(trained: Any, query: Path, tmp_path: Path) -> None:
    path = renamed(query, tmp_path / "q.h5ad", lambda names: [names[0], names[0], *names[2:]])
    with pytest.raises(InputError, match="more than once"):
        run(trained, path, tmp_path)


def test_a_query_without_counts_is_refused(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(query)
    data.X = data.X * 0.37
    data.write_h5ad(tmp_path / "q.h5ad")
    with pytest.raises(InputError, match="count"):
        run(trained, tmp_path / "q.h5ad", tmp_path)


def test_existing_outputs_are_kept(trained: Any, query: Path, tmp_path: Path) -> None:
    (tmp_path / "m.h5ad").write_text("mine")
    with pytest.raises(OutputExistsError):
        run(trained, query, tmp_path)
    assert (tmp_path / "m.h5ad").read_text() == "mine"
    assert not (tmp_path / "mapped").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_existing_model_is_kept(trained: Any, query: Path, tmp_path: Path, dry_run: bool) -> None:
    shutil.copytree(trained.model, tmp_path / "mapped")
    with pytest.raises(OutputExistsError):
        run(trained, query, tmp_path, dry_run=dry_run)
    run(trained, query, tmp_path, dry_run=True, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mapped"]


def test_groups_of_the_mapped_file_are_tested(trained: Any, query: Path, tmp_path: Path) -> None:
    run(trained, query, tmp_path, reference=trained.data, label_key="cell_type", join=tmp_path / "j.h5ad")
    result = gp_test(
        tmp_path / "mapped",
        [tmp_path / "j.h5ad"],
        Path("-"),
        groupby="scmap_origin",
        group=["query"],
        against="reference",
    )
    assert result["contrasts"][0]["n"] == 120
    assert result["contrasts"][0]["n_against"] == 300


def test_the_reference_is_not_replaced_by_the_mapped_model(trained: Any, query: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the reference itself"):
        run(trained, query, tmp_path, model_out=Path(trained.model) / ".." / Path(trained.model).name, force=True)


def test_a_second_query_gets_parameters_of_its_own(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(query)
    del data.obs["batch"]
    write_h5ad(data, tmp_path / "q.h5ad")
    run(trained, tmp_path / "q.h5ad", tmp_path, one_batch=None)
    (tmp_path / "b").mkdir()
    again = map_query(
        tmp_path / "mapped", tmp_path / "q.h5ad", tmp_path / "b" / "m.h5ad", model_out=tmp_path / "b" / "mapped",
        train_options=SHORT,
    )  # fmt: skip
    assert again["conditions"] == {"query_2": {"cells": 120, "new": True}}
    with pytest.raises(UsageError, match="has a batch 'query' already"):
        map_query(
            tmp_path / "mapped", tmp_path / "q.h5ad", tmp_path / "c.h5ad", model_out=tmp_path / "c", one_batch="query"
        )


def test_a_file_whose_batch_cannot_be_told_is_refused(query: Path, tmp_path: Path, trained: Any) -> None:
    """A reference without batches and a query: a file without the column could be of either."""
    data = anndata.read_h5ad(trained.data)
    del data.obs["batch"]
    write_h5ad(data, tmp_path / "plain.h5ad")
    train_expimap(
        tmp_path / "plain.h5ad", tmp_path / "ref", programs=trained.programs,
        train_options={"epochs": 2}, model_options={"hidden": [8]},
    )  # fmt: skip
    map_query(
        tmp_path / "ref", query, tmp_path / "m.h5ad", model_out=tmp_path / "mapped", one_batch="new",
        reference=tmp_path / "plain.h5ad", label_key="cell_type", train_options=SHORT,
    )  # fmt: skip
    with pytest.raises(InputError, match="cannot be told: it has no column scmap_batch"):
        embed(tmp_path / "mapped", tmp_path / "plain.h5ad", tmp_path / "e.npz")
    embed(tmp_path / "mapped", tmp_path / "m.h5ad", tmp_path / "e.npz")
    found = read_npz(tmp_path / "e.npz")[1]["embedding"]
    np.testing.assert_array_equal(found, anndata.read_h5ad(tmp_path / "m.h5ad").obsm["X_expimap"])


def test_the_policy_for_missing_genes_is_remembered(trained: Any, query: Path, tmp_path: Path) -> None:
    write_h5ad(anndata.read_h5ad(query)[:, :120].copy(), tmp_path / "q.h5ad")
    run(trained, tmp_path / "q.h5ad", tmp_path, missing="reference-mean")
    embed(tmp_path / "mapped", tmp_path / "m.h5ad", tmp_path / "e.npz")
    found = read_npz(tmp_path / "e.npz")[1]["embedding"]
    np.testing.assert_array_equal(found, anndata.read_h5ad(tmp_path / "m.h5ad").obsm["X_expimap"])


def test_what_is_frozen_cannot_be_changed(trained: Any, query: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mean is that of the reference"):
        run(trained, query, tmp_path, model_options={"mean": "exp"})
    with pytest.raises(UsageError, match="contradict"):
        run(trained, query, tmp_path, batch_key="lane")


def test_a_run_stopped_after_its_model_goes_on_without_training(
    trained: Any, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    run(trained, query, tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr("scmap_cli.stages.map_query.embed_cells", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(trained, query, tmp_path)
    assert (tmp_path / "mapped" / "config.json").exists()
    assert not (tmp_path / "m.h5ad").exists()
    summary = run(trained, query, tmp_path)
    assert "training" not in summary
    assert (tmp_path / "m.h5ad").read_bytes() == (tmp_path / "whole" / "m.h5ad").read_bytes()
    with pytest.raises(OutputExistsError):
        map_query(trained.model, query, tmp_path / "n.h5ad", model_out=tmp_path / "mapped", one_batch="other")


def test_a_wrong_reference_is_found_before_training(trained: Any, query: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no obs column 'typo'"):
        run(trained, query, tmp_path, reference=trained.data, label_key="typo")
    assert list(tmp_path.iterdir()) == []


def test_a_reference_without_a_label_is_found_before_training(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    data.obs["none"] = pd.Categorical([None] * data.n_obs)
    write_h5ad(data, tmp_path / "ref.h5ad")
    with pytest.raises(InputError, match="has a label in obs column 'none'"):
        run(trained, query, tmp_path, reference=tmp_path / "ref.h5ad", label_key="none")
    assert [path.name for path in tmp_path.iterdir()] == ["ref.h5ad"]


def test_labels_under_the_name_of_ours_are_not_judged_by_themselves(trained: Any, query: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    data.obs["scmap_label"] = data.obs["cell_type"]
    write_h5ad(data, tmp_path / "ref.h5ad")
    options: dict[str, Any] = {"reference": tmp_path / "ref.h5ad", "label_key": "scmap_label"}
    assert "accuracy" not in run(trained, query, tmp_path, **options)["labels"]
    true = anndata.read_h5ad(query)
    true.obs["scmap_label"] = "type1"
    write_h5ad(true, tmp_path / "q.h5ad")
    (tmp_path / "b").mkdir()
    assert run(trained, tmp_path / "q.h5ad", tmp_path / "b", **options)["labels"]["accuracy"] < 0.7
