"""The stories of ``examples/`` run from beginning to end on small simulated data."""

from __future__ import annotations

import json
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import anndata
import pytest

from scmap_cli.io.bundle import is_bundle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = "--epochs 2 --hidden 16 --batch-size 64 --device cpu"
TINY = {"PRESET": "tiny", "VIEW": "", "TRAIN": SHORT}


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


def test_a_panel_beside_baselines(shell):
    shell.run("bash", EXAMPLES / "panel.sh", "out", PRESET="tiny", GENES="10", SPLITS="1")
    out = shell.folder / "out"
    assert len((out / "panel.tsv").read_text().splitlines()) == 11
    methods = {line.split("\t")[0] for line in (out / "benchmark.tsv").read_text().splitlines()[1:]}
    assert {"l1-logistic", "random"} <= methods
    assert (out / "panel.png").exists()
    check_report(out, "Markers", "Scores")


def test_programs_after_a_stimulus_go_through_sort_and_head(shell):
    text = shell.run("bash", EXAMPLES / "stimulus.sh", "out", **TINY)
    rows = [line.split("\t") for line in text.splitlines()]
    assert len(rows) == 10
    values = [float(row[1]) for row in rows]
    assert values == sorted(values, reverse=True)
    assert {row[2] for row in rows} <= {"up", "down", "ambiguous"}
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


def test_a_task_that_is_stopped_goes_back_to_the_queue_and_on(shell, sample):
    shell.add("scontrol", '#!/usr/bin/env bash\necho "$@" >> requeued\n')
    options = "--hidden 16 --batch-size 16 --kl-anneal-epochs 2 --epochs 6 --device cpu --checkpoint-minutes 0"
    words = ("bash", EXAMPLES / "requeue.sbatch", sample.data, sample.programs, "runs")
    queue = {"TRAIN": options, "SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    started = shell.start(*words, **queue)
    saved = shell.folder / "runs" / "model-3" / "checkpoints" / "last.safetensors"
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
    assert is_bundle(saved.parents[1])
    assert (shell.folder / "requeued").read_text() == "requeue 17_3\n"


@pytest.mark.skipif(find_spec("snakemake") is None, reason="needs snakemake: pip install 'scmap-cli[workflow]'")
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
    words = ("python", "-m", "snakemake", "-s", EXAMPLES / "Snakefile", "--cores", "1", *config)
    shell.run(*words)
    check_report(shell.folder / "out", "Cells", "Models", "Scores")
    assert "Nothing to be done" in "".join(shell.start(*words).communicate(timeout=120))


@pytest.mark.parametrize(
    "path", [*sorted(EXAMPLES.glob("*.sh")), EXAMPLES / "requeue.sbatch"], ids=lambda path: path.name
)
def test_scripts_are_sound_bash(shell, path):
    shell.run("bash", "-n", path)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -" in text
