"""What ``train sailer`` and ``train sailerx`` share: peaks of a file made ready, and the run to the directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from scmap_cli.config import TrainConfig
from scmap_cli.data.confounders import confounders
from scmap_cli.data.matrices import binarised, column_means
from scmap_cli.data.peaks import peak_positions
from scmap_cli.errors import InputError
from scmap_cli.models.invariant import InvariantConfig, InvariantVae
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.stages.inputs import RnaInput, condition_codes, condition_labels, load_rna, text_column
from scmap_cli.stages.model_dir import Training, TrainingData
from scmap_cli.stages.training_run import training_run
from scmap_cli.training.distributed import process_group


@dataclass
class PeakJob:
    """What is trained on, and what the network is made with.

    Attributes
    ----------
    data
        Cells x peaks.
    sizes
        Keywords of the network beside ``n_peaks``, ``omega`` and, unless it was found by trial, ``lam``.
    told
        What the model's ``config.json`` and the plan of a dry run say beside what both models do.
    more
        Write further files into the model's folder.
    """

    data: TrainingData
    sizes: dict[str, Any]
    told: dict[str, Any] = field(default_factory=dict)
    more: list[Callable[[Path], None]] = field(default_factory=list)

    @property
    def share_p(self) -> np.ndarray:
        """Share of the training cells in which each peak is open: in the start only they have a say."""
        return column_means(self.data.counts, ~self.data.held)


@dataclass(frozen=True)
class PeakOptions:
    """Options of a run that both models know; see :func:`scmap_cli.stages.train_sailer.train_sailer`."""

    input: Path
    output: Path
    batch_key: str | None
    layer: str | None
    settings: TrainConfig
    seed: int
    device: str
    resume: str
    metrics: Path | None
    force: bool
    dry_run: bool


def _look_at_names(data: RnaInput, path: Path) -> None:
    """Warn of features that are not named like peaks: a file of genes would train as well, and mean something else."""
    try:
        peak_positions(data.adata.var)
    except InputError as error:
        log.warning("is %s a file of peaks? %s", path, error)


def train_on_peaks(
    kind: type[InvariantVae],
    config: InvariantConfig,
    options: PeakOptions,
    parameters: Mapping[str, Any],
    prepare: Callable[[RnaInput], PeakJob],
    search: Callable[[PeakJob, Training, dict[str, Any], StopFlag], None],
) -> dict[str, Any]:
    """Train a model of peaks and write its directory.

    Parameters
    ----------
    kind, config
        The model.
    options, parameters
        The run; ``parameters`` are what its record keeps beside the options.
    prepare
        Makes the job of what was read.
    search
        Changes the job before the network is made, by weights that are found by trial; it is told what a trial of an
        earlier start must share, and whether a signal came.

    Returns
    -------
    dict
        The contents of ``metrics.json``; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    settings = options.settings
    with training_run(
        kind.name, options.output, config, settings, inputs=[options.input],
        parameters={"batch_key": options.batch_key, **parameters, "layer": options.layer},
        batch_key=options.batch_key, seed=options.seed, device=options.device, resume=options.resume,
        metrics=options.metrics, force=options.force, dry_run=options.dry_run,
    ) as (training, run):  # fmt: skip
        data = load_rna(options.input, options.layer)
        _look_at_names(data, options.input)
        job = prepare(data)
        del data
        job.data.names = [f"z{i + 1}" for i in range(config.latent)]
        plan = _plan(kind, job, training)
        log.info(
            "%d cells (%d for validation) x %d peaks, %.2f %% open, %d conditions, weight of open peaks %.3g, "
            "%d parameters, up to %d epochs on %s",
            plan["cells"], plan["validation_cells"], plan["peaks"], 100 * plan["open_share"],
            len(job.data.conditions), plan["positive_weight"], plan["parameters"], settings.epochs, training.device,
        )  # fmt: skip
        if options.dry_run:
            return plan
        # Signals and processes are those of the trials and the training as one.
        with StopFlag() as stop, process_group(training.ranks, training.device):
            told = {"covariates": job.data.described["covariates"]}
            search(job, training, told | job.told | training.identity(job.data, run), stop)
            seed = mixed_seed(options.seed, "init")
            network = kind.create(config, job.share_p, seed=seed, **job.sizes)

            def write_more(folder: Path) -> None:
                for write in job.more:
                    write(folder)

            return training.fit(network, job.data, run, told | job.told, write_more, stop)


def prepare_peaks(
    data: RnaInput,
    path: Path,
    batch_key: str | None,
    depth_key: str | None,
    covariates: Sequence[str],
    held: Callable[[np.ndarray], np.ndarray],
) -> TrainingData:
    """Open peaks and confounders of the cells of a file.

    Parameters
    ----------
    data, path
        What was read, and where.
    batch_key, depth_key, covariates
        Columns of ``obs``.
    held
        Gives the validation cells from the condition codes.

    Raises
    ------
    InputError
        Too few cells or peaks, no open peak, or a column that is absent or unfit.
    """
    opened = binarised(data.counts)
    n_cells, n_peaks = opened.shape
    if n_cells < 2 or n_peaks < 2:
        raise InputError(f"{path} has {n_cells} cells and {n_peaks} peaks; training needs at least two of each")
    if opened.nnz == 0:
        raise InputError(f"{path} has no open peak at all")
    open_n = np.diff(opened.indptr)
    depth, name = open_n, "open peaks"
    if depth_key is not None:
        depth, name = number_column(data.adata.obs, depth_key, path, "--depth-key"), depth_key
    told = confounders(data.adata.obs, depth, name, covariates)
    labels = condition_labels(data.adata.obs, batch_key, path)
    codes, conditions = condition_codes(labels, None, path)
    log_depth = np.log(np.asarray(depth, dtype=np.float64))
    return TrainingData(
        counts=opened,
        genes=data.genes,
        cells=data.cells,
        codes=codes,
        conditions=conditions,
        held=held(codes),
        names=[],
        means=column_means(opened),
        source=data.source,
        covariates=told.matrix,
        described={
            "covariates": told.described,
            "condition_depth": {c: float(np.exp(log_depth[codes == i].mean())) for i, c in enumerate(conditions)},
        },
    )


def number_column(obs: pd.DataFrame, key: str, path: Path, flag: str) -> np.ndarray:
    """A column of numbers, float64 with NaN in its gaps.

    Raises
    ------
    InputError
        There is no such column, or it does not hold numbers.
    """
    text_column(obs, key, path)
    if not pd.api.types.is_numeric_dtype(obs[key]):
        raise InputError(f"obs column {key!r} of {path} does not hold numbers", f"name one by {flag}")
    return np.asarray(obs[key].to_numpy(dtype=np.float64, na_value=np.nan))


def _plan(kind: type[InvariantVae], job: PeakJob, training: Training) -> dict[str, Any]:
    config, settings = training.config, training.settings
    data = job.data
    n, p = data.counts.shape
    omega = config.omega(float(np.clip(job.share_p.mean(), 1e-9, 1 - 1e-9)))
    with torch.device("meta"):
        network = kind(config, n_peaks=p, omega=omega, lam=0.0, **job.sizes)
    return {
        "cells": n,
        "peaks": p,
        "open_share": data.counts.nnz / n / p,
        "positive_weight": omega,
        "conditions": data.conditions,
        "covariates": [told["name"] for told in data.described["covariates"]],
        "validation_cells": int(data.held.sum()),
        "parameters": sum(q.numel() for q in network.parameters()),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "device": str(training.device),
        "processes": training.ranks.world,
        "counts_from": data.source,
        **job.told,
    }
