"""Simulated scATAC: the sampler against theory, numbers of cells, alleles, and what the profiles look like."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scmap_cli import keys
from scmap_cli.data.bulk import bulk_from_table, generate_bulk
from scmap_cli.data.simulation import TRUTH
from scmap_cli.data.simulation_atac import PRESETS, draw_distinct, simulate_atac_data
from scmap_cli.errors import InputError, UsageError

SMALL = {"n_cells": 200, "mu": (300.0,), "min_depth": 10}


@pytest.fixture(scope="module")
def bulk():
    return generate_bulk(np.random.default_rng(0), 800, 4)


def uneven(n):
    weights = np.arange(1.0, n + 1)
    return weights / weights.sum()


def distinct(rng, weights, size):
    cumulative = np.cumsum(weights)
    return draw_distinct(
        rng,
        len(weights),
        lambda m: np.minimum(np.searchsorted(cumulative, rng.random(m), side="right"), len(weights) - 1),
        lambda: weights,
        size,
    )


@pytest.mark.parametrize("rounds", [0, 1, 6])
def test_draws_without_replacement_follow_the_weights(monkeypatch, rounds):
    """The chance of an ordered pair is p_i p_j / (1 - p_i): by rejection, by exponential keys, and by both in turn."""
    monkeypatch.setattr("scmap_cli.data.simulation_atac._ROUNDS", rounds)
    rng = np.random.default_rng(1)
    p = uneven(5)
    pair = p[:, None] * p / (1 - p)[:, None]
    np.fill_diagonal(pair, 0)
    inside = pair.sum(1) + pair.sum(0)
    draws = 20_000
    seen = np.zeros(5)
    for _ in range(draws):
        found = distinct(rng, p, 2)
        assert len(set(found.tolist())) == 2
        seen[found] += 1
    error = 4 * np.sqrt(inside * (1 - inside) / draws)
    assert (np.abs(seen / draws - inside) < error).all()


def test_draws_of_all_or_very_uneven_numbers_end():
    rng = np.random.default_rng(0)
    assert sorted(distinct(rng, uneven(7), 7)) == sorted(distinct(rng, uneven(7), 20)) == list(range(7))
    steep = np.concatenate([np.full(50, 1e-9), [1.0]])
    found = distinct(rng, steep / steep.sum(), 40)
    assert len(set(found.tolist())) == 40
    assert 50 in found


def test_counts_are_of_two_alleles_and_add_up_to_the_depth(bulk):
    adata = simulate_atac_data(bulk, **SMALL, n_batches=2, rho=(0.4, 0.7), sigma=(0.3,), seed=3)
    assert set(np.unique(adata.X.data)) == {1.0, 2.0}
    assert adata.X.dtype == np.float32
    assert adata.X.has_sorted_indices
    wanted = np.floor(adata.obs["depth"] * adata.obs["rho"].astype(float).round(6) + 0.5)
    np.testing.assert_array_equal(np.asarray(adata.X.sum(1)).ravel(), wanted)


def test_depth_is_log_normal_within_its_bounds(bulk):
    options = {"n_cells": 6000, "rho": (0.01,), "bulk_noise": 0.0}
    depth = simulate_atac_data(bulk, mu=(3000.0,), sigma=(0.4,), min_depth=1, max_depth=10**6, **options).obs["depth"]
    logs = np.log(depth)
    assert logs.mean() == pytest.approx(np.log(3000), abs=4 * 0.4 / np.sqrt(6000))
    assert logs.std() == pytest.approx(0.4, rel=0.04)
    held = simulate_atac_data(bulk, mu=(3000.0,), sigma=(1.5,), min_depth=1000, max_depth=20_000, **options)
    assert (held.obs["depth"].min(), held.obs["depth"].max()) == (1000, 20_000)


def test_counts_follow_the_profile_of_the_type(bulk):
    """With one fragment an allele a peak's mean count is twice its weight; without noise closed peaks stay empty."""
    options = {"n_cells": 8000, "mu": (4.0,), "sigma": (0.0,), "rho": (0.5,), "min_depth": 1, "seed": 1}
    adata = simulate_atac_data(bulk, bulk_noise=0.0, **options)
    noisy = simulate_atac_data(bulk, bulk_noise=0.3, **options)
    for t, name in enumerate(bulk.types):
        mean = np.asarray(adata[adata.obs["cell_type"] == name].X.mean(0)).ravel() / 2
        assert mean[~bulk.open_pt[:, t]].max() == 0
        weight = bulk.signal_pt[:, t]
        assert (np.abs(mean - weight) <= 5 * np.sqrt(weight / 4000) + 1e-9).all()
        closed = noisy[noisy.obs["cell_type"] == name].X[:, ~bulk.open_pt[:, t]].sum()
        share = closed / noisy[noisy.obs["cell_type"] == name].X.sum()
        assert share == pytest.approx(0.3 * (~bulk.open_pt[:, t]).mean(), rel=0.1)


def test_the_truth_is_kept(bulk):
    adata = simulate_atac_data(bulk, **SMALL, seed=5)
    assert list(adata.varm[keys.BULK].columns) == list(bulk.types)
    np.testing.assert_allclose(adata.varm[keys.BULK].sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(adata.varm[keys.BULK_OPEN].to_numpy(), bulk.open_pt)
    assert json.loads(adata.uns[TRUTH])["parameters"]["seed"] == 5
    assert (adata.var_names == bulk.names).all()
    np.testing.assert_array_equal(adata.var["end"] - adata.var["start"], 500)


@pytest.mark.parametrize("where", ["all", "one"])
def test_rare_types_and_batches(bulk, where):
    adata = simulate_atac_data(bulk, **SMALL, n_batches=2, rare_types=2, rare_cells=11, rare_in=where)
    table = adata.obs.groupby(["cell_type", "batch"], observed=False).size().unstack()
    assert table.loc[["type3", "type4"]].sum(axis=1).tolist() == [11, 11]
    assert table.sum().tolist() == [100, 100]
    rare = table.loc[["type3", "type4"]].to_numpy()
    assert (rare == [[11, 0], [0, 11]]).all() if where == "one" else set(rare.ravel()) == {5, 6}
    major = table.loc[["type1", "type2"]].to_numpy()
    assert major.max() - major.min() <= 1


def test_seeds_and_threads(bulk, monkeypatch):
    one, same = (simulate_atac_data(bulk, **SMALL | {"n_cells": 700}, seed=4) for _ in range(2))
    monkeypatch.setattr("scmap_cli.data.simulation_atac.current_threads", lambda: 1)
    alone = simulate_atac_data(bulk, **SMALL | {"n_cells": 700}, seed=4)
    other = simulate_atac_data(bulk, **SMALL | {"n_cells": 700}, seed=5)
    for twin in (same, alone):
        np.testing.assert_array_equal(one.X.indices, twin.X.indices)
        np.testing.assert_array_equal(one.X.data, twin.X.data)
        assert one.obs.equals(twin.obs)
    assert not one.obs.equals(other.obs)


def test_generated_profiles_overlap_as_told():
    bulk = generate_bulk(np.random.default_rng(0), 40_000, 6)
    opened = bulk.open_pt
    np.testing.assert_allclose(opened.mean(0), 0.4, atol=0.015)
    shared = np.array([[(a & b).sum() / (a | b).sum() for a in opened.T] for b in opened.T])
    np.testing.assert_allclose([shared[0, 1], shared[2, 3], shared[4, 5]], 0.71, atol=0.02)
    np.testing.assert_allclose([shared[0, 2], shared[1, 4], shared[3, 5]], 0.53, atol=0.02)
    assert np.log(bulk.signal_pt[opened[:, 0], 0]).std() == pytest.approx(0.95, abs=0.05)
    np.testing.assert_allclose(bulk.signal_pt.sum(0), 1)
    assert (bulk.signal_pt[~opened] == 0).all()
    assert bulk.peaks.overlapping() == 0


def test_tables_are_normalised_by_column():
    signal = np.array([[10.0, 0.1, 1], [30, 0, 1], [0, 0.3, 1]])
    names = np.array(["chr1:0-100", "chr1:200-300", "chr2:5-9"])
    bulk = bulk_from_table(signal, names, ["a", "b", "c"], ["b", "a"])
    np.testing.assert_allclose(bulk.signal_pt, [[0.25, 0.25], [0, 0.75], [0.75, 0]])
    assert bulk_from_table(signal, names, ["a", "b", "c"], ["a"], 10).open_pt.ravel().tolist() == [False, True, False]
    assert bulk.peaks.end.tolist() == [100, 300, 9]
    for bad, match in (
        ((signal, names, ["a", "b", "c"], ["d"]), "no column 'd'"),
        ((-signal, names, ["a", "b", "c"], ["a"]), "negative"),
        ((signal, names[[0, 0, 1]], ["a", "b", "c"], ["a"]), "more than once"),
        ((signal, names, ["a", "b", "c"], ["a"], 99.0), "no peak of column 'a'"),
        ((signal, np.array(["p1", "p2", "p3"]), ["a", "b", "c"], ["a"]), "no positions"),
    ):
        with pytest.raises(InputError, match=match):
            bulk_from_table(*bad)


@pytest.mark.parametrize(
    "options",
    [
        {"n_cells": 0},
        {"mu": (1.0, 2.0)},
        {"mu": (0.0,)},
        {"sigma": (-1.0,)},
        {"rho": (1.5,)},
        {"rho": (float("nan"),)},
        {"bulk_noise": 2.0},
        {"min_depth": 10, "max_depth": 9},
        {"rare_in": "some"},
        {"rare_types": 4},
        {"rare_types": 2, "rare_cells": 150},
        {"rare_types": 1, "rare_cells": 120, "rare_in": "one", "n_batches": 2},
    ],
)
def test_numbers_that_cannot_hold_together(bulk, options):
    with pytest.raises(UsageError):
        simulate_atac_data(bulk, **SMALL | options)


def test_presets_are_those_of_the_thesis():
    one, two, three = (PRESETS[f"sim{i}"] for i in (1, 2, 3))
    assert (one["n_cells"], one["n_types"], one["rare_types"], one["rare_cells"]) == (10_000, 5, 1, 100)
    assert (one["mu"], one["sigma"], one["rho"]) == ((5000.0,), (1.5,), (0.4,))
    assert (two["n_types"], two["mu"], two["sigma"], two["rho"]) == (9, (3000.0,), (1.5,), (0.4,))
    assert (three["n_types"], three["n_batches"], three["rare_types"], three["rare_in"]) == (6, 2, 2, "one")
    assert (three["mu"], three["rho"]) == ((2500.0, 5000.0), (0.4, 0.5))
