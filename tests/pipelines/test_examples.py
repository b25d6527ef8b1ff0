"""The stories of ``examples/`` run from beginning to end on small simulated data."""

from __future__ import annotations

import json
import re
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import anndata
import pytest

from scmap_cli.io.bundle import is_bundle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = "--epochs 2 --hidden 16 --batch-size 64 --device cpu"
TINY = {"PRESET": "tiny", "PEAKS": "1500", "VIEW": "", "TRAIN": SHORT}


def check_report(folder: Path, *sections: str) -> dict:
    text = (folder / "report.html").read_text()
    for section in (*sections, "What was run"):
        assert f"<h2>{section}</h2>" in text, section
    assert "could not be drawn" not in text
    assert len(text) < 5e6
    return json.loads((folder / "report_mqc.json").read_text())["data"]


def test_scatac_with_depth_and_batch_effects(shell):
    shell.run("bash", EXAMPLES / "scatac.sh", "out", **(TINY | {"TRAIN": SHORT.replace("16", "16,6")}))
    out = shell.folder / "out"
    invariance = json.loads((out / "invariance.json").read_text())
    assert [entry["embedding"] for entry in invariance["results"]] == ["X_sailer", "X_lsi"]
    integration = json.loads((out / "integration.json").read_text())
    assert [entry["embedding"] for entry in integration["results"]] == ["X_sailer", "lsi", "lsi-harmony"]
    assert (out / "invariance.png").exists()
    assert anndata.read_h5ad(out / "imputed.h5ad").shape == anndata.read_h5ad(out / "peaks.h5ad").shape
    assert check_report(out, "Cells", "Models", "Scores")["sailer.h5ad"]["cells"] == 300


def test_a_query_with_ensembl_ids_missing_genes_and_two_new_batches(shell):
    shell.run("bash", EXAMPLES / "query.sh", "out", MAP="--epochs 2 --device cpu", **TINY)
    out = shell.folder / "out"
    assert anndata.read_h5ad(out / "sample1.h5ad").var_names[0].startswith("ENSG")
    overlap = json.loads((out / "mapped-model" / "overlap.json").read_text())
    assert overlap["missing"] > 0
    joined = anndata.read_h5ad(out / "joined.h5ad")
    assert joined.obs["scmap_batch"].nunique() == 3
    assert set(joined.obs["scmap_origin"]) == {"reference", "query"}
    assert check_report(out, "Cells", "Models", "Programs", "Scores")


# Without markermap, whose training takes long; the guide's commands are run with it.
PANEL = {"PRESET": "tiny", "GENES": "10", "SPLITS": "1", "METHODS": "l1-logistic t-test random"}


def test_a_panel_beside_baselines(shell):
    shell.run("bash", EXAMPLES / "panel.sh", "out", **PANEL)
    out = shell.folder / "out"
    assert len((out / "panel.tsv").read_text().splitlines()) == 11
    methods = {line.split("\t")[0] for line in (out / "benchmark.tsv").read_text().splitlines()[1:]}
    assert methods == {"l1-logistic", "t-test", "random"}
    assert (out / "panel.png").exists()
    check_report(out, "Markers", "Scores")


def test_programs_after_a_stimulus_go_through_sort_and_head(shell):
    train = "--epochs 100 --hidden 32 --batch-size 32 --device cpu"
    text = shell.run("bash", EXAMPLES / "stimulus.sh", "out", **(TINY | {"TRAIN": train}))
    rows = [line.split("\t") for line in text.splitlines()]
    assert len(rows) == 10
    truth = json.loads(str(anndata.read_h5ad(shell.folder / "out" / "cells.h5ad").uns["scmap_truth"]))
    planted = truth["stimulated_programs"]
    assert {row[0] for row in rows[: len(planted)]} == set(planted)
    rising = [abs(float(row[1])) for row in rows if row[2] == "up"]
    assert rising == sorted(rising, reverse=True)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    check_report(shell.folder / "out", "Models", "Programs")


def test_multiome_with_atac_only_cells(shell):
    short = "--epochs 2 --hidden 8,4 --batch-size 64 --warmup-epochs 1 --cycles 1 --cycle-epochs 1 --device cpu"
    shell.run("bash", EXAMPLES / "multiome.sh", "out", **(TINY | {"TYPES": "3", "TRAIN": short}))
    out = shell.folder / "out"
    cells = anndata.read_h5ad(out / "multiome.h5ad")
    assert 0 < cells.obs["has_rna"].sum() < cells.n_obs
    assert not set(cells.obs_names[cells.obs["has_rna"]]) & set(anndata.read_h5ad(out / "atac-only.h5ad").obs_names)
    embedded = anndata.read_h5ad(out / "sailerx.h5ad")
    assert embedded.obsm["X_sailerx"].shape[0] == cells.n_obs
    found = json.loads((out / "integration.json").read_text())["results"]
    assert [entry["embedding"] for entry in found] == ["X_sailerx", "lsi"]
    assert check_report(out, "Cells", "Models", "Scores")["sailerx.h5ad"]["cells"] == cells.n_obs


def test_pretraining_and_using_gene_embeddings(shell):
    short = "--preset tiny --width 16 --layers 1 --max-genes 64 --draws 2 --epochs 3 --lr 1e-2 --device cpu"
    shell.run("bash", EXAMPLES / "genes.sh", "out", PRESET="tiny", TRAIN=short)
    out = shell.folder / "out"
    genes = json.loads((out / "genes.json").read_text())["results"]
    assert {entry["embedding"] for entry in genes} >= {"genes.tsv", "co-expression SVD", "random vectors"}
    assert len((out / "genes.tsv").read_text().splitlines()) > 150
    direct, file = (json.loads((out / name).read_text()) for name in ("zero-shot.json", "file.json"))
    assert direct["settings"]["entries_digest"] == file["settings"]["entries_digest"]
    assert file["results"][-1]["entries_checked"]
    assert file["results"][-1]["mae"] == pytest.approx(direct["results"][-1]["mae"], rel=1e-4)
    check_report(out, "Models", "Scores")


# Long enough to be stopped: something is saved after every step.
LONG = "--hidden 16 --batch-size 16 --kl-anneal-epochs 2 --epochs 6 --device cpu --checkpoint-minutes 0"


def test_a_training_on_a_machine_that_is_taken_away(shell):
    started = shell.start("bash", EXAMPLES / "preempted.sh", "out", PRESET="tiny", VIEW="", TRAIN=LONG)
    _, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    assert "the training ended with 75" in err
    assert "resumed in epoch" in err
    assert "the weights are those of a run that nobody stopped" in err
    check_report(shell.folder / "out", "Cells", "Models", "Programs")


def test_a_task_that_is_stopped_goes_back_to_the_queue_and_on(shell):
    shell.add("scontrol", '#!/usr/bin/env bash\necho "$@" >> requeued\n')
    (shell.folder / "examples").symlink_to(EXAMPLES)
    sets = ("--gmt-output", "sets.gmt")
    shell.run("scmap", "simulate", "rna", "-o", "cells.h5ad", "--preset", "tiny", *sets)
    words = ("bash", EXAMPLES / "stories.sbatch", "runs", "preempted", "cells.h5ad", "sets.gmt")
    queue = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    queue |= {"TRAIN": LONG, "VIEW": ""}
    started = shell.start(*words, **queue)
    saved = shell.folder / "runs" / "preempted-3" / "model" / "checkpoints" / "last.safetensors"
    end = time.monotonic() + 120
    while not saved.exists():
        assert time.monotonic() < end, started.poll()
        time.sleep(0.005)
    started.send_signal(signal.SIGUSR1)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 75, err
    assert "stopped by SIGUSR1" in err
    assert (shell.folder / "requeued").read_text() == "requeue 17_3\n"
    assert not is_bundle(saved.parents[1])
    shell.run(*words, **queue)
    assert (shell.folder / "requeued").read_text() == "requeue 17_3\n"
    assert json.loads((saved.parents[1] / "config.json").read_text())["history"][-1]["seed"] == 3
    check_report(shell.folder / "runs" / "preempted-3", "Cells", "Models")


@pytest.mark.slow
def test_a_task_of_the_array_runs_its_story(shell):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "1", "EXAMPLES": str(EXAMPLES)}
    shell.run("bash", EXAMPLES / "stories.sbatch", "runs", **PANEL, **task)
    check_report(shell.folder / "runs" / "panel", "Markers", "Scores")


def test_workflow_and_queue_name_every_story():
    stories = sorted(path.stem for path in EXAMPLES.glob("*.sh") if path.stem != "demo")
    queue = re.search(r"^stories=\((.*)\)$", (EXAMPLES / "stories.sbatch").read_text(), re.M)[1].split()
    assert sorted(queue) == stories
    array = re.search(r"^#SBATCH --array=0-(\d+)$", (EXAMPLES / "stories.sbatch").read_text(), re.M)[1]
    assert int(array) == len(stories) - 1
    workflow = re.search(r"^STORIES = \[(.*)\]$", (EXAMPLES / "Snakefile").read_text(), re.M)[1]
    assert re.findall(r'"(\w+)"', workflow) == queue


NEEDS_SNAKEMAKE = pytest.mark.skipif(
    find_spec("snakemake") is None, reason="needs snakemake: pip install 'scmap-cli[workflow]'"
)
SNAKEMAKE = ("python", "-m", "snakemake", "-s", EXAMPLES / "Snakefile", "--cores", "1")


@NEEDS_SNAKEMAKE
@pytest.mark.slow
def test_the_snakefile_runs_the_stories(shell):
    plan = "".join(shell.start(*SNAKEMAKE, "--config", "out=out", "--dry-run").communicate(timeout=120))
    for story in re.findall(r'"(\w+)"', re.search(r"^STORIES = .*$", (EXAMPLES / "Snakefile").read_text(), re.M)[0]):
        assert f"output: out/{story}/report.html" in plan
    shell.run(*SNAKEMAKE, "--config", "out=out", "--", "out/panel/report.html", **PANEL)
    check_report(shell.folder / "out" / "panel", "Markers", "Scores")


@NEEDS_SNAKEMAKE
def test_the_snakefile_makes_its_report_once(shell, sample):
    folder = shell.folder / "samples"
    folder.mkdir()
    adata = anndata.read_h5ad(sample.data)
    for name in sorted(adata.obs["batch"].unique()):
        one = adata[adata.obs["batch"] == name].copy()
        del one.obs["batch"]
        one.write_h5ad(folder / f"{name}.h5ad")
    shell.run("scmap", "simulate", "rna", "-o", "sets.h5ad", "--preset", "tiny", "--gmt-output", "sets.gmt")
    config = ("--config", "samples=samples", "programs=sets.gmt", "out=out", f"train={SHORT}", "view=")
    words = (*SNAKEMAKE, *config)
    shell.run(*words)
    check_report(shell.folder / "out", "Cells", "Models", "Scores")
    assert "Nothing to be done" in "".join(shell.start(*words).communicate(timeout=120))


@pytest.mark.slow
def test_the_demo(shell):
    text = shell.run("bash", EXAMPLES / "demo.sh", "out", EPOCHS="3")
    assert "programs above the average" in text
    for name in ("umap.png", "model/loss.png", "programs.by_cluster.tsv", "embedded.h5ad", "scores.json"):
        assert f"out/{name}" in text
        assert (shell.folder / "out" / name).exists()
    scores = json.loads((shell.folder / "out" / "scores.json").read_text())["results"][0]
    assert scores["cells"] > 2000


@pytest.mark.slow
def test_the_picture_of_the_counting_rules_is_that_of_its_script(shell):
    shell.run("python", EXAMPLES / "counting_rules.py", "rules.svg")
    made, kept = (re.findall(r"<!-- (.*?) -->", path.read_text()) for path in
                  (shell.folder / "rules.svg", EXAMPLES / "counting_rules.svg"))  # fmt: skip
    assert made == kept


# measure.py is what the others share.
BENCHMARKS = sorted(path for path in (EXAMPLES / "benchmarks").glob("*.py") if path.name != "measure.py")


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_a_benchmark_tells_its_use(shell, path):
    assert "usage" in shell.run("python", path, "-h")


@pytest.mark.parametrize(
    "path", [*sorted(EXAMPLES.glob("*.sh")), EXAMPLES / "stories.sbatch"], ids=lambda path: path.name
)
def test_scripts_are_sound_bash(shell, path):
    shell.run("bash", "-n", path)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -" in text
