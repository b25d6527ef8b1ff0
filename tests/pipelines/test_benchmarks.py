"""Benchmark scripts run from beginning to end on tiny data; what they measure is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pytest
from multiome_files import multiome

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
PAIRED = (
    "--rna rna.h5ad --atac atac.h5ad --label-key type --batch-key library --hide-batch rich0 rich1 --lone-types 0 1 "
    "--epochs 3"
)
ROWS = (
    "paired: RNA reference",
    "paired: SAILERX",
    "hybrid, without RNA: SAILERX",
    "hybrid: SAILERX",
    "lone: SAILERX",
)
SHORT = "--epochs 2 --hidden 16,6 --batch-size 64"


@pytest.mark.slow
def test_the_three_simulations_go_on_where_they_were_stopped(shell):
    words = ("python", BENCHMARKS / "simulated_atac.py", "--scmap", "scmap", "--threads", "1", "--n-peaks", "300")
    words += (
        "--cell-share",
        "0.03",
        "--depth-share",
        "0.1",
        "--train-options",
        SHORT,
        "--work-dir",
        "work",
        "-o",
        "found.json",
    )
    shell.run(*words, "--sims", "sim3", "--seeds", "0")
    first = json.loads((shell.folder / "found.json").read_text())["runs"]
    assert list(first) == ["sim3, seed 0"]
    text = shell.run(*words, "--sims", "sim3", "sim1", "--seeds", "0")
    assert "sim3, seed 0: " not in text
    assert "Table 2.4, depth MI" in text
    assert "Table 2.4, batch MI" in text
    both = json.loads((shell.folder / "found.json").read_text())["runs"]
    assert both["sim3, seed 0"] == first["sim3, seed 0"]
    sim1, sim3 = both["sim1, seed 0"], both["sim3, seed 0"]
    assert len(sim1["epoch_seconds"]) == 2
    assert set(sim1["embeddings"]) == {"SAILER", "LSI, all components", "LSI"}
    for name, scores in sim3["embeddings"].items():
        assert 0 <= scores["rare_f1"] <= 1, name
        assert scores["batch_mi"] >= 0, name
    assert "batch_mi" not in sim1["embeddings"]["SAILER"]
    dice = sim1["dice"]["SAILER"]
    assert set(dice) == {"raw", "soft", "> 0.5", "cell", "scale", "best"}
    assert dice["raw"] < dice["best"] <= 1
    other = shell.start(*words, "--sims", "sim1", "--seeds", "0", "--n-peaks", "301")
    assert "other settings" in other.communicate(timeout=60)[1]


@pytest.mark.slow
def test_paired_cells_hybrids_and_the_tables_of_the_thesis(shell):
    rna, atac = multiome()
    atac.obs["library"] = [f"{batch}{i % 2}" for i, batch in enumerate(atac.obs["batch"])]
    rna.write_h5ad(shell.folder / "rna.h5ad")
    atac.write_h5ad(shell.folder / "atac.h5ad")
    words = [*PAIRED.split(), "--subsamples", "0", "--seeds", "0", "-o", "found.json", "--rows", *ROWS]
    common = ("--scmap", "scmap", "--threads", "1", "--work-dir", "work")
    text = shell.run("python", BENCHMARKS / "snareseq.py", *words, *common)
    runs = json.loads((shell.folder / "found.json").read_text())["runs"]
    assert list(runs) == [f"{name}, seed 0" for name in ROWS]
    hybrid, alone = (runs[f"hybrid{part}: SAILERX, seed 0"] for part in ("", ", without RNA"))
    assert hybrid["cells"] == 240 > alone["cells"] > 60
    assert "rna_mixing" in hybrid
    assert "rna_mixing" not in alone
    lone = runs["lone: SAILERX, seed 0"]
    assert lone["cells"] < 240
    assert 0 < lone["f1"] <= 1
    assert "lone: SAILERX" in text
    again = shell.run("python", BENCHMARKS / "snareseq.py", *words, *common)
    assert "seed 0: " not in again
    z = np.random.default_rng(0).normal(size=(atac.n_obs, 9))
    z[rna[atac.obs_names].obs["type"] == "0", 4] += 5
    motifs = anndata.AnnData(z, obs=atac.obs[[]])
    motifs.write_h5ad(shell.folder / "motifs.h5ad")
    wanted = ("--types", "0", "1", "--label-key", "type", "--motifs", "motifs.h5ad", "-o", "tables.json")
    text = shell.run("python", BENCHMARKS / "snareseq_tables.py", *wanted, *common)
    tables = json.loads((shell.folder / "tables.json").read_text())["runs"]
    # Those genes are ten of the twenty that the type has more of.
    assert set(tables["markers"]["0"]["markers"]) < {f"G{i}" for i in range(20)}
    assert tables["markers"]["0"]["methods"]["RNA reference"]["mean"] > 4
    assert set(tables["imputed"]) == {"LSI of counts", "SAILERX"}
    of_motif = tables["motifs"]["raw"]
    assert next(iter(of_motif)) == "4"
    assert len(of_motif) == 6
    assert of_motif["4"]["0"]["RNA reference"]["mean"] > 4 > 1 > of_motif["4"]["1"]["RNA reference"]["mean"]
    assert "0, markers" in text
    assert "4 in 1, raw" in text
