"""Benchmark scripts run from beginning to end on tiny data; what they measure is not tested."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from multiome_files import multiome
from scipy.optimize import nnls

from scmap_cli.data.peaks import peak_positions
from scmap_cli.io.fasta import read_regions

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
FACTORS = ("JKLF1", "MNPF1", "QRSF1", "TUVF1", "WXYF1", "ZABF1")
PAIRED = (
    "--rna rna.h5ad --atac atac.h5ad --label-key type --batch-key library --hide-batch rich0 rich1 --lone-types 0 1 "
    "--epochs 3"
)
ROWS = (
    "paired: RNA reference",
    "paired: RNA reference, length one",
    "paired: SAILERX",
    "hybrid, without RNA: SAILERX",
    "hybrid: SAILERX",
    "lone: SAILERX",
)
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
@pytest.mark.parametrize("script", ["sailer.py", "sailerx.py"])
def test_steps_of_every_side_are_clocked(shell, script):
    sizes = ("--peaks", "500", "--batch-size", "20", "--steps", "1", "--repeats", "1", "--threads", "1")
    text = shell.run("python", BENCHMARKS / script, *sizes, "-o", "found.json")
    found = json.loads((shell.folder / "found.json").read_text())["results"]
    assert len(found) == 3
    for side, figures in found.items():
        assert figures["cells_per_second"]["median"] > 0
        assert figures["peak_bytes"]["median"] > 1e8
        assert f"repeat 1, {side}: " in text


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
        "--mixture",
        "-o",
        "found.json",
    )
    shell.run(*words, "--sims", "sim3", "--seeds", "0")
    first = json.loads((shell.folder / "found.json").read_text())["runs"]
    assert list(first) == ["sim3, seed 0"]
    text = shell.run(*words, "--sims", "sim3", "sim2", "sim1", "--seeds", "0")
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
    assert set(dice) == {"raw", "soft", "> 0.5", "cell", "scale", "best", "values"}
    assert set(sim3["embeddings"]) == {*sim1["embeddings"], "LSI, Harmony"}
    assert {"batch_mi", "rare_f1"} <= set(sim3["dice"]["SAILER"]["values"]) == set(sim3["counts"])
    assert sim1["mixture"]["dice"]["best"] > dice["raw"]
    assert sim1["counts"] == sim1["mixture"]["values"] == {}
    assert dice["raw"] < dice["best"] <= 1
    other = shell.start(*words, "--sims", "sim1", "--seeds", "0", "--n-peaks", "301")
    assert "other settings" in other.communicate(timeout=60)[1]


@pytest.mark.slow
def test_expresser_goes_on_and_takes_more_tasks(shell):
    shell.run("scmap", "simulate", "rna", "-o", "sim.h5ad", "--preset", "tiny", "--n-batches", "3", "-t", "1")
    shell.run("python", BENCHMARKS.parent / "data" / "split_studies.py", "sim.h5ad", "a.h5ad", "b.h5ad", "test.h5ad")
    genes = anndata.read_h5ad(shell.folder / "sim.h5ad").var_names
    rows = [f"{genes[i]}\t{genes[(i * j + 1) % len(genes)]}" for i in range(len(genes)) for j in (3, 7, 11)]
    (shell.folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    lists = "".join(f"{'even' if i % 2 == 0 else 'odd'}\t{gene}\n" for i, gene in enumerate(genes))
    (shell.folder / "lists.tsv").write_text(lists)
    words = ("python", BENCHMARKS / "expresser.py", "--scmap", "scmap", "--threads", "1", "--seeds", "0")
    words += ("--model-options", "--preset tiny --width 16 --layers 1 --max-genes 40", "--work-dir", "work")
    words += ("--train-options", "--epochs 2 --lr 0.01", "--tune-options", "--epochs 1 --lr 0.01")
    words += ("--baselines", "gene-mean,additive", "--train", "a.h5ad", "b.h5ad", "--held-out", "test.h5ad")
    shell.run(*words, "--pairs", "pairs.tsv", "-o", "found.json")
    first = json.loads((shell.folder / "found.json").read_text())["runs"]["seed 0"]
    more = ("--scimpute-clusters", "3")
    text = shell.run(*words, "--pairs", "pairs.tsv", "--lists", "lists.tsv", "even", "odd", *more, "-o", "found.json")
    found = json.loads((shell.folder / "found.json").read_text())["runs"]["seed 0"]
    assert found | first == found
    assert set(found) - set(first) == {"lists even odd", "scImpute"}
    assert set(found["scImpute"]) == {"scImpute", "told"}
    assert 0 < found["scImpute"]["told"]["dropouts"] < 1
    assert set(found["zero-shot"]) == {"gene-mean", "additive", "decoder", "no-decoder"}
    assert set(found["fine-tuned"]) == {"gene-mean", "additive", "tuned-decoder", "tuned-no-decoder"}
    assert len(found["tune decoder"]["epoch_seconds"]) == 1
    embeddings = {entry["embedding"] for entry in found["pairs pairs.tsv"]}
    assert {"decoder", "no-decoder", "decoder-in-cells.npz", "no-decoder-in-cells.npz"} < embeddings
    assert {"co-expression SVD", "random vectors", "number of partners"} < embeddings
    assert "fine-tuned, decoder" in text
    assert "even odd, co-expression SVD" in text


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
def test_scimpute_finds_dropouts_and_their_values(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    scimpute = importlib.import_module("peer_scimpute")
    rng = np.random.default_rng(0)
    design, wanted = rng.gamma(1, 1, (400, 60)), np.maximum(rng.normal(size=60), 0)
    target = design @ wanted + rng.normal(size=400)
    found = scimpute.weights(design.T @ design, design.T @ target)
    np.testing.assert_allclose(found, nnls(design, target)[0], atol=1e-6)
    # Two kinds of cells, whose genes differ in level; three of ten values are lost.
    level = rng.uniform(1.5, 3.5, (2, 80))
    truth = (level.repeat(60, axis=0) + rng.normal(0, 0.1, (120, 80))).astype(np.float32)
    lost = rng.random(truth.shape) < 0.3
    seen = np.where(lost, np.float32(scimpute.LOW), truth)
    np.testing.assert_array_equal(scimpute.dropouts(seen[:60]) > 0.5, lost[:60])
    kind = scimpute.groups(truth, 2, 0)
    assert {len(set(part[part >= 0].tolist())) for part in (kind[:60], kind[60:])} == {1}
    filled = scimpute.impute_group(seen[:60], lost[:60])
    np.testing.assert_array_equal(filled[~lost[:60]], seen[:60][~lost[:60]])
    gap = (filled - truth[:60])[lost[:60]]
    assert np.abs(gap).mean() < 0.5 * np.abs((seen - truth)[:60][lost[:60]]).mean()


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
    whole, directions = (runs[f"{name}, seed 0"] for name in ROWS[:2])
    assert whole["silhouette"] != directions["silhouette"]
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
    assert set(tables["imputed"]) == {"LSI of counts", "SAILERX", "SAILERX, log-odds"}
    of_motif = tables["motifs"]["raw"]
    assert next(iter(of_motif)) == "4"
    assert len(of_motif) == 6
    assert of_motif["4"]["0"]["RNA reference"]["mean"] > 4 > 1 > of_motif["4"]["1"]["RNA reference"]["mean"]
    assert "0, markers" in text
    assert "4 in 1, raw" in text


@pytest.mark.slow
def test_a_batch_that_was_never_seen(shell):
    shell.run(
        "scmap", "simulate", "atac", "-o", "atac.h5ad", "--preset", "sim3", "--n-peaks", "300", "--n-cells", "400"
    )
    words = ["python", BENCHMARKS / "new_batch.py", "atac.h5ad", "--label-key", "cell_type", "--batch-key", "batch"]
    words += ["--new-batch", "batch2", "--seeds", "0", "--train-options", SHORT, "--scmap", "scmap", "--threads", "1"]
    text = shell.run(*words, "--work-dir", "work", "-o", "found.json")
    runs = json.loads((shell.folder / "found.json").read_text())["runs"]
    names = ("with them", "never seen", "by themselves")
    assert list(runs) == [f"{name}, seed 0" for name in names]
    assert len({one["cells"] for one in runs.values()}) == 1
    for name in names[:2]:
        assert 0 <= runs[f"{name}, seed 0"]["labels"] <= 1
        assert name in text
    assert runs["by themselves, seed 0"]["mixing"] is None
    assert "seed 0: " not in shell.run(*words, "--work-dir", "work", "-o", "found.json")


def test_a_planted_genome_holds_the_motifs_of_each_type(tmp_path):
    _, atac = multiome()
    atac.write_h5ad(tmp_path / "atac.h5ad")
    letters = np.random.default_rng(5).choice(list("ACGT"), (len(FACTORS), 12))
    sites = {name: "".join(row) for name, row in zip(FACTORS, letters, strict=True)}
    motifs = []
    for name, site in sites.items():
        rows = [f"{base} [ {' '.join('97' if base == x else '1' for x in site)} ]" for base in "ACGT"]
        motifs.append("\n".join([f">{name} {name}", *rows, ""]))
    (tmp_path / "motifs.txt").write_text("".join(motifs))
    options = "--label-key batch --types poor rich --motifs motifs.txt --count 1 -o genome.fa.gz"
    command = [sys.executable, BENCHMARKS / "planted_genome.py", "atac.h5ad", *options.split()]
    subprocess.run(command, capture_output=True, check=True, text=True, cwd=tmp_path)
    told = json.loads((tmp_path / "genome.fa.gz.json").read_text())
    assert list(told) == ["poor", "rich", "decoy"]
    peaks = peak_positions(atac.var)
    sequences = read_regions(tmp_path / "genome.fa.gz", peaks.chrom, peaks.start, peaks.end)
    texts = ["".join("ACGTN"[code] for code in sequence) for sequence in sequences]
    assert not any("N" in text for text in texts)
    held = {name: {p for p, text in enumerate(texts) if site in text} for name, site in sites.items()}
    planted = [label.split()[0] for (label,) in told.values()]
    assert len(set(planted)) == 3
    # a site is drawn from the motif's shares: 7 of 10 hold it letter by letter, and no other peak does
    for name in sites:
        assert (1 <= len(held[name]) <= 12) if name in planted else not held[name]
    assert not held[planted[0]] & held[planted[1]]
