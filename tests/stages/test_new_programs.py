"""Learning anew: what the reference never saw, a stimulus and a cell type, is recovered by added programs (Fig. 4)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scmap_cli.data.simulation import TRUTH
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.programs import Programs, save_programs
from scmap_cli.stages.map_query import map_query
from scmap_cli.stages.simulate import simulate_rna
from scmap_cli.stages.train_expimap import train_expimap

# New programs need the default number of epochs.
pytestmark = pytest.mark.slow

LACKING = "type4"


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, anndata.AnnData, dict[str, Any]]:
    """A reference without the stimulus, the type and their programs; a query with all of them."""
    folder = tmp_path_factory.mktemp("anew")
    simulate_rna(
        folder / "all.h5ad", n_cells=2400, n_genes=400, n_programs=20, n_types=4, n_batches=2, genes_per_program=20,
        active_per_type=3, noise_genes=60, stimulated=0.4, stim_programs=2, seed=3,
    )  # fmt: skip
    data = anndata.read_h5ad(folder / "all.h5ad")
    truth = json.loads(data.uns[TRUTH])
    names = np.array([str(name) for name in data.uns["scmap_program_names"]])
    elsewhere = {n for t, programs in truth["active_programs"].items() if t != LACKING for n in programs}
    own = [name for name in truth["active_programs"][LACKING] if name not in elsewhere]
    hidden = np.isin(names, [*own, *truth["stimulated_programs"]])
    mask, genes = data.varm["scmap_programs"].tocsc(), data.var_names.to_numpy().astype(str)

    def save(path: Path, matrix: Any, titles: np.ndarray) -> None:
        size = np.asarray(matrix.sum(0, dtype=np.int64)).ravel()
        save_programs(path, Programs(matrix.tocsc(), genes, titles, size, size))

    save(folder / "known.npz", mask[:, ~hidden], names[~hidden])
    one = mask[:, np.isin(names, own)].max(axis=1).tocsc()
    save(folder / "own.npz", one, np.array(["LACKING_TYPE"]))
    first = (data.obs["batch"] == "batch1").to_numpy()
    plain = (data.obs["condition"] == "ctrl").to_numpy() & (data.obs["cell_type"] != LACKING).to_numpy()
    write_h5ad(data[first & plain].copy(), folder / "reference.h5ad")
    write_h5ad(data[~first].copy(), folder / "query.h5ad")
    train_expimap(
        folder / "reference.h5ad", folder / "model", programs=folder / "known.npz",
        train_options={"epochs": 60}, model_options={"hidden": [64, 64]}, device="cpu",
    )  # fmt: skip
    # With seed 2 two new programs share the stimulus and neither tells it alone; hard membership finds it with all.
    map_query(
        folder / "model", folder / "query.h5ad", folder / "mapped.h5ad", model_out=folder / "mapped", one_batch="query",
        new_programs=3, programs=folder / "own.npz", model_options={"membership": "soft"}, seed=0, device="cpu",
    )  # fmt: skip
    stimulated = {str(g) for g in genes[mask[:, np.isin(names, truth["stimulated_programs"])].sum(1).A1 > 0]}
    return folder, anndata.read_h5ad(folder / "mapped.h5ad"), {"stimulated": stimulated}


def auc(values: np.ndarray, inside: np.ndarray) -> float:
    found = float(roc_auc_score(inside, values))
    return max(found, 1 - found)


def test_a_new_program_tells_the_stimulus_by_its_genes(mapped: Any) -> None:
    folder, query, truth = mapped
    names = list(query.uns["expimap_names"])
    stim = (query.obs["condition"] == "stim").to_numpy()
    scores = {name: auc(query.obsm["X_expimap"][:, names.index(name)], stim) for name in ("new_1", "new_2", "new_3")}
    best = max(scores, key=lambda name: scores[name])
    assert scores[best] >= 0.95, scores
    with (folder / "mapped" / "new_programs.tsv").open(newline="") as handle:
        row = next(r for r in csv.DictReader(handle, delimiter="\t") if r["program"] == best)
    leading = [gene.split("(")[0] for gene in row["top_genes"].split(",")]
    assert np.mean([gene in truth["stimulated"] for gene in leading]) >= 0.8, leading


def test_a_program_given_for_the_lacking_type_tells_it(mapped: Any) -> None:
    _, query, _ = mapped
    column = list(query.uns["expimap_names"]).index("LACKING_TYPE")
    inside = (query.obs["cell_type"] == LACKING).to_numpy()
    assert auc(query.obsm["X_expimap"][:, column], inside) >= 0.95
