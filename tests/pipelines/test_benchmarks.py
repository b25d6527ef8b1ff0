"""Benchmark scripts run from beginning to end on tiny data; what they measure is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
SHORT = "--epochs 2 --hidden 16,6 --batch-size 64"


def test_the_table_of_marker_selectors_puts_the_paper_beside(tmp_path):
    measures = ("knn_accuracy", "knn_weighted_f1", "rf_accuracy", "rf_weighted_f1", "mse", "mae")
    lines = ["\t".join(("method", "as_published", "k", "split", *measures))]
    for method, published, values in (
        ("t-test", "false", (0.97, 0.96)),
        ("t-test", "true", (0.9, 0.9)),
        ("hvg", "false", (0.7, 0.8)),
    ):
        for split, value in enumerate(values):
            lines.append("\t".join((method, published, "50", str(split), *[str(value)] * len(measures))))
    (tmp_path / "found.tsv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, BENCHMARKS / "marker_table.py", tmp_path / "found.tsv"]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    neighbours, forest, errors = (part.splitlines() for part in text.split("\nfound.tsv, ")[1:])
    rows = {line.split()[0]: line.split()[1:] for line in neighbours[2:4]}
    assert rows["t-test"] == ["0.960", "0.900", "0.965", "0.960", "0.900", "0.965", "+0.005"]
    assert rows["hvg"] == ["0.750", "0.750"]
    assert forest[2].split()[1] == "0.956"
    assert errors[3].split()[:2] == ["hvg", "0.636"]


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
