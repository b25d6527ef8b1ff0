"""``--plot`` of stages whose pictures are tested nowhere else: drawn beside the output, refused if it exists."""

from __future__ import annotations

import pytest

from scmap_cli.errors import OutputExistsError
from scmap_cli.stages.evaluate_clustering import evaluate_clustering
from scmap_cli.stages.evaluate_imputation import evaluate_imputation
from scmap_cli.stages.evaluate_invariance import evaluate_invariance
from scmap_cli.stages.evaluate_reconstruction import evaluate_reconstruction
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


def quality(data, atac, folder, plot):
    preprocess_rna([data], folder / "out.h5ad", plot=plot)


@pytest.mark.parametrize("stage", [clustering, invariance, imputation, reconstruction, quality])
def test_a_stage_draws_beside_its_output(stage, trained, atac, tmp_path):
    plot = tmp_path / "out.svg"
    stage(trained.data, atac, tmp_path, plot)
    assert plot.read_text().startswith("<?xml")
    for path in tmp_path.iterdir():
        if path != plot:
            path.unlink()
    with pytest.raises(OutputExistsError, match=r"out\.svg"):
        stage(trained.data, atac, tmp_path, plot)
    assert list(tmp_path.iterdir()) == [plot]
