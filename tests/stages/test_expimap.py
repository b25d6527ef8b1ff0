"""``train``: what the directory holds, determinism, programs from either place, and every refusal before any work."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import spearmanr

from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io.bundle import CHECKPOINTS, load_bundle, read_history
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.programs import Programs, load_programs, save_programs
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.stages.report import report
from scmap_cli.stages.train_expimap import size_weights, train_expimap
from scmap_cli.training.checkpoint import Checkpoint

SHORT = {"epochs": 3, "batch_size": 64}
SMALL = {"hidden": [8]}


def run(trained, output: Path, **options):  # type: ignore[no-untyped-def]
    settings = {
        "programs": trained.programs,
        "batch_key": "batch",
        "train_options": SHORT,
        "model_options": SMALL,
    } | options
    return train_expimap(settings.pop("input", trained.data), output, **settings)


def test_the_directory_is_complete(trained) -> None:
    names = {p.name for p in trained.model.iterdir()}
    files = {"config.json", "model.safetensors", "features.tsv", "categories.json", "history.csv", "metrics.json"}
    assert names == files | {"split.tsv", "programs.tsv", "README.md", "loss.png"}
    bundle = load_bundle(trained.model)
    assert bundle.config["model"] == "expimap"
    assert bundle.categories["condition"] == ["batch1", "batch2"]
    data = anndata.read_h5ad(trained.data)
    assert bundle.features.tolist() == data.var_names.tolist()
    np.testing.assert_allclose(bundle.feature_means, data.X.toarray().mean(0, dtype=np.float64), rtol=1e-6)
    assert bundle.config["history"][0]["verb"] == "train expimap"
    history = read_history(trained.model)
    assert history[-1]["valid_loss"] < history[0]["valid_loss"]
    machine = json.loads((trained.model.parent / "model.run.json").read_text())["machine"]
    assert machine["cells_per_second"] > 0
    assert len(machine["epoch_seconds"]) == len(history)


def test_programs_tsv_agrees_with_the_weights(trained) -> None:
    lines = [line.split("\t") for line in (trained.model / "programs.tsv").read_text().splitlines()]
    table = {row[0]: dict(zip(lines[0], row, strict=True)) for row in lines[1:]}
    programs = load_programs(trained.programs)
    bundle = load_bundle(trained.model)
    weights, program_e = bundle.tensors["blocks.0.member_e"], bundle.tensors["blocks.0.pattern.program_e"]
    assert list(table) == programs.programs.tolist()
    for k, name in enumerate(programs.programs):
        column = weights[program_e == k]
        row = table[name]
        assert float(row["norm"]) == pytest.approx(np.linalg.norm(column), rel=1e-4)
        assert int(row["active"]) == (column != 0).any()
        mean = bundle.feature_means[programs.mask[:, k].toarray().ravel() > 0]
        # Entries are ordered by gene, so a program's are in the order of its genes.
        assert float(row["expression_rho"]) == pytest.approx(spearmanr(np.abs(column), mean).statistic, abs=1e-4)
        assert int(row["size"]) == programs.size_after[k]
        assert int(row["genes_outside"]) == 0
        assert int(row["direction_sum"]) == np.sign(column.sum())
        strongest = bundle.features[
            bundle.tensors["blocks.0.pattern.gene_e"][program_e == k][np.argmax(np.abs(column))]
        ]
        assert row["top_genes"].startswith(f"{strongest}(")


def test_same_seed_same_bytes(trained, tmp_path: Path) -> None:
    run(trained, tmp_path / "a")
    run(trained, tmp_path / "b")
    run(trained, tmp_path / "c", seed=1)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()


def test_programs_from_varm_give_the_same_model(trained, tmp_path: Path) -> None:
    run(trained, tmp_path / "a")
    run(trained, tmp_path / "b", programs=None)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_programs_are_matched_by_gene_name(trained, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    order = np.random.default_rng(0).permutation(data.n_vars)
    write_h5ad(data[:, order].copy(), tmp_path / "shuffled.h5ad")
    run(trained, tmp_path / "m", input=tmp_path / "shuffled.h5ad")
    bundle, programs = load_bundle(tmp_path / "m"), load_programs(trained.programs)
    pairs = zip(bundle.tensors["blocks.0.pattern.gene_e"], bundle.tensors["blocks.0.pattern.program_e"], strict=True)
    found = {(bundle.features[g], int(k)) for g, k in pairs}
    coo = programs.mask.tocoo()
    assert found == {(programs.genes[g], int(k)) for g, k in zip(coo.row, coo.col, strict=True)}


def test_dry_run_and_refusals_write_nothing(trained, tmp_path: Path) -> None:
    plan = run(trained, tmp_path / "m", dry_run=True)
    weights = load_bundle(trained.model).tensors
    assert (plan["cells"], plan["genes"], plan["programs"]) == (300, 200, 12)
    small = run(trained, tmp_path / "m", dry_run=True, model_options={"hidden": [32]})
    stored = sum(v.size for k, v in weights.items() if ".pattern." not in k and not k.endswith("omega_k"))
    assert small["parameters"] == stored
    with pytest.raises(InputError, match="no obs column 'donor'"):
        run(trained, tmp_path / "m", batch_key="donor")
    with pytest.raises(UsageError, match="group_laso"):
        run(trained, tmp_path / "m", model_options={"group_laso": 1})
    with pytest.raises(UsageError, match="resume"):
        run(trained, tmp_path / "m", resume="maybe")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_model_needs_force_and_other_folders_are_safe(trained, tmp_path: Path) -> None:
    model = tmp_path / "m"
    shutil.copytree(trained.model, model)
    with pytest.raises(OutputExistsError, match="already exists"):
        run(trained, model)
    assert (model / "model.safetensors").read_bytes() == (trained.model / "model.safetensors").read_bytes()
    run(trained, model, force=True)
    assert (model / "model.safetensors").read_bytes() != (trained.model / "model.safetensors").read_bytes()
    # Weights that a diverged training left are no run to go on with.
    Checkpoint(model / CHECKPOINTS / "last-finite", {}).save({}, {})
    with pytest.raises(OutputExistsError, match="already exists"):
        run(trained, model)
    Checkpoint(model / CHECKPOINTS, {}).save({}, {})
    with pytest.raises(UsageError, match="of another run"):
        run(trained, model)
    precious = tmp_path / "results"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        run(trained, precious, force=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_program_weights_keep_a_program_active(trained, tmp_path: Path) -> None:
    name = load_programs(trained.programs).programs[3]
    table = tmp_path / "w.tsv"
    table.write_text(f"program\tweight\n{name}\t0\nUNHEARD\t2\n")
    strong = {"hidden": [8], "group_lasso": 1e4}
    summary = run(trained, tmp_path / "m", model_options=strong, program_weights=table)
    assert summary["active_programs"] == 1
    rows = [line.split("\t") for line in (tmp_path / "m/programs.tsv").read_text().splitlines()]
    assert [row[0] for row in rows if row[2] == "1"] == [name]
    for text, match in ((f"{name}\tmuch\n{name}\tmuch\n", "line 2"), (f"x\t1\n{name}\t-1\n", "is -1")):
        table.write_text(text)
        with pytest.raises(InputError, match=match):
            run(trained, tmp_path / "n", program_weights=table)


def test_weights_by_size_are_the_default_and_the_root_of_a_groups_size(trained, tmp_path: Path) -> None:
    np.testing.assert_allclose(
        size_weights(np.array([1, 4, 16, 19])), [0.1**0.5, 0.4**0.5, 1.6**0.5, 1.9**0.5], rtol=1e-6
    )
    assert size_weights(np.zeros(0)).shape == (0,)
    known = load_programs(trained.programs)
    large = sparse.lil_matrix(known.mask)
    large[:, 0] = 1
    mask = sparse.csc_matrix(large)
    size_k = np.diff(mask.indptr).astype(np.int64)
    uneven, table = tmp_path / "uneven.npz", tmp_path / "w.tsv"
    save_programs(uneven, Programs(mask, known.genes, known.programs, size_k, size_k))
    weight_k = np.sqrt(size_k / size_k.mean()).tolist()
    table.write_text("".join(f"{name}\t{w!r}\n" for name, w in zip(known.programs, weight_k, strict=True)))
    models = {}
    for name, weights in (("size", {}), ("file", {"program_weights": table}), ("equal", {"program_weights": "equal"})):
        run(trained, tmp_path / name, programs=uneven, **weights)
        models[name] = load_bundle(tmp_path / name).tensors
    for key, tensor in models["size"].items():
        np.testing.assert_array_equal(tensor, models["file"][key], err_msg=key)
    assert (models["equal"]["blocks.0.omega_k"] == 1).all()
    assert any((tensor != models["equal"][key]).any() for key, tensor in models["size"].items() if "omega" not in key)
    with pytest.raises(UsageError, match="'sise', which is no file"):
        run(trained, tmp_path / "n", program_weights="sise")


def test_missing_batches_become_unknown(trained, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    labels = data.obs["batch"].astype(object)
    labels.iloc[:30] = None
    data.obs["batch"] = labels
    data.write_h5ad(tmp_path / "gaps.h5ad")
    run(trained, tmp_path / "m", input=tmp_path / "gaps.h5ad")
    assert load_bundle(tmp_path / "m").categories["condition"] == ["batch1", "batch2", "unknown"]


def test_normalised_values_as_they_are(trained, tmp_path: Path) -> None:
    data = anndata.read_h5ad(trained.data)
    data.X = np.log1p(data.X.toarray()) + 0.5
    del data.layers
    write_h5ad(data, tmp_path / "log.h5ad")
    with pytest.raises(InputError, match="count"):
        run(trained, tmp_path / "m", input=tmp_path / "log.h5ad")
    options = {"hidden": [8], "likelihood": "mse", "input_scale": "as-is"}
    summary = run(trained, tmp_path / "m", input=tmp_path / "log.h5ad", model_options=options)
    assert np.isfinite(summary["valid_loss"])


def test_unconstrained_soft_and_every_mean_train(trained, tmp_path: Path) -> None:
    for i, options in enumerate(
        (
            {"membership": "soft", "unconstrained": 2},
            {"mean": "softplus"},
            {"mean": "exp"},
            {"likelihood": "mse"},
        )
    ):
        summary = run(trained, tmp_path / str(i), model_options=SMALL | options)
        assert np.isfinite(summary["valid_loss"])
        assert summary["programs"] == 12 + options.get("unconstrained", 0)  # type: ignore[operator]
    assert load_bundle(tmp_path / "0").categories["latent"][-1] == "unconstrained_2"


@pytest.mark.parametrize(("soft_l1", "warns"), [(0.0, True), (50.0, False)])
def test_soft_programs_that_take_in_many_genes_are_told(
    trained, tmp_path: Path, caplog: pytest.LogCaptureFixture, soft_l1: float, warns: bool
) -> None:
    soft = {"hidden": [8], "membership": "soft", "soft_l1": soft_l1, "l1_anneal_epochs": 1.0}
    summary = run(trained, tmp_path / "m", model_options=soft)
    assert (summary["outside_share_inactive"] < 0.9) == warns
    assert ("raise --soft-l1" in caplog.text) == warns
    result = report([tmp_path / "m"], tmp_path / "r.html")
    assert any("raise --soft-l1" in note for note in result["notes"]) == warns


def test_the_decoder_of_squared_errors_starts_at_mean_log1p_cp10k(trained, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    told: list[np.ndarray] = []

    def watched(*given, **more):  # type: ignore[no-untyped-def]
        told.append(given[-1])
        return create(*given, **more)

    create = ExpiMap.create
    monkeypatch.setattr(ExpiMap, "create", watched)
    run(trained, tmp_path / "m", model_options=SMALL | {"likelihood": "mse"}, train_options=SHORT | {"epochs": 1})
    x = anndata.read_h5ad(trained.data).X.toarray().astype(np.float64)
    np.testing.assert_allclose(told[0], np.log1p(1e4 * x / x.sum(1, keepdims=True)).mean(0), rtol=1e-6)
