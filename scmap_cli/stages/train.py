"""``scmap train``: read counts and programs, train a model, publish its directory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig, as_dict, build
from scmap_cli.data.batches import CsrStore
from scmap_cli.data.features import align
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io import bundle as files
from scmap_cli.io.atomic import atomic_dir, check_output, write_json
from scmap_cli.io.programs import Programs, load_programs
from scmap_cli.keys import PROGRAM_NAMES, PROGRAMS_VARM, embedding_key
from scmap_cli.metrics.programs import PROGRAM_COLUMNS, program_rows
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig, block_sizes
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.plots.draw import loss_curves, safely
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import RnaInput, condition_codes, condition_labels, load_rna, plain_records
from scmap_cli.training.checkpoint import Checkpoint
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.distributed import process_group, ranks_from_environment
from scmap_cli.training.loop import FitResult, Trainer


def train(
    model: str,
    input: Path,
    output: Path,
    *,
    programs: Path | None = None,
    program_weights: Path | None = None,
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
    """Train a model and write its directory.

    Parameters
    ----------
    model
        Name in the registry; ``expimap`` so far.
    input
        Raw counts: h5ad, 10x h5, 10x mtx folder or a text table.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    programs
        ``programs.npz``; without it ``varm["scmap_programs"]`` of the input.
    program_weights
        TSV ``program<TAB>weight``: group lasso weight of programs, 1 where not listed, 0 keeps a program active.
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
    kind = get_model(model).load()
    settings = build(TrainConfig, train_options or {}, where="[train]")
    config = build(ExpiMapConfig, model_options or {}, where="[model]")
    if resume not in ("auto", "never"):
        raise UsageError(f"--resume is {resume!r}", "choose auto or never")
    _check_target(output, force, resume)
    if metrics is not None:
        check_output(metrics, force)
    ranks = ranks_from_environment()
    if not ranks.first:
        # One rank tells; the others speak up only when something is wrong.
        log.setLevel(max(log.level, logging.WARNING))
    target = resolve_device(device, ranks.local_rank)

    parameters = {
        "model": model,
        "programs": programs,
        "program_weights": program_weights,
        "batch_key": batch_key,
        "layer": layer,
        "gene_column": gene_column,
        "model_config": as_dict(config),
        "train_config": as_dict(settings),
    }
    inputs = [path for path in (input, programs, program_weights) if path is not None]
    with (
        provenance.run(
            f"train {model}",
            inputs=inputs,
            output=output if ranks.first and not dry_run else None,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        data = load_rna(input, layer, gene_column, as_is=config.input_scale == "as-is")
        table = load_programs(programs) if programs else _programs_of(data, input)
        job = _prepare(data, table, program_weights, batch_key, config, settings, input, seed)
        if config.input_scale == "as-is":
            log.info("values of %s are taken as they are", data.source)
        plan = _plan(job, config, settings, str(target), ranks.world)
        log.info("%s", _headline(plan))
        if dry_run:
            return plan
        del data
        identity = {
            "schema_version": files.SCHEMA_VERSION,
            "seed": seed,
            "inputs": {path["name"]: path["digest"] for path in run.record["inputs"]},
            "features": files.features_digest(job.genes),
            "batch_key": batch_key,
            "model_config": as_dict(config),
            "train_config": as_dict(settings) | {"checkpoint_minutes": None},
        }
        checkpoint = Checkpoint(output / files.CHECKPOINTS, identity)
        go_on = resume == "auto" and checkpoint.exists() and _same_run(checkpoint, force)
        start_g = _decoder_means(job, config)
        network = ExpiMap.create(
            config, job.mask_gk, len(job.conditions), mixed_seed(seed, "init"), job.omega_k, start_g
        )
        network.to(target)
        store = CsrStore(job.counts, job.codes).to(target)
        job.counts = sparse.csr_matrix((0, 0))
        with process_group(ranks, target):
            rows = (np.flatnonzero(~job.held), np.flatnonzero(job.held))
            trainer = Trainer(network, store, *rows, settings, seed=seed, ranks=ranks, checkpoint=checkpoint)
            result = trainer.fit(resume=go_on)
        summary = _metrics(network, result, job)
        seconds = [round(s, 4) for s in result.epoch_seconds]
        run.note(
            epoch_seconds=seconds, cells_per_epoch=result.cells_per_epoch, device=str(target), processes=ranks.world
        )
        if result.epoch_seconds:
            speed = result.cells_per_epoch / float(np.median(result.epoch_seconds))
            run.note(cells_per_second=round(speed, 1))
            log.info("%.0f cells a second (median epoch)", speed)
        if ranks.first:
            _publish(output, kind.name, network, result, job, run, summary, config, settings, batch_key)
            if metrics is not None:
                write_json(metrics, summary, force)
            log.info("wrote %s: %d of %d programs active", output, summary["active_programs"], summary["programs"])
    return summary


@dataclass
class _Job:
    """What is trained on: counts and names in the order of the model."""

    counts: sparse.csr_matrix
    genes: np.ndarray
    cells: np.ndarray
    codes: np.ndarray
    conditions: list[str]
    held: np.ndarray
    mask_gk: sparse.csc_matrix
    names: list[str]
    size_before: list[int | None]
    omega_k: np.ndarray | None
    means: np.ndarray
    source: str


def _check_target(output: Path, force: bool, resume: str) -> None:
    """Refuse to replace a model unasked, and any folder that is not a model at all."""
    if not output.exists():
        check_output(output)
        return
    if not output.is_dir():
        raise UsageError(f"{output} is a file; a model is written as a folder", "choose another output")
    foreign = [p.name for p in output.iterdir() if p.name != files.CHECKPOINTS]
    if foreign and not files.is_bundle(output):
        raise OutputExistsError(
            f"{output} exists and holds other files ({', '.join(sorted(foreign)[:3])})", "choose another output"
        )
    waiting = (output / files.CHECKPOINTS).is_dir()
    if not force and ((files.is_bundle(output) and not waiting) or (waiting and resume == "never")):
        raise OutputExistsError(f"{output} already exists", "give --force to replace it, or choose another name")


def _same_run(checkpoint: Checkpoint, force: bool) -> bool:
    """Whether to go on from the checkpoint; with ``force`` one of another run is dropped."""
    try:
        checkpoint.load()
    except (UsageError, InputError) as error:
        if not force:
            raise
        log.warning("starting anew: %s", error)
        return False
    return True


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


def _prepare(
    data: RnaInput,
    table: Programs,
    weights: Path | None,
    batch_key: str | None,
    config: ExpiMapConfig,
    settings: TrainConfig,
    path: Path,
    seed: int,
) -> _Job:
    n_cells, n_genes = data.counts.shape
    if n_cells < 2 or n_genes < 2:
        raise InputError(f"{path} has {n_cells} cells and {n_genes} genes; training needs at least two of each")
    index_g = align(table.genes, data.genes).index
    rows = table.mask.tocsr()
    found_g = np.flatnonzero(index_g >= 0)
    taken = rows[index_g[found_g]].tocoo()
    mask_gk = sparse.coo_matrix(
        (np.ones(taken.nnz, np.uint8), (found_g[taken.row], taken.col)), shape=(n_genes, rows.shape[1])
    ).tocsc()
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
        log.info("%d genes are in no program: only their condition explains them", outside)
    names = [str(name) for name in table.programs[kept_k]]
    free = [f"unconstrained_{i + 1}" for i in range(config.unconstrained)]
    labels = condition_labels(data.adata.obs, batch_key, path)
    codes, conditions = condition_codes(labels, None, path)
    held = validation_split(codes, settings.validation_share, seed)
    return _Job(
        counts=data.counts,
        genes=data.genes,
        cells=data.cells,
        codes=codes,
        conditions=conditions,
        held=held,
        mask_gk=mask_gk,
        names=names + free,
        size_before=[int(s) for s in table.size_before[kept_k]] + [None] * len(free),
        omega_k=_read_weights(weights, names) if weights else None,
        means=np.asarray(data.counts.mean(0, dtype=np.float64)).ravel(),
        source=data.source,
    )


def _read_weights(path: Path, names: list[str]) -> np.ndarray:
    """Group lasso weights from a two-column TSV, 1 where a program is not listed."""
    position = {name: i for i, name in enumerate(names)}
    omega = np.ones(len(names), dtype=np.float32)
    strange = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, value = line.partition("\t")
        try:
            weight = float(value)
        except ValueError:
            if number == 1:
                continue
            raise InputError(
                f"{path}, line {number}: {value!r} is not a weight", "one program<TAB>weight a line"
            ) from None
        if not 0 <= weight < np.inf:
            raise InputError(f"{path}, line {number}: weight {value} must be finite and not negative")
        if name in position:
            omega[position[name]] = weight
        else:
            strange.append(name)
    if strange:
        log.warning("%d weights are for programs that are not in the model, such as %r", len(strange), strange[0])
    return omega


def _decoder_means(job: _Job, config: ExpiMapConfig) -> np.ndarray:
    """Mean of every gene over the cells on the scale that the decoder models."""
    if config.likelihood == "nb" or config.input_scale == "as-is":
        return job.means
    scaled = job.counts.astype(np.float64)
    total_n = np.maximum(np.asarray(scaled.sum(1)).ravel(), 1.0)
    scaled.data = np.log1p(scaled.data * np.repeat(1e4 / total_n, np.diff(scaled.indptr)))
    return np.asarray(scaled.mean(0)).ravel()


def _plan(job: _Job, config: ExpiMapConfig, settings: TrainConfig, device: str, processes: int) -> dict[str, Any]:
    n, g = job.counts.shape
    with torch.device("meta"):
        block, _ = block_sizes(job.mask_gk, config.unconstrained, config.membership == "soft")
        network = ExpiMap(config, n_genes=g, n_conditions=len(job.conditions), blocks=[block])
    return {
        "cells": n,
        "genes": g,
        "programs": job.mask_gk.shape[1],
        "unconstrained": config.unconstrained,
        "conditions": job.conditions,
        "validation_cells": int(job.held.sum()),
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "device": device,
        "processes": processes,
        "counts_from": job.source,
    }


def _headline(plan: dict[str, Any]) -> str:
    free = f" + {plan['unconstrained']} unconstrained" if plan["unconstrained"] else ""
    return (
        f"{plan['cells']} cells ({plan['validation_cells']} for validation) x {plan['genes']} genes, "
        f"{plan['programs']} programs{free}, {len(plan['conditions'])} conditions, "
        f"{plan['parameters']} parameters, up to {plan['epochs']} epochs on {plan['device']}"
    )


def _metrics(network: ExpiMap, result: FitResult, job: _Job) -> dict[str, Any]:
    best = result.history[result.best_epoch - 1] if result.history else {}
    active = network.active().cpu().numpy()
    return {
        "model": network.name,
        "cells": len(job.cells),
        "genes": len(job.genes),
        "programs": len(job.names),
        "active_programs": int(active.sum()),
        "outside_share_inactive": network.outside_share_inactive(),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "validation_cells": int(job.held.sum()),
        **{key: value for key, value in best.items() if key != "epoch"},
    }


def _publish(
    output: Path,
    name: str,
    network: ExpiMap,
    result: FitResult,
    job: _Job,
    run: provenance.Run,
    summary: dict[str, Any],
    config: ExpiMapConfig,
    settings: TrainConfig,
    batch_key: str | None,
) -> None:
    """Write the directory beside its place and swap it in; checkpoints go with the old folder."""
    tensors = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
    held = np.where(job.held, "valid", "train")
    described = {
        "model": name,
        "capabilities": sorted(network.capabilities),
        "embedding": embedding_key(name),
        "batch_key": batch_key,
        "model_config": as_dict(config),
        "train_config": as_dict(settings),
        "structure": network.structure,
        "history": [run.record],
    }
    with atomic_dir(output, force=True) as folder:
        files.write_bundle(
            folder,
            config=described,
            tensors=tensors,
            features=job.genes,
            feature_means=job.means,
            categories={"condition": job.conditions, "latent": job.names},
            history=result.history,
            metrics=summary,
            split=list(zip(job.cells.tolist(), held.tolist(), strict=True)),
        )
        w_gk = network.decoder_weights().cpu().numpy()
        mask_gk = np.zeros(w_gk.shape, dtype=np.uint8)
        mask_gk[:, : job.mask_gk.shape[1]] = job.mask_gk.toarray()
        rows = program_rows(w_gk, mask_gk, job.genes, job.names, job.size_before)
        files.write_table(folder / files.PROGRAMS, PROGRAM_COLUMNS, rows)
        (folder / files.CARD).write_text(_card(summary, described, job), encoding="utf-8")
        safely("the loss curve", loss_curves, result.history, folder / files.LOSS, best=result.best_epoch)
    # Nothing is lost if this fails: the checkpoint of a finished run is not read again.
    shutil.rmtree(output / files.CHECKPOINTS, ignore_errors=True)


def _card(summary: dict[str, Any], described: dict[str, Any], job: _Job) -> str:
    conditions = ", ".join(job.conditions[:8]) + (", ..." if len(job.conditions) > 8 else "")
    record = described["history"][0]
    inputs = ", ".join(f"`{i['name']}` ({i['digest'][:19]})" for i in record["inputs"])
    score = f"{summary['valid_loss']:.4g}" if "valid_loss" in summary else "none"
    return (
        f"# {described['model']} model\n\n"
        f"Trained by scmap {record['version']} on {summary['cells']} cells x {summary['genes']} genes from {inputs}, "
        f"seed {record['seed']}.\n\n"
        f"- conditions (`{described['batch_key'] or 'no batch column'}`): {conditions}\n"
        f"- programs: {summary['programs']}, of which {summary['active_programs']} active (`programs.tsv`)\n"
        f"- epochs: {summary['epochs']}, weights of epoch {summary['best_epoch']}; validation score {score}\n\n"
        "Use it with `scmap embed MODEL_DIR data.h5ad -o out.h5ad`; genes are matched by name with `features.tsv`.\n"
    )
