import json

import numpy as np
import pytest
from scipy import sparse

from scmap_cli import keys
from scmap_cli.data import simulation
from scmap_cli.data.simulation import PRESETS, TRUTH, simulate_rna_data
from scmap_cli.errors import UsageError

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def tiny():
    return simulate_rna_data(**TINY | {"stimulated": 0.4}, seed=3)


def test_shapes_slots_and_integer_counts(tiny):
    assert tiny.shape == (300, 200)
    assert isinstance(tiny.X, sparse.csr_matrix)
    assert tiny.X.dtype == np.float32
    assert (tiny.X.data > 0).all()
    assert (tiny.X.data == np.round(tiny.X.data)).all()
    assert tiny.X.has_sorted_indices
    mask = tiny.varm[keys.PROGRAMS_VARM]
    assert mask.shape == (200, 12)
    assert (np.diff(mask.indptr) == TINY["genes_per_program"]).all()
    np.testing.assert_array_equal(tiny.var["is_noise"], ~mask.toarray().any(axis=1))
    assert tiny.var["is_noise"].sum() >= TINY["noise_genes"]
    np.testing.assert_array_equal(tiny.varm["true_weights"] != 0, mask.toarray() > 0)
    assert tiny.obsm["true_activity"].shape == (300, 12)


def test_the_truth_agrees_with_the_activities(tiny):
    truth = json.loads(tiny.uns[TRUTH])
    names = list(tiny.uns[keys.PROGRAM_NAMES])
    for name, active in truth["active_programs"].items():
        rows = (tiny.obs["cell_type"] == name) & (tiny.obs["condition"] == "ctrl")
        used = (tiny.obsm["true_activity"][rows.to_numpy()] != 0).any(axis=0)
        assert [names[k] for k in np.flatnonzero(used)] == sorted(active)
    assert len(truth["stimulated_programs"]) == TINY["stim_programs"]
    columns = [names.index(name) for name in truth["stimulated_programs"]]
    stim = (tiny.obs["condition"] == "stim").to_numpy()
    assert tiny.obsm["true_activity"][stim][:, columns].min() > 0


def test_numbers_of_cells_are_exact(tiny):
    counts = tiny.obs.groupby(["cell_type", "condition"], observed=False).size()
    assert set(counts.xs("stim", level="condition")) == {40}
    per_batch = tiny.obs.groupby(["cell_type", "batch"], observed=False).size()
    assert set(per_batch) == {50}
    rare = simulate_rna_data(**TINY | {"rare_type_share": 0.05}, seed=0).obs["cell_type"].value_counts()
    assert rare["type3"] == 15


def test_same_arguments_same_data_and_another_seed_other_data(tiny):
    again = simulate_rna_data(**TINY | {"stimulated": 0.4}, seed=3)
    assert (again.X != tiny.X).nnz == 0
    np.testing.assert_array_equal(again.obsm["true_activity"], tiny.obsm["true_activity"])
    assert again.uns[TRUTH] == tiny.uns[TRUTH]
    assert (simulate_rna_data(**TINY | {"stimulated": 0.4}, seed=4).X != tiny.X).nnz > 0


def test_many_small_blocks_are_deterministic_too(monkeypatch):
    monkeypatch.setattr(simulation, "_BLOCK", 1000)
    first, second = (simulate_rna_data(**TINY, seed=1) for _ in range(2))
    assert (first.X != second.X).nnz == 0
    monkeypatch.setattr(simulation, "current_threads", lambda: 1)
    assert (simulate_rna_data(**TINY, seed=1).X != first.X).nnz == 0


@pytest.mark.parametrize("dispersion", [0.0, 0.5])
def test_moments_are_those_of_the_negative_binomial(dispersion):
    n, g = 20_000, 20
    rng = np.random.default_rng(0)
    counts = simulation._draw_counts(
        np.random.SeedSequence(0),
        np.zeros((n, 2), np.float32),
        np.zeros((g, 2)),
        offset := rng.normal(size=(1, g)),
        np.zeros(n, dtype=int),
        np.full(n, 100.0),
        dispersion,
    ).toarray()
    mean = 100 * np.exp(offset[0]) / np.exp(offset[0]).sum()
    variance = mean + dispersion * mean**2
    assert np.abs(counts.mean(axis=0) - mean).max() < 5 * np.sqrt(variance.max() / n)
    np.testing.assert_allclose(counts.var(axis=0), variance, rtol=0.1)
    zero = np.exp(-mean) if dispersion == 0 else (1 + dispersion * mean) ** (-1 / dispersion)
    np.testing.assert_allclose((counts == 0).mean(axis=0), zero, atol=0.02)


def test_library_sizes_follow_the_depth():
    adata = simulate_rna_data(**TINY | {"depth_mean": 5000.0, "dispersion": 0.05}, seed=0)
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    assert np.corrcoef(np.log(total), np.log(adata.obs["depth"]))[0, 1] > 0.9
    assert abs(np.median(adata.obs["depth"]) / 5000 - 1) < 0.15
    assert abs(np.median(total) / 5000 - 1) < 0.15


def test_planted_types_are_recoverable_by_pca():
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    adata = simulate_rna_data(**TINY, seed=0)
    x = adata.X.toarray()
    x = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4)
    assert silhouette_score(PCA(2, random_state=0).fit_transform(x), adata.obs["cell_type"]) > 0.5


def test_batches_shift_genes_and_can_be_switched_off():
    kept = {"batch_shift": 0.0, "dispersion": 0.0}
    still = simulate_rna_data(**TINY | kept, seed=0)
    assert (still.varm["true_batch_shift"] == 0).all()
    moved = simulate_rna_data(**TINY | kept | {"batch_shift": 1.0, "n_cells": 1500}, seed=0)
    batch = (moved.obs["batch"] == "batch1").to_numpy()
    x = moved.X.toarray()
    seen = np.log((x[batch].mean(axis=0) + 1e-3) / (x[~batch].mean(axis=0) + 1e-3))
    planted = moved.varm["true_batch_shift"][:, 0] - moved.varm["true_batch_shift"][:, 1]
    assert np.corrcoef(seen, planted)[0, 1] > 0.95


def test_memory_stays_far_below_dense():
    import tracemalloc

    sizes = {"n_cells": 8000, "n_genes": 1000, "n_programs": 10, "depth_mean": 50.0, "noise_genes": 0}
    tracemalloc.start()
    adata = simulate_rna_data(**sizes, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes
    workers = min(simulation.current_threads(), 8)
    assert peak < 3 * held + 64 * simulation._BLOCK * workers


@pytest.mark.parametrize(
    "change",
    [
        {"n_cells": 0},
        {"n_cells": 2},
        {"overlap": 1.5},
        {"stimulated": -0.1},
        {"depth_mean": 0},
        {"dispersion": float("nan")},
        {"rare_type_share": 1.0},
        {"active_per_type": 13},
        {"noise_genes": 100},
        {"genes_per_program": 500},
    ],
)
def test_numbers_that_cannot_hold_together_are_usage_errors(change):
    with pytest.raises(UsageError):
        simulate_rna_data(**TINY | change)
