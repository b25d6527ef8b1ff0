"""The weight of SAILERX's alignment by trial: its final value against its weight, and the elbow (thesis 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from scmap_cli.config import TrainConfig
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.runtime.logs import log
from scmap_cli.stages.model_dir import TrainingData
from scmap_cli.stages.peak_training import PeakJob
from scmap_cli.training.loop import Trainer

GRID = (0.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5)
"""Weights that are tried."""

ELBOW = 0.9
"""Share of the whole fall of the alignment that the chosen weight must reach."""

EPOCHS = 10
"""Epochs of a trial."""

CELLS = 3000
"""Most cells of a trial."""


@dataclass(frozen=True)
class Trace:
    """Weights tried, the alignment at the end of each trial, and the weight at the elbow."""

    weights: tuple[float, ...]
    gaps: tuple[float, ...]
    chosen: float


def elbow(weights: Sequence[float], gaps: Sequence[float]) -> float | None:
    """The smallest weight above the first that brings nine tenths of what the best one does.

    "After certain point, further increase of this scaling factor will no longer reduce the final L_local" (thesis,
    section 3.2.2): that point, allowing for the noise of short trials.

    Parameters
    ----------
    weights
        In rising order; the first stands for hardly any alignment.
    gaps
        Final value at each.

    Returns
    -------
    float or None
        None where no weight brings the alignment below its value at the first.
    """
    values = np.asarray(gaps, dtype=np.float64)
    fall = values[0] - values.min()
    if not fall > 0:
        return None
    return float(weights[int(np.argmax(values <= values[0] - ELBOW * fall))])


def trace_alignment(
    config: SailerXConfig, job: PeakJob, settings: TrainConfig, seed: int, device: torch.device
) -> Trace:
    """Train a fresh network for a few epochs with each weight, on a sample of the training cells.

    Where no weight has an effect the default is chosen, never 0, which would be no alignment at all.

    Parameters
    ----------
    config, job, settings, seed
        Those of the run.
    device
        Where it is trained.
    """
    part = _sample(job.data, seed)
    share_p = job.share_p
    trial = replace(settings, epochs=EPOCHS, patience=0, lr_patience=0, validation_share=0.0)
    gaps = []
    for weight in GRID:
        sizes = job.sizes | {"gamma": weight}
        network = SailerX.create(config, share_p, seed=mixed_seed(seed, "init"), **sizes).to(device)
        rows = np.arange(len(part.cells))
        history = Trainer(network, part.cells_store(network).to(device), rows, rows[:0], trial, seed=seed).fit().history
        gaps.append(float(history[-1]["alignment"]))
        log.info("alignment weight %g: final alignment %.5g", weight, gaps[-1])
    chosen = elbow(GRID, gaps)
    if chosen is None:
        chosen = SailerXConfig().gamma()
        log.warning("no alignment weight lowers the alignment in the trials: the default, %g, is taken", chosen)
    else:
        log.info("alignment weight %g is at the elbow", chosen)
    return Trace(GRID, tuple(gaps), chosen)


def _sample(data: TrainingData, seed: int) -> TrainingData:
    """Training cells, at most :data:`CELLS`; of those with RNA the same share as of all, and at least two."""
    assert data.reference is not None
    assert data.weights is not None
    assert data.covariates is not None
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(~data.held)
    if len(rows) > CELLS:
        has = data.reference[rows].any(1)
        paired = rng.permutation(rows[has])[: max(2, round(CELLS * has.mean()))]
        rows = np.sort(np.concatenate([paired, rng.permutation(rows[~has])[: CELLS - len(paired)]]))
    return replace(
        data,
        counts=data.counts[rows],
        cells=data.cells[rows],
        codes=data.codes[rows],
        held=data.held[rows],
        covariates=data.covariates[rows],
        reference=data.reference[rows],
        weights=data.weights[rows],
    )
