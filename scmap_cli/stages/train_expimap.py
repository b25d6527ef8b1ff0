"""``scmap train expimap``: read counts and programs, train the model, publish its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig, build
from scmap_cli.data.matrices import column_means, log1p_cp10k
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.programs import Programs, load_programs
from scmap_cli.io.text import read_numbers
from scmap_cli.keys import PROGRAM_NAMES, PROGRAMS_VARM
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig, block_sizes
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput, condition_codes, condition_labels, load_rna, programs_over
from scmap_cli.stages.model_dir import Training, TrainingData
from scmap_cli.stages.program_tables import write_programs
from scmap_cli.stages.training_run import training_run

WEIGHTINGS = ("size", "equal")
"""Rules that give programs their group lasso weights."""


def train_expimap(
    input: Path,
    output: Path,
    *,
    programs: Path | None = None,
    program_weights: Path | str = "size",
    batch_key: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: str = "auto",
    metrics: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train an expiMap model and write its directory.

    Parameters
    ----------
    input
        Raw counts: h5ad, 10x h5, 10x mtx folder or a text table.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    programs
        ``programs.npz``; without it ``varm["scmap_programs"]`` of the input.
    program_weights
        Group lasso weight of programs: ``size``, by their number of genes (:func:`size_weights`); ``equal``, 1 for all;
        or a TSV ``program<TAB>weight``, 1 where not listed, 0 keeps a program active.
    batch_key
        ``obs`` column of the conditions; None means one condition.
    layer, gene_column
        Where the counts and gene names are, when not in the usual places.
    model_options, train_options
        Fields of the model's config and of :class:`~scmap_cli.config.TrainConfig` that differ from the defaults.
    seed
        Seed of weights, split, order and noise.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    resume
        ``auto`` goes on from a checkpoint of the same run in ``output``; ``never`` ignores it (needs ``force``).
    metrics
        Also write ``metrics.json`` here.
    force
        Replace an existing model.
    dry_run
        Check everything, say what would be trained, write nothing.

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
    weights = None if str(program_weights) in WEIGHTINGS else Path(program_weights)
    if weights is not None and not weights.exists():
        raise UsageError(
            f"--program-weights is {str(weights)!r}, which is no file", f"give one, or {' or '.join(WEIGHTINGS)}"
        )
    settings = build(TrainConfig, train_options or {}, where="[train]")
    config = build(ExpiMapConfig, model_options or {}, where="[model]")
    parameters = {
        "programs": programs,
        "program_weights": program_weights,
        "batch_key": batch_key,
        "layer": layer,
        "gene_column": gene_column,
    }
    with training_run(
        ExpiMap.name, output, config, settings, inputs=[input, programs, weights], parameters=parameters,
        batch_key=batch_key, seed=seed, device=device, resume=resume, metrics=metrics, force=force, dry_run=dry_run,
    ) as (training, run):  # fmt: skip
        data = load_rna(input, layer, gene_column, as_is=config.input_scale == "as-is")
        table = load_programs(programs) if programs else _programs_of(data, input)
        made = _prepare(data, table, str(program_weights), batch_key, config, settings, input, seed)
        job = made.data
        if config.input_scale == "as-is":
            log.info("values of %s are taken as they are", data.source)
        plan = _plan(made, training)
        log.info("%s", _headline(plan))
        if dry_run:
            return plan
        del data
        network = ExpiMap.create(
            config,
            made.mask_gk,
            len(job.conditions),
            mixed_seed(seed, "init"),
            made.omega_k,
            _decoder_means(job, config),
        )

        def programs_too(folder: Path) -> None:
            write_programs(folder, network, job.genes, job.names, made.size_before, job.means)

        return training.fit(network, job, run, {}, programs_too)


def _programs_of(data: RnaInput, path: Path) -> Programs:
    adata = data.adata
    if PROGRAMS_VARM not in adata.varm or PROGRAM_NAMES not in adata.uns:
        raise InputError(
            f"{path} has no programs in varm[{PROGRAMS_VARM!r}]",
            "make them with `scmap preprocess programs` and give --programs programs.npz",
        )
    mask = sparse.csc_matrix(adata.varm[PROGRAMS_VARM])
    mask.eliminate_zeros()
    size = np.diff(mask.indptr).astype(np.int64)
    names = np.asarray(adata.uns[PROGRAM_NAMES]).astype(str)
    return Programs(mask, adata.var_names.to_numpy().astype(str), names, size, size)


@dataclass(frozen=True)
class _Made:
    """The data of a run, its program matrix (genes x programs), the programs' group lasso weights and first sizes."""

    data: TrainingData
    mask_gk: sparse.csc_matrix
    omega_k: np.ndarray
    size_before: list[int | None]


def _prepare(
    data: RnaInput,
    table: Programs,
    weights: str,
    batch_key: str | None,
    config: ExpiMapConfig,
    settings: TrainConfig,
    path: Path,
    seed: int,
) -> _Made:
    n_cells, n_genes = data.counts.shape
    if n_cells < 2 or n_genes < 2:
        raise InputError(f"{path} has {n_cells} cells and {n_genes} genes; training needs at least two of each")
    mask_gk = programs_over(table, data.genes)
    size_k = np.asarray(mask_gk.sum(0, dtype=np.int64)).ravel()
    kept_k = np.flatnonzero(size_k)
    if len(kept_k) == 0 and config.unconstrained == 0:
        raise InputError(
            f"none of the {len(size_k)} programs has a gene among the {n_genes} of {path}",
            "make the programs for this file: `scmap preprocess programs --genes`",
        )
    if len(kept_k) < len(size_k):
        log.warning("%d programs have no gene in this file and are left out", len(size_k) - len(kept_k))
    mask_gk = mask_gk[:, kept_k]
    outside = n_genes - len(np.unique(mask_gk.indices))
    if outside:
        log.info("%d of %d genes are in no program: only their condition explains them", outside, n_genes)
    if outside > n_genes / 2:
        log.warning("most genes are in no program; `scmap preprocess rna --programs FILE.npz` keeps those that are")
    names = [str(name) for name in table.programs[kept_k]]
    free = [f"unconstrained_{i + 1}" for i in range(config.unconstrained)]
    labels = condition_labels(data.adata.obs, batch_key, path)
    codes, conditions = condition_codes(labels, None, path)
    held = validation_split(codes, settings.validation_share, seed)
    job = TrainingData(
        counts=data.counts,
        genes=data.genes,
        cells=data.cells,
        codes=codes,
        conditions=conditions,
        held=held,
        names=names + free,
        means=column_means(data.counts),
        source=data.source,
    )
    size_before = [*table.size_before[kept_k].tolist(), *[None] * len(free)]
    return _Made(job, mask_gk, _omega(weights, names, size_k[kept_k]), size_before)


def size_weights(size_k: np.ndarray) -> np.ndarray:
    """Group lasso weights by the number of genes: the root of a program's size over the mean size.

    The square root of its size is the usual weight of a group (Yuan and Lin 2006, doi:10.1111/j.1467-9868.2005.00532.x,
    section 2): with equal weights a collection of everything immune takes the place of the specific programs inside
    it.

    Parameters
    ----------
    size_k
        (k,) genes of each program, at least 1.

    Returns
    -------
    ndarray
        (k,) float32, 1 for a program of mean size.
    """
    return np.sqrt(size_k / max(size_k.mean() if len(size_k) else 1.0, 1.0)).astype(np.float32)


def _omega(weights: str, names: list[str], size_k: np.ndarray) -> np.ndarray:
    """(k,) group lasso weights: one of :data:`WEIGHTINGS`, or a two-column TSV, 1 where a program is not listed."""
    if weights == "size":
        return size_weights(size_k)
    if weights == "equal":
        return np.ones(len(names), dtype=np.float32)
    path = Path(weights)
    listed = read_numbers(path)
    negative = next((name for name, weight in listed.items() if weight < 0), None)
    if negative is not None:
        raise InputError(f"{path}: the weight of {negative!r} is {listed[negative]:g}", "give weights of at least 0")
    known = set(names)
    strange = [name for name in listed if name not in known]
    if strange:
        log.warning("%d weights are for programs that are not in the model, such as %r", len(strange), strange[0])
    return np.array([listed.get(name, 1.0) for name in names], dtype=np.float32)


def _decoder_means(job: TrainingData, config: ExpiMapConfig) -> np.ndarray:
    """Mean of every gene over the cells on the scale that the decoder models."""
    if config.likelihood == "nb" or config.input_scale == "as-is":
        return job.means
    return column_means(log1p_cp10k(job.counts))


def _plan(made: _Made, training: Training) -> dict[str, Any]:
    job, config = made.data, training.config
    n, g = job.counts.shape
    with torch.device("meta"):
        block, _ = block_sizes(made.mask_gk, config.unconstrained, config.membership == "soft")
        network = ExpiMap(config, n_genes=g, n_conditions=len(job.conditions), blocks=[block])
    return {
        "cells": n,
        "genes": g,
        "programs": made.mask_gk.shape[1],
        "unconstrained": config.unconstrained,
        "conditions": job.conditions,
        "validation_cells": int(job.held.sum()),
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": training.settings.epochs,
        "batch_size": training.settings.batch_size,
        "device": str(training.device),
        "processes": training.ranks.world,
        "counts_from": job.source,
    }


def _headline(plan: dict[str, Any]) -> str:
    free = f" + {plan['unconstrained']} unconstrained" if plan["unconstrained"] else ""
    return (
        f"{plan['cells']} cells ({plan['validation_cells']} for validation) x {plan['genes']} genes, "
        f"{plan['programs']} programs{free}, {len(plan['conditions'])} conditions, "
        f"{plan['parameters']} parameters, up to {plan['epochs']} epochs on {plan['device']}"
    )
