"""``--plot`` of stages whose pictures are tested nowhere else: drawn beside the output, refused if it exists."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from scmap_cli.errors import OutputExistsError
from scmap_cli.stages.evaluate_clustering import evaluate_clustering
from scmap_cli.stages.evaluate_genes import evaluate_genes
from scmap_cli.stages.evaluate_imputation import evaluate_imputation
from scmap_cli.stages.evaluate_invariance import evaluate_invariance
from scmap_cli.stages.evaluate_markers import evaluate_markers
from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
from scmap_cli.stages.preprocess_motifs import preprocess_motifs
from scmap_cli.stages.preprocess_multiome import preprocess_multiome
from scmap_cli.stages.preprocess_programs import preprocess_programs
from scmap_cli.stages.preprocess_rna import preprocess_rna
from scmap_cli.stages.simulate_atac import simulate_atac


@pytest.fixture(scope="module")
def atac(tmp_path_factory):
    path = tmp_path_factory.mktemp("atac") / "atac.h5ad"
    simulate_atac(path, preset="tiny", n_batches=2)
    return path


def clustering(data, atac, folder, plot):
    # The truth of a simulation is an embedding like any other.
    options = {"label_key": "cell_type", "embedding": "true_activity", "k": [10], "resolutions": [0.5, 1.0]}
    evaluate_clustering([data], folder / "out.json", plot=plot, **options)


def invariance(data, atac, folder, plot):
    evaluate_invariance([data], folder / "out.json", embedding="true_activity", batch_key="batch", plot=plot)


def imputation(data, atac, folder, plot):
    evaluate_imputation([atac], folder / "out.json", raw=atac, label_key="cell_type", plot=plot)


def reconstruction(data, atac, folder, plot):
    evaluate_reconstruction(data, folder / "out.json", method=["random"], k=5, splits=2, plot=plot)


def types(data, atac, folder, plot):
    evaluate_reconstruction(
        data, folder / "out.json", method=["random"], k=5, splits=1, label_key="cell_type", plot_types=plot
    )


def layouts(data, atac, folder, plot):
    options = {"label_key": "cell_type", "k_grid": [4, 8], "splits": 1}
    evaluate_markers(data, folder / "out.json", method=["random"], plot_umap=plot, **options)


def quality(data, atac, folder, plot):
    preprocess_rna([data], folder / "out.h5ad", plot=plot)


def programs(data, atac, folder, plot):
    names = anndata.read_h5ad(data, backed="r").var_names
    (folder / "sets.tsv").write_text("".join(f"set{i % 4}\t{name}\n" for i, name in enumerate(names)) + "few\tNONE\n")
    preprocess_programs([folder / "sets.tsv"], folder / "out.npz", genes=data, plot=plot)


def depths(data, atac, folder, plot):
    rna = anndata.read_h5ad(data)
    rna.obs_names = anndata.read_h5ad(atac, backed="r").obs_names[: rna.n_obs]
    rna.write_h5ad(folder / "rna.h5ad")
    preprocess_multiome(folder / "out.h5ad", rna=folder / "rna.h5ad", atac=atac, components=4, plot=plot)


def variability(data, atac, folder, plot):
    rng = np.random.default_rng(0)
    ends = anndata.read_h5ad(atac, backed="r").var.groupby("chrom", observed=True)["end"].max()
    bases = {name: "".join(rng.choice(list("ACGT"), end)) for name, end in ends.items()}
    (folder / "genome.fa").write_text("".join(f">{name}\n{text}\n" for name, text in bases.items()))
    (folder / "motifs.txt").write_text(">M1 ONE\n9 0 0 0 9 0\n0 9 0 9 0 0\n0 0 9 0 0 9\n1 1 1 1 1 1\n")
    given = {"genome": folder / "genome.fa", "motifs": folder / "motifs.txt", "p_value": 0.001}
    preprocess_motifs(atac, folder / "out.h5ad", plot=plot, **given)


def genes(data, atac, folder, plot):
    rng = np.random.default_rng(0)
    names = [f"G{i}" for i in range(60)]
    pd.DataFrame(rng.normal(size=(60, 3)), names).to_csv(folder / "table.tsv", sep="\t", index_label="gene")
    (folder / "s.tsv").write_text("".join(f"{name}\t{i}\n" for i, name in enumerate(names)))
    evaluate_genes([folder / "table.tsv"], folder / "out.json", scores=folder / "s.tsv", plot=plot)


STAGES = [
    clustering,
    invariance,
    imputation,
    reconstruction,
    types,
    layouts,
    quality,
    programs,
    depths,
    variability,
    genes,
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_draws_beside_its_output(stage, trained, atac, tmp_path):
    plot = tmp_path / "out.svg"
    stage(trained.data, atac, tmp_path, plot)
    assert plot.read_text().startswith("<?xml")
    for path in tmp_path.iterdir():
        if path != plot:
            path.unlink()
    with pytest.raises(OutputExistsError, match=r"out\.svg"):
        stage(trained.data, atac, tmp_path, plot)
    assert not list(tmp_path.glob("out.[!s]*"))
