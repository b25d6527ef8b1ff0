"""Weights of the loss by trial: what each leads to in short runs on a sample, and the elbow of that curve.

The weight gamma of SAILERX's alignment (thesis 3.2.2) and the weight lambda of the invariance term, which the thesis
chooses from a table of the kind that is traced here (Table 2.1). The elbow is the smallest weight that reaches nine
tenths of the whole fall; the thesis takes the point from which the curve falls no more. Where both are to be found,
lambda is first, at the default gamma, and gamma is then found at that lambda.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.io.bundle import write_table
from scmap_cli.metrics.invariance import mutual_information
from scmap_cli.models.invariant import InvariantConfig, InvariantVae
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.plots.canvas import safely
from scmap_cli.plots.draw import elbow_curve
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.stages.model_dir import Training, TrainingData
from scmap_cli.stages.peak_training import PeakJob
from scmap_cli.stages.trials import Trials
from scmap_cli.training.checkpoint import Checkpoint
from scmap_cli.training.infer import embed_cells

ALIGNMENTS = (0.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5)
"""Weights of the alignment that are tried."""

INVARIANCES = (0.0, 0.01, 0.1, 1.0, 2.0, 10.0, 50.0)
"""Weights of the invariance term that are tried: those of the thesis's Table 2.1."""

LAMBDA = 1.0
"""Weight of the invariance term where none of them has an effect: the thesis's."""

ELBOW = 0.9
"""Share of the whole fall that the chosen weight must reach."""

EPOCHS = 10
"""Epochs of a trial."""

CELLS = 3000
"""Most cells of a trial."""


@dataclass(frozen=True)
class Trace:
    """Weights tried, what each led to, and the weight at the elbow.

    Attributes
    ----------
    name
        Of the weight and of its files.
    measure
        What ``values`` are.
    weights, values
        Weights in rising order, and the outcome of each trial.
    chosen
        The weight taken.
    """

    name: str
    measure: str
    weights: tuple[float, ...]
    values: tuple[float, ...]
    chosen: float

    def write(self, folder: Path) -> None:
        """Write ``NAME.tsv`` and ``NAME.png`` into the folder of a model."""
        rows = list(zip(self.weights, self.values, strict=True))
        write_table(folder / f"{self.name}.tsv", (f"{self.name}_weight", self.measure), rows)
        drawn = (self.weights, self.values, self.chosen, f"{self.name} weight", self.measure.replace("_", " "))
        safely("the elbow", elbow_curve, *drawn, folder / f"{self.name}.png")


def elbow(weights: Sequence[float], values: Sequence[float]) -> float | None:
    """The smallest weight above the first that brings nine tenths of what the best one does.

    "After certain point, further increase of this scaling factor will no longer reduce the final L_local" (thesis,
    section 3.2.2): that point, allowing for the noise of short trials.

    Parameters
    ----------
    weights
        In rising order; the first stands for hardly any effect.
    values
        What each led to; small is good.

    Returns
    -------
    float or None
        None where no weight leads to less than the first.
    """
    outcome = np.asarray(values, dtype=np.float64)
    fall = outcome[0] - outcome.min()
    if not fall > 0:
        return None
    return float(weights[int(np.argmax(outcome <= outcome[0] - ELBOW * fall))])


def find_weights(
    kind: type[InvariantVae],
    config: InvariantConfig,
    job: PeakJob,
    training: Training,
    identity: dict[str, Any],
    stop: StopFlag,
) -> None:
    """Put the weights that are ``auto`` into the sizes of the network, and let their curves be written beside it.

    Parameters
    ----------
    kind, config, job, training
        Those of the run.
    identity
        What must be the same for trials of an earlier start to count.
    stop
        Whether a signal asks the run to end.

    Raises
    ------
    StoppedError
        A signal came; the trials that are done are saved.
    """
    aligned = config if isinstance(config, SailerXConfig) and config.alignment_weight == "auto" else None
    if aligned is None and config.invariance != "auto":
        return
    tried = {"alignment": ALIGNMENTS, "invariance": INVARIANCES, "epochs": EPOCHS, "cells": CELLS}
    trials = Trials(training, identity | {"trials": tried}, stop)
    traces = {}
    if config.invariance == "auto":
        traces["lam"] = trace_invariance(kind, config, job, trials)
    if aligned is not None:
        sizes = {name: trace.chosen for name, trace in traces.items()}
        traces["gamma"] = trace_alignment(aligned, replace(job, sizes=job.sizes | sizes), trials)
    found = {name: trace.chosen for name, trace in traces.items()}
    job.sizes |= found
    job.told["weights_found"] = found
    job.more += [trace.write for trace in traces.values()]


def trace_alignment(config: SailerXConfig, job: PeakJob, trials: Trials) -> Trace:
    """Train a fresh network for a few epochs with each alignment weight, on a sample of the training cells.

    Where no weight has an effect the default is chosen, never 0, which would be no alignment at all.

    Parameters
    ----------
    config, job
        Those of the run.
    trials
        Trains, saves, and knows what was tried before.
    """
    part = _sample(job.data, trials.training.seed)

    def trial(weight: float, checkpoint: Checkpoint) -> float:
        _, last = _trained(SailerX, config, job, {"gamma": weight}, part, trials, checkpoint)
        log.info("alignment weight %g: final alignment %.5g", weight, last["alignment"])
        return float(last["alignment"])

    values = trials.outcomes("alignment", ALIGNMENTS, trial)
    return _traced("alignment", "final_alignment", ALIGNMENTS, values, SailerXConfig().gamma())


def trace_invariance(kind: type[InvariantVae], config: InvariantConfig, job: PeakJob, trials: Trials) -> Trace:
    """The same with each weight of the invariance term, whose outcome is what the embedding tells of confounders.

    That is the mean over the dimensions of their mutual information with log depth, plus, where there are several
    batches, that with the batch (nats).

    Parameters
    ----------
    kind
        The model.
    config, job, trials
        As :func:`trace_alignment`.
    """
    seed = trials.training.seed
    part = _sample(job.data, seed)
    assert part.covariates is not None
    covariates = part.covariates

    def trial(weight: float, checkpoint: Checkpoint) -> float:
        network, _ = _trained(kind, config, job, {"lam": weight}, part, trials, checkpoint)
        mean_nz, _ = embed_cells(network, part.cells_store(network).to(trials.training.device))
        told = float(mutual_information(mean_nz, covariates[:, 0], seed=seed)["mean"])
        if len(part.conditions) > 1:
            told += float(mutual_information(mean_nz, part.codes, discrete=True, seed=seed)["mean"])
        log.info("invariance weight %g: mutual information with confounders %.4f", weight, told)
        return told

    values = trials.outcomes("invariance", INVARIANCES, trial)
    return _traced("invariance", "mutual_information", INVARIANCES, values, LAMBDA)


def _trained(
    kind: type[InvariantVae],
    config: InvariantConfig,
    job: PeakJob,
    weight: dict[str, float],
    part: TrainingData,
    trials: Trials,
    checkpoint: Checkpoint,
) -> tuple[InvariantVae, dict[str, float]]:
    """A fresh network after its trial, and the last row of its history."""
    training = trials.training
    sizes = job.sizes | weight
    network = kind.create(config, job.share_p, seed=mixed_seed(training.seed, "init"), **sizes).to(training.device)
    short = replace(training.settings, epochs=EPOCHS, patience=0, lr_patience=0, validation_share=0.0)
    store = part.cells_store(network).to(training.device)
    return network, trials.train(network, store, np.arange(len(part.cells)), short, checkpoint)


def _traced(name: str, measure: str, weights: tuple[float, ...], values: list[float], usual: float) -> Trace:
    chosen = elbow(weights, values)
    if chosen is None:
        log.warning(
            "no %s weight lowers the %s in the trials: the default, %g, is taken",
            name,
            measure.replace("_", " "),
            usual,
        )
    else:
        log.info("%s weight %g is at the elbow", name, chosen)
    return Trace(name, measure, weights, tuple(values), usual if chosen is None else chosen)


def _sample(data: TrainingData, seed: int) -> TrainingData:
    """Training cells, at most :data:`CELLS`; of those with RNA the same share as of all, and at least two."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(~data.held)
    if len(rows) > CELLS:
        has = np.zeros(len(rows), dtype=bool) if data.reference is None else data.reference[rows].any(1)
        paired = rng.permutation(rows[has])[: max(2, round(CELLS * has.mean()))]
        rows = np.sort(np.concatenate([paired, rng.permutation(rows[~has])[: CELLS - len(paired)]]))
    of_cells = ("counts", "cells", "codes", "held", "covariates", "reference", "weights")
    values = {name: getattr(data, name) for name in of_cells}
    return replace(data, **{name: value[rows] for name, value in values.items() if value is not None})
