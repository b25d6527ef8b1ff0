"""``scmap train sailer``: read peak counts, train the invariant VAE, publish its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from scmap_cli.config import TrainConfig, as_dict, build
from scmap_cli.data.confounders import confounders
from scmap_cli.data.matrices import binarised
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_output, write_json
from scmap_cli.models.sailer import Sailer, SailerConfig
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput, condition_codes, condition_labels, load_rna, plain_records, text_column
from scmap_cli.stages.model_dir import Training, TrainingData, check_target, quiet_followers
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.distributed import ranks_from_environment

DEFAULTS = {
    "epochs": 100,
    "batch_size": 400,
    "adam_eps": 1e-8,
    "weight_decay": 5e-4,
    "patience": 10,
    "lr_patience": 5,
    "sampling": "shuffle",
}
"""Training settings that differ from those of :class:`~scmap_cli.config.TrainConfig`: the weight decay is the
thesis's, the batch size that of its released code."""


def train_sailer(
    input: Path,
    output: Path,
    *,
    batch_key: str | None = None,
    depth_key: str | None = None,
    covariates: Sequence[str] = (),
    layer: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: str = "auto",
    metrics: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train SAILER on cells x peaks and write the model directory.

    Parameters
    ----------
    input
        Counts or 0/1 of peaks or bins, h5ad or another form that ``train expimap`` reads; anything above 0 is open.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    batch_key
        ``obs`` column of the batches; None means one batch.
    depth_key
        ``obs`` column of sequencing depth (fragments a cell); None takes the number of open peaks.
    covariates
        Further ``obs`` columns that the decoder is told, so that the embedding need not carry them.
    layer
        Where the counts are, when not in the usual places.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.sailer.SailerConfig` and :class:`~scmap_cli.config.TrainConfig` that differ
        from the defaults.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train.train`.

    Returns
    -------
    dict
        The contents of ``metrics.json``; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    input, output = Path(input), Path(output)
    settings = build(TrainConfig, DEFAULTS, train_options or {}, where="[train]")
    given = dict(model_options or {})
    if isinstance(given.get("positive_weight"), int | float):
        given["positive_weight"] = str(given["positive_weight"])
    config = build(SailerConfig, given, where="[model]")
    if resume not in ("auto", "never"):
        raise UsageError(f"--resume is {resume!r}", "choose auto or never")
    check_target(output, force, resume)
    if metrics is not None:
        check_output(metrics, force)
    ranks = ranks_from_environment()
    quiet_followers(ranks)
    target = resolve_device(device, ranks.local_rank)
    parameters = {
        "model": "sailer",
        "batch_key": batch_key,
        "depth_key": depth_key,
        "covariates": list(covariates),
        "layer": layer,
        "model_config": as_dict(config),
        "train_config": as_dict(settings),
    }
    with (
        provenance.run(
            "train sailer",
            inputs=[input],
            output=output if ranks.first and not dry_run else None,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        data = load_rna(input, layer)
        job = _prepare(data, batch_key, depth_key, covariates, settings, input, seed)
        n_covariates = 0 if job.covariates is None else job.covariates.shape[1]
        job.names = [f"z{i + 1}" for i in range(config.latent)]
        job.size_before = []
        plan = _plan(job, config, settings, str(target), ranks.world, n_covariates)
        log.info(
            "%d cells (%d for validation) x %d peaks, %.2f %% open, %d conditions, weight of open peaks %.3g, "
            "%d parameters, up to %d epochs on %s",
            plan["cells"], plan["validation_cells"], plan["peaks"], 100 * plan["open_share"], len(job.conditions),
            plan["positive_weight"], plan["parameters"], settings.epochs, target,
        )  # fmt: skip
        if dry_run:
            return plan
        del data
        # In the likelihood's start only the training cells have a say; what features.tsv keeps is of all.
        training_share_p = np.asarray(job.counts[~job.held].mean(0, dtype=np.float64)).ravel()
        network = Sailer.create(config, training_share_p, len(job.conditions), n_covariates, mixed_seed(seed, "init"))
        training = Training(output, config, settings, batch_key, seed, target, ranks, resume, force)
        summary = training.fit(network, job, run, {"covariates": job.described["covariates"]})
        if ranks.first and metrics is not None:
            write_json(metrics, summary, force)
    return summary


def _prepare(
    data: RnaInput,
    batch_key: str | None,
    depth_key: str | None,
    covariates: Sequence[str],
    settings: TrainConfig,
    path: Path,
    seed: int,
) -> TrainingData:
    opened = binarised(data.counts)
    n_cells, n_peaks = opened.shape
    if n_cells < 2 or n_peaks < 2:
        raise InputError(f"{path} has {n_cells} cells and {n_peaks} peaks; training needs at least two of each")
    if opened.nnz == 0:
        raise InputError(f"{path} has no open peak at all")
    open_n = np.diff(opened.indptr)
    depth, name = open_n, "open peaks"
    if depth_key is not None:
        text_column(data.adata.obs, depth_key, path)
        if not pd.api.types.is_numeric_dtype(data.adata.obs[depth_key]):
            raise InputError(f"obs column {depth_key!r} of {path} does not hold numbers", "name one by --depth-key")
        depth, name = data.adata.obs[depth_key].to_numpy(dtype=np.float64, na_value=np.nan), depth_key
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
        held=validation_split(codes, settings.validation_share, seed),
        names=[],
        size_before=[],
        means=np.asarray(opened.mean(0, dtype=np.float64)).ravel(),
        source=data.source,
        covariates=told.matrix,
        described={
            "covariates": told.described,
            "condition_depth": {c: float(np.exp(log_depth[codes == i].mean())) for i, c in enumerate(conditions)},
        },
    )


def _plan(
    job: TrainingData, config: SailerConfig, settings: TrainConfig, device: str, processes: int, n_covariates: int
) -> dict[str, Any]:
    n, p = job.counts.shape
    share = job.counts.nnz / n / p
    training_share = float(np.clip(job.counts[~job.held].nnz / (~job.held).sum() / p, 1e-9, 1 - 1e-9))
    with torch.device("meta"):
        network = Sailer(
            config,
            n_peaks=p,
            n_conditions=len(job.conditions),
            n_covariates=n_covariates,
            omega=config.omega(training_share),
        )
    return {
        "cells": n,
        "peaks": p,
        "open_share": share,
        "positive_weight": config.omega(training_share),
        "conditions": job.conditions,
        "covariates": [told["name"] for told in job.described["covariates"]],
        "validation_cells": int(job.held.sum()),
        "parameters": sum(q.numel() for q in network.parameters()),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "device": device,
        "processes": processes,
        "counts_from": job.source,
    }
