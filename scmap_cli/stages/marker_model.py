"""MarkerMap as one selector among others: the model that ``train markermap`` trains, on the cells of a selection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.config import TrainConfig, build
from scmap_cli.data.batches import CsrStore
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.errors import UsageError
from scmap_cli.io.bundle import MARKERS, check_file, load_bundle, read_table
from scmap_cli.markers.base import MarkerData, Selection, best_for_classes
from scmap_cli.markers.seeded import seeded_torch
from scmap_cli.models.markermap import MarkerMap, MarkerMapConfig
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.stages.panel import Panel
from scmap_cli.training.device import resolve_device
from scmap_cli.training.loop import Trainer

# Cells a step: at most, so few that an epoch has so many steps, and at least.
_MOST, _STEPS, _FEWEST = 256, 8, 32

DEFAULTS = {
    "epochs": 60,
    "batch_size": _MOST,
    "lr": 5e-3,
    "adam_eps": 1e-8,
    "patience": 8,
    "lr_patience": 2,
    "lr_factor": 0.3,
    "sampling": "shuffle",
}
"""Training settings that differ from those of :class:`~scmap_cli.config.TrainConfig`."""

PUBLISHED: dict[str, Any] = {
    "tradeoff": 0.5,
    "direct_share": 0.0,
    "rebuild_by": "gaussian",
    "loss_scale": "sum",
    "gene_share": 1.0,
    "width": 256,
    "temperature": 3.0,
    "final_temperature": 0.1,
    "anneal_epochs": 66.0,
}
"""The paper's loss and trade-off, its width for Zeisel and Paul, its temperatures: 3 at first, times 0.95 an epoch."""

PUBLISHED_TRAINING: dict[str, Any] = {"epochs": 100, "batch_size": 64, "lr_patience": 0}
"""How the paper trained; what of it depends on the mode is in :func:`published_training`."""


def usual_batch(cells: int) -> int:
    """Cells a step where no number is asked for: those of :data:`DEFAULTS`, but fewer where an epoch had few steps."""
    return min(_MOST, max(_FEWEST, cells // _STEPS))


def published_training(mode: str) -> dict[str, Any]:
    """Training settings of the paper and its code; the learning rate is the largest that its finder may choose."""
    supervised = mode == "supervised"
    of_mode = {"lr": 1e-3 if supervised else 1e-4, "patience": 4 if mode == "unsupervised" else 3}
    return PUBLISHED_TRAINING | of_mode


def make_network(
    data: MarkerData,
    held: np.ndarray,
    config: MarkerMapConfig,
    seed: int,
    *,
    prior_g: np.ndarray | None = None,
    cost_g: np.ndarray | None = None,
    forced_in: np.ndarray | None = None,
    forced_out: np.ndarray | None = None,
) -> MarkerMap:
    """A fresh model for some cells; genes whose log1p is the same in all training cells are left out where k vary."""
    training = data.log1p[~held]
    scaling = fit_scaling(training)
    out = np.zeros(0, dtype=np.int64) if forced_out is None else forced_out
    inside = np.zeros(0, dtype=np.int64) if forced_in is None else forced_in
    least_g, most_g = (np.asarray(end.todense()).ravel() for end in (training.min(axis=0), training.max(axis=0)))
    idle = np.setdiff1d(np.flatnonzero(least_g == most_g), inside)
    if len(np.union1d(idle, out)) <= data.n_genes - config.k:
        out = np.union1d(idle, out)
    return MarkerMap.create(
        config,
        scaling,
        0 if config.mode == "unsupervised" else len(data.classes),
        mixed_seed(seed, "init"),
        prior_g=prior_g,
        cost_g=cost_g,
        forced_in=inside,
        forced_out=out,
    )


def selection(network: MarkerMap, data: MarkerData) -> Selection:
    """The markers of a trained model; the score is the running logit, infinite for genes that were forced in."""
    genes = network.markers().cpu().numpy()
    scores = network.choice.running_g.cpu().numpy()[genes].astype(np.float64)
    scores[network.choice.fixed_g.cpu().numpy()[genes] > 0] = np.inf
    if data.codes is None or network.config.mode == "unsupervised":
        return Selection(genes, scores)
    speaks = best_for_classes(data.take_genes(genes), np.zeros(len(genes)), len(genes)).classes
    return Selection(genes, scores, speaks)


MODES = {"markermap": "supervised", "markermap-unsupervised": "unsupervised", "markermap-joint": "joint"}
"""Mode of the model by the name of the selector."""


def read_selection(folder: Path, panel: Panel) -> Selection:
    """The markers of a model directory among the genes of a panel.

    Raises
    ------
    UsageError
        It holds another model.
    InputError
        It is no model directory, or is damaged; or the panel lacks a gene.
    """
    bundle = load_bundle(folder)
    if bundle.config["model"] != "markermap":
        raise UsageError(f"{folder} holds a model of type {bundle.config['model']}", "give one of train markermap")
    check_file(bundle.config, folder / MARKERS)
    rows = read_table(folder / MARKERS)
    genes = panel.columns([row["gene"] for row in rows], str(folder))
    classes = tuple(row["class"] for row in rows)
    scores = np.array([float(row["score"]) for row in rows])
    return Selection(genes, scores, classes if any(classes) else None)


def _select(
    mode: str,
    data: MarkerData,
    k: int,
    *,
    seed: int,
    as_published: bool,
    device: str = "cpu",
    forced_in: np.ndarray | None = None,
    forced_out: np.ndarray | None = None,
) -> Selection:
    """Train until the genes are fixed, which is all that is asked for here.

    Validation cells would only say when the networks, which by then see the chosen genes alone, are trained enough. So
    all cells take part in the choice, as with the other selectors: it is that of ``train markermap
    --validation-share 0``. One thread, as in :mod:`scmap_cli.markers.seeded`.
    """
    options: Mapping[str, Any] = {"k": k, "mode": mode} | (PUBLISHED if as_published else {})
    training = DEFAULTS | {"batch_size": usual_batch(len(data.strata)), "checkpoint_minutes": 1e9}
    training |= published_training(mode) if as_published else {}
    config = build(MarkerMapConfig, options, where="[model]")
    settings = build(TrainConfig, training, where="[train]")
    where = resolve_device(device)
    with seeded_torch(seed):
        none = np.zeros(len(data.held), dtype=bool)
        network = make_network(data, none, config, seed, forced_in=forced_in, forced_out=forced_out).to(where)
        rows = np.arange(len(data.strata)), np.zeros(0, dtype=np.int64)
        store = CsrStore(data.counts, data.strata, size_n=data.sizes).to(where)
        trainer = Trainer(network, store, *rows, settings, seed=seed)
        trainer.config = replace(trainer.config, epochs=math.ceil(network.anneal_epochs))
        trainer.fit()
        return selection(network, data)


def select_for_labels(data: MarkerData, k: int, **how: Any) -> Selection:
    """Choose k genes that predict the class."""
    return _select("supervised", data, k, **how)


def select_for_genes(data: MarkerData, k: int, **how: Any) -> Selection:
    """Choose k genes that all genes can be rebuilt from."""
    return _select("unsupervised", data, k, **how)


def select_for_both(data: MarkerData, k: int, **how: Any) -> Selection:
    """Choose k genes for both."""
    return _select("joint", data, k, **how)
