"""``scmap train sailerx``: read a multiome file, train the aligned VAE, publish its directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmap_cli.config import TrainConfig, build
from scmap_cli.data.alignment import depth_weights
from scmap_cli.data.matrices import cell_totals
from scmap_cli.data.peaks import peak_positions
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError
from scmap_cli.keys import ATAC_DEPTH, REFERENCE, RNA_DEPTH
from scmap_cli.models.sailerx import SailerX, SailerXConfig
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput
from scmap_cli.stages.multiome import keep_reference, reference_id, reference_rows
from scmap_cli.stages.peak_training import (
    PeakJob,
    PeakOptions,
    number_column,
    prepare_peaks,
    train_on_peaks,
)
from scmap_cli.stages.weight_search import find_weights

DEFAULTS = {
    "epochs": 100,
    "batch_size": 400,
    "lr": 2e-3,
    "adam_eps": 1e-8,
    "weight_decay": 5e-4,
    "patience": 10,
    "lr_patience": 5,
    "sampling": "shuffle",
}
"""Training settings that differ from those of :class:`~scmap_cli.config.TrainConfig`."""


def train_sailerx(
    input: Path,
    output: Path,
    *,
    reference_key: str = REFERENCE,
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
    """Train SAILERX on cells x peaks, some or all of which have an embedding of their RNA.

    Parameters
    ----------
    input
        h5ad of ``scmap preprocess multiome``, or another of counts or 0/1 of peaks with an embedding in ``obsm``.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    reference_key
        ``obsm`` key of the reference embedding. Cells without RNA are those of ``obs["has_rna"]``, else those whose row
        is all NaN.
    batch_key, depth_key, covariates, layer
        As :func:`scmap_cli.stages.train_sailer.train_sailer`.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.sailerx.SailerXConfig` and :class:`~scmap_cli.config.TrainConfig` that
        differ from the defaults.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.

    Returns
    -------
    dict
        The contents of ``metrics.json``; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    settings = build(TrainConfig, DEFAULTS, train_options or {}, where="[train]")
    config = build(SailerXConfig, model_options or {}, where="[model]")
    input = Path(input)

    def prepare(data: RnaInput) -> PeakJob:
        reference, has_n = reference_rows(data.adata, reference_key, input)
        data, peaks_c = by_chromosome(data, input)
        job = prepare_peaks(
            data, input, batch_key, depth_key, covariates,
            lambda codes: validation_split(2 * codes + has_n, settings.validation_share, seed),
        )  # fmt: skip
        if int((has_n & ~job.held).sum()) < 2:
            raise InputError(
                f"{int(has_n.sum())} cells of {input} have RNA; the alignment is between at least two",
                "train ATAC-only cells by `scmap train sailer`",
            )
        job.reference = reference
        job.weights = depth_weights(*_depths(data, has_n, config, input), has_n, config.depth_weights)
        some_without = not has_n.all()
        told = {
            "chromosomes": len(peaks_c),
            "cells_with_rna": int(has_n.sum()),
            "reference": {
                "key": reference_key,
                "id": reference_id(data.adata),
                "dimensions": int(reference.shape[1]),
            },
        }
        job.described |= told
        sizes = {
            "chromosome_peaks": peaks_c,
            "n_conditions": len(job.conditions),
            "n_covariates": job.n_covariates,
            "n_reference": reference.shape[1],
            "agreement": config.agreement(some_without),
            "shortcut": not config.agreement(some_without),
            "lending": config.lending(some_without),
            "unit": config.unit(some_without),
            "gamma": (SailerXConfig() if config.alignment_weight == "auto" else config).gamma(),
        }
        log.info("%d cells with RNA, %d without; %d chromosomes", has_n.sum(), (~has_n).sum(), len(peaks_c))
        # Whatever else was read is let go of before the training.
        cells = data.cells
        return PeakJob(job, sizes, told, [lambda folder: keep_reference(folder, cells, reference, has_n)])

    options = PeakOptions(
        input, Path(output), batch_key, layer, settings, seed, device, resume, metrics, force, dry_run
    )
    parameters = {"reference_key": reference_key, "depth_key": depth_key, "covariates": list(covariates)}
    search = partial(find_weights, SailerX, config)
    return train_on_peaks(SailerX, config, options, parameters, prepare, search)


def by_chromosome(data: RnaInput, path: Path) -> tuple[RnaInput, list[int]]:
    """The same with peaks sorted by chromosome and start, and the number of peaks of each chromosome."""
    var = data.adata.var if len(data.adata.var) == len(data.genes) else pd.DataFrame(index=data.genes)
    order, names, peaks_c = peak_positions(var.set_axis(pd.Index(data.genes), axis=0)).by_chromosome()
    if (np.diff(order) < 0).any():
        log.info("the peaks of %s are not sorted: the model's are, by chromosome and start", path)
        data = RnaInput(data.counts[:, order].sorted_indices(), data.genes[order], data.cells, data.source, data.adata)
    if len(names) == 1:
        log.warning("all peaks lie on one chromosome, %s: the network is one block", names[0])
    return data, peaks_c.tolist()


def _depths(data: RnaInput, has_n: np.ndarray, config: SailerXConfig, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """RNA and ATAC depth of each cell; the latter from the counts where no column tells it."""
    atac_n = cell_totals(data.counts)
    if config.depth_weights == "none":
        return np.ones(len(has_n)), atac_n
    if RNA_DEPTH not in data.adata.obs:
        raise InputError(
            f"{path} has no obs column {RNA_DEPTH!r}, and so cells have no weights by depth",
            "add the RNA counts of each cell under this name, or give --depth-weights none",
        )
    rna_n = number_column(data.adata.obs, RNA_DEPTH, path, RNA_DEPTH)
    if ATAC_DEPTH in data.adata.obs:
        atac_n = number_column(data.adata.obs, ATAC_DEPTH, path, ATAC_DEPTH)
    return rna_n, atac_n
