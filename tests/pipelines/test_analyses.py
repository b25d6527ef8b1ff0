"""The scripts of the paper's analyses run on small simulated data, and their tables say what was planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import pytest

from scmap_cli.io.h5ad import write_h5ad

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"
SMALL = "--hidden 32 --epochs 40 --batch-size 32 --device cpu"
SHORT = "--epochs 10 --batch-size 32 --device cpu"

pytestmark = pytest.mark.slow


@pytest.fixture
def cells(shell: Any) -> Any:
    """A reference without stimulated cells, and a query with them."""
    sizes = ("--preset", "tiny", "--n-cells", "600", "--n-batches", "3", "--stimulated", "0.4", "--depth-mean", "3000")
    made = ("--programs-output", "programs.npz", "--gmt-output", "programs.gmt")
    shell.run("scmap", "simulate", "rna", "-o", "all.h5ad", *sizes, *made, "-q")
    both = anndata.read_h5ad(shell.folder / "all.h5ad")
    query = (both.obs["batch"] == "batch3").to_numpy()
    write_h5ad(both[query].copy(), shell.folder / "query.h5ad")
    write_h5ad(both[~query & (both.obs["condition"] == "ctrl").to_numpy()].copy(), shell.folder / "reference.h5ad")
    return shell


@pytest.fixture
def study(cells: Any) -> Any:
    """The same with a model of the reference."""
    trained = ("--programs", "programs.npz", "--batch-key", "batch", *SMALL.split())
    cells.run("scmap", "train", "expimap", "reference.h5ad", "-o", "model", *trained, "-q")
    return cells


def analysed(shell: Any, script: str, *words: str) -> tuple[str, Any]:
    """What a script printed, and the results that it wrote."""
    options = ("--scmap", "scmap", "--threads", "1", "-o", "out.json")
    text = shell.run("python", SCRIPTS / script, *words, *options)
    return text, json.loads((shell.folder / "out.json").read_text())["results"]


def stimulated(folder: Path) -> list[str]:
    """Planted programs that the stimulus turns on."""
    truth = json.loads(str(anndata.read_h5ad(folder / "all.h5ad", backed="r").uns["scmap_truth"]))
    return list(truth["stimulated_programs"])


def test_a_query_alone_in_part_and_without_its_leading_programs(study: Any) -> None:
    words = ("--reference", "reference.h5ad", "--query", "query.h5ad", "--programs", "programs.npz")
    contrast = ("--groupby", "condition", "--group", "stim", "--against", "ctrl", "--label-key", "cell_type")
    short = (f"--train-options={SMALL}", f"--map-options={SHORT}", "--shares", "0.5", "--removed", "2")
    text, found = analysed(study, "query_robustness.py", "model", *words, *contrast, *short, "--work-dir", "work")
    assert list(found) == ["mapped", "50% of the cells", "query alone", "without 2 leading"]
    assert found["mapped"]["spearman"] == pytest.approx(1.0)
    assert found["50% of the cells"]["cells"] == round(found["mapped"]["cells"] / 2)
    removed = found["without 2 leading"]["removed"]
    assert removed == list(found["mapped"]["log_bf"])[:2]
    assert not set(removed) & set(found["without 2 leading"]["log_bf"])
    assert set(stimulated(study.folder)) & set(list(found["query alone"]["log_bf"])[:3])
    assert all(name in text for name in found)


def test_genes_that_a_list_lacks_are_looked_for(cells: Any) -> None:
    known = anndata.read_h5ad(cells.folder / "reference.h5ad")
    # One that the reference's cells differ in: what its encoder never saw vary, no query can learn in so few steps.
    program = list(known.uns["scmap_program_names"])[int(known.obsm["true_activity"].var(0).argmax())]
    cells.run("scmap", "preprocess", "programs", "programs.gmt", "-o", "fewer.npz", "--genes", "reference.h5ad",
              "--drop", program, "--min-genes", "1", "-q")  # fmt: skip
    trained = ("--programs", "fewer.npz", "--batch-key", "batch", *SMALL.split())
    cells.run("scmap", "train", "expimap", "reference.h5ad", "-o", "without", *trained, "-q")
    words = ("--query", "query.h5ad", "--programs", "programs.npz", "--program", program, "--work-dir", "soft")
    mapping = "--epochs 100 --batch-size 32 --lr 0.01 --l1-anneal-epochs 10 --device cpu"
    options = ("--soft-l1", "1", "1000", f"--map-options={mapping}")
    _, (found, none) = analysed(cells, "soft_membership.py", "without", *words, *options)
    assert found["listed"] + found["withheld"] == 15
    assert found["auc"] > 0.8
    assert found["regained"] == len(found["regained_genes"]) > found["by_chance"]
    assert (none["taken_in"], none["outside_zero"], none["p"]) == (0, 1.0, 1.0)


def test_cell_types_are_called_by_their_programs(cells: Any) -> None:
    adata = anndata.read_h5ad(cells.folder / "reference.h5ad")
    activity, names = adata.obsm["true_activity"], list(adata.uns["scmap_program_names"])
    answers = cells.folder / "answers.tsv"
    lines = []
    for label in adata.obs["cell_type"].unique():
        mine = (adata.obs["cell_type"] == label).to_numpy()
        order = (activity[mine].mean(0) - activity[~mine].mean(0)).argsort()[::-1]
        lines += [f"{label}\t{names[k]}\n" for k in order[:3]]
    answers.write_text("".join(lines))
    words = ("--gmt", "programs.gmt", "--batch-key", "batch", "--label-key", "cell_type", "--answers", "answers.tsv")
    text, found = analysed(
        cells, "type_programs.py", "reference.h5ad", *words, "--work-dir", "types", f"--train-options={SMALL}"
    )
    assert sum(row["cells"] for row in found) == adata.n_obs
    assert sum(row["right"] * row["cells"] for row in found) / adata.n_obs > 0.5
    assert "mean over labels" in text


def test_gene_set_tests_beside_the_bayes_factors(study: Any) -> None:
    mapping = ("--model-out", "mapped", "--one-batch", "query", *SHORT.split(), "-q")
    study.run("scmap", "map-query", "model", "query.h5ad", "-o", "mapped.h5ad", *mapping)
    sought = stimulated(study.folder)
    _, found = analysed(
        study, "gene_set_tests.py", "mapped:mapped.h5ad", "--contrast", "condition=stim:ctrl", "--sought",
        "|".join(sought), "--contrast", "cell_type=type1:rest", "--sought", "PROGRAM",
    )  # fmt: skip
    rows = {row["method"]: row for row in found["condition=stim:ctrl"]}
    assert {"gp-test 0", "fry", "camera"} <= set(rows)
    assert rows["fry"]["found_at"] <= 2
    assert rows["camera"]["found_at"] <= 3
    assert sorted(rows["fry"]["programs"]) == sorted(rows["camera"]["programs"])
    assert all(row["found_at"] == 1 for row in found["cell_type=type1:rest"])


def test_a_query_teaches_what_the_reference_lacks(cells: Any) -> None:
    planted = stimulated(cells.folder)
    known = anndata.read_h5ad(cells.folder / "reference.h5ad")
    given = next(name for name in known.uns["scmap_program_names"] if name not in planted)
    lines = (cells.folder / "programs.gmt").read_text().splitlines()
    (cells.folder / "given.gmt").write_text("".join(f"{line}\n" for line in lines if line.split("\t")[0] == given))
    genes = ("--genes", "reference.h5ad", "--min-genes", "1", "-q")
    cells.run("scmap", "preprocess", "programs", "given.gmt", "-o", "given.npz", *genes)
    gone = "|".join(f"^{name}$" for name in (*planted, given))
    words = ("--query", "query.h5ad", "--programs", "programs.npz", "--without", gone, "--given", "given.npz")
    keys = ("--batch-key", "batch", "--label-key", "cell_type", "--lacking", "type2", "--groupby", "condition")
    more = ("--group", "stim", "--against", "ctrl", "--seeds", "1", "--work-dir", "anew", f"--map-options={SHORT}")
    text, (found,) = analysed(
        cells, "learning_anew.py", "reference.h5ad", *words, *keys, *more, f"--train-options={SMALL}"
    )
    assert f"{len(planted) + 1} programs taken out" in text
    assert set(found["state_of_all_new"]) == {"new_1", "new_2", "new_3"}
    assert found["state"]["auc"] == max(found["state_of_all_new"].values())
    assert found["type"]["program"] == given
    assert found["state"]["genes"]
    assert not {found[part][1] for part in ("state_of_the_known", "type_of_the_known")} & {*planted, given}
    reference = anndata.read_h5ad(cells.folder / "anew" / "reference.h5ad", backed="r")
    assert "type2" not in set(reference.obs["cell_type"])
