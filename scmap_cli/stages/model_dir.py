"""What the training stages share: the data of a run, its training with checkpoints, and the directory it leaves."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.config import TrainConfig, as_dict
from scmap_cli.data.batches import Store
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io import bundle as files
from scmap_cli.io.atomic import atomic_dir, check_output, write_json
from scmap_cli.keys import embedding_key
from scmap_cli.models.base import ScmapModel
from scmap_cli.plots.canvas import safely
from scmap_cli.plots.draw import loss_curves
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.signals import StopFlag
from scmap_cli.training.checkpoint import Checkpoint, unfinished
from scmap_cli.training.distributed import Ranks, process_group
from scmap_cli.training.loop import FitResult, Trainer
from scmap_cli.training.throughput import speed


@dataclass
class TrainingData:
    """What a run trains on, counts and names in the order of the model.

    Attributes
    ----------
    counts, genes, cells
        CSR (n, g) and its names.
    codes, conditions
        Condition code of each cell, and the names of all conditions of the model.
    held
        Cells held out for model selection, bool (n,).
    names
        Latent dimensions.
    means
        (g,) mean counts that ``features.tsv`` keeps.
    source
        Where the counts were found.
    covariates
        (n, c) what a decoder is told of each cell beside its condition.
    reference, weights
        (n, r) and (n,) of a second modality, see :class:`scmap_cli.data.batches.Batch`.
    described
        More about the data for ``config.json``, JSON values.
    store, rows, read_cells
        Where the cells are on disk: what gives them as batches, the row of each, and what reads their names;
        ``counts`` and ``cells`` are then empty.
    digest
        Of all that is trained on; None until it is asked for.
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    cells: np.ndarray
    codes: np.ndarray
    conditions: list[str]
    held: np.ndarray
    names: list[str]
    means: np.ndarray
    source: str
    covariates: np.ndarray | None = None
    reference: np.ndarray | None = None
    weights: np.ndarray | None = None
    described: dict[str, Any] = field(default_factory=dict)
    store: Store | None = None
    rows: np.ndarray | None = None
    digest: str | None = None
    read_cells: Callable[[], Iterable[str]] | None = None

    @property
    def n_covariates(self) -> int:
        """Columns of the covariates."""
        return 0 if self.covariates is None else self.covariates.shape[1]

    def cells_store(self, network: ScmapModel) -> Store:
        """All cells as the model takes them."""
        return self.store or network.make_store(
            self.counts, self.codes, covariates=self.covariates, reference=self.reference, weights=self.weights
        )


@dataclass(frozen=True)
class Training:
    """How a run trains, and where its directory goes.

    ``metrics`` is where the scores are written too. ``missing`` and ``history`` are what a mapping adds: what cells got
    for genes that the query lacks, and the records of the reference.
    """

    output: Path
    config: Any
    settings: TrainConfig
    batch_key: str | None
    seed: int
    device: torch.device
    ranks: Ranks
    resume: str
    force: bool
    metrics: Path | None = None
    missing: str = "zero"
    history: tuple[Any, ...] = ()

    def fit(
        self,
        network: ScmapModel,
        data: TrainingData,
        run: provenance.Run,
        identity: dict[str, Any],
        more: Callable[[Path], None] | None = None,
        stop: StopFlag | None = None,
        begin: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Train, or go on from a checkpoint, and publish the model directory.

        Parameters
        ----------
        network
            Freshly made, on the CPU; ends on the device with its best weights.
        data
            Its counts are let go of once they are on the device.
        run
            The record that the directory keeps.
        identity
            What else must be the same for a checkpoint to be of this run.
        more
            Writes further files into the folder before it is published.
        stop
            A flag that is watched already, where signals are looked at before the training too.
        begin
            What is left to do with the network where no checkpoint has its weights.

        Returns
        -------
        dict
            The contents of ``metrics.json``.
        """
        checkpoint = Checkpoint(self.output / files.CHECKPOINTS, identity | self.identity(data, run))
        go_on = self.resume == "auto" and checkpoint.exists() and same_run(checkpoint, self.force)
        # The first process hands its weights to the others.
        if begin is not None and not go_on and self.ranks.first:
            begin()
        network.to(self.device)
        network.held = {name: tensor.to(self.device) for name, tensor in network.held.items()}
        store = data.cells_store(network).to(self.device)
        data.counts = sparse.csr_matrix((0, 0))
        with process_group(self.ranks, self.device):
            place = np.arange(len(data.held)) if data.rows is None else data.rows
            rows = (place[~data.held], place[data.held])
            trainer = Trainer(
                network, store, *rows, self.settings,
                seed=self.seed, ranks=self.ranks, checkpoint=checkpoint, stop=stop,
            )  # fmt: skip
            result = trainer.fit(resume=go_on)
        seconds = [round(s, 4) for s in result.epoch_seconds]
        run.note(
            epoch_seconds=seconds,
            cells_per_epoch=result.cells_per_epoch,
            device=str(self.device),
            processes=self.ranks.world,
        )
        precision = self.settings.precision
        run.note(
            **speed(result.work, result.epoch_seconds, result.cells_per_epoch, self.device, precision, self.ranks.world)
        )
        if result.epoch_seconds:
            rate = result.cells_per_epoch / float(np.median(result.epoch_seconds))
            run.note(cells_per_second=round(rate, 1))
            log.info("%.0f cells a second (median epoch)", rate)
        summary = _metrics(network, result, data)
        if self.ranks.first:
            network.keep(store, self.seed)
            self._publish(network, result, data, run, summary, more)
            told = (
                f": {summary['active_programs']} of {summary['programs']} programs active"
                if "programs" in summary
                else ""
            )
            log.info("wrote %s%s", self.output, told)
            if self.metrics is not None:
                write_json(self.metrics, summary, self.force)
        return summary

    def identity(self, data: TrainingData, run: provenance.Run) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run, whatever the model."""
        data.digest = data.digest or _cells_digest(data)
        return {
            "schema_version": files.SCHEMA_VERSION,
            "seed": self.seed,
            "inputs": [f"{path['name']} {path['digest']}" for path in run.record["inputs"]],
            "cells": data.digest,
            "conditions": data.conditions,
            "features": files.features_digest(data.genes),
            "batch_key": self.batch_key,
            "model_config": as_dict(self.config),
            "train_config": self._lasting(),
        }

    def _lasting(self) -> dict[str, Any]:
        """Training settings that must stay for a run to go on: the cells of a step, not how they are split."""
        plain = as_dict(self.settings)
        cells = plain["batch_size"] * plain.pop("accumulate", 1) * self.ranks.world
        return plain | {"batch_size": f"{cells} cells a step", "checkpoint_minutes": None}

    def _publish(
        self,
        network: ScmapModel,
        result: FitResult,
        data: TrainingData,
        run: provenance.Run,
        summary: dict[str, Any],
        more: Callable[[Path], None] | None,
    ) -> None:
        """Write the directory beside its place and swap it in; checkpoints go with the old folder."""
        tensors = {key: value.detach().cpu().numpy() for key, value in network.state_dict().items()}
        names = data.cells.tolist() if data.read_cells is None else data.read_cells()
        held = ("valid" if one else "train" for one in data.held.tolist())
        described = {
            "model": network.name,
            "capabilities": sorted(network.capabilities),
            "embedding": embedding_key(network.name),
            "batch_key": self.batch_key,
            "missing": self.missing,
            **data.described,
            "model_config": as_dict(self.config),
            "train_config": as_dict(self.settings),
            "structure": network.structure,
            "history": [*self.history, run.record],
            **network.described(data.genes),
        }
        with atomic_dir(self.output, force=True) as folder:
            if more is not None:
                more(folder)
            files.write_bundle(
                folder,
                config=described,
                tensors=tensors,
                features=data.genes,
                feature_means=data.means,
                categories={"condition": data.conditions, "latent": data.names},
                history=result.history,
                metrics=summary,
                split=zip(names, held, strict=True),
            )
            (folder / files.CARD).write_text(_card(network.features, summary, described, data), encoding="utf-8")
            safely("the loss curve", loss_curves, result.history, folder / files.LOSS, best=result.best_epoch)
        # Nothing is lost if this fails: the checkpoint of a finished run is not read again.
        shutil.rmtree(self.output / files.CHECKPOINTS, ignore_errors=True)


def quiet_followers(ranks: Ranks) -> None:
    """One rank tells; the others speak up only when something is wrong."""
    if not ranks.first:
        log.setLevel(max(log.level, logging.WARNING))


def _cells_digest(data: TrainingData) -> str:
    """SHA-256 of counts, conditions, covariates and names as they are trained on."""
    total = hashlib.sha256()
    told = (data.covariates, data.reference, data.weights)
    for part in (data.counts.indptr, data.counts.indices, data.counts.data, data.codes, *told):
        total.update(np.ascontiguousarray(np.zeros(0) if part is None else part).data)
    total.update("\n".join(data.cells.tolist()).encode())
    return f"sha256:{total.hexdigest()}"


def check_resume(resume: str) -> None:
    """Refuse what is no way to resume."""
    if resume not in ("auto", "never"):
        raise UsageError(f"--resume is {resume!r}", "choose auto or never")


def check_target(output: Path, force: bool, resume: str) -> None:
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
    waiting = unfinished(output / files.CHECKPOINTS)
    if not force and ((files.is_bundle(output) and not waiting) or (waiting and resume == "never")):
        raise OutputExistsError(f"{output} already exists", "give --force to replace it, or choose another name")


def same_run(checkpoint: Checkpoint, force: bool) -> bool:
    """Whether to go on from the checkpoint; with ``force`` one of another run is dropped."""
    try:
        checkpoint.check()
    except (UsageError, InputError) as error:
        if not force:
            raise
        log.warning("starting anew: %s", error)
        return False
    return True


def _metrics(network: ScmapModel, result: FitResult, data: TrainingData) -> dict[str, Any]:
    best = result.history[result.best_epoch - 1] if result.history else {}
    return {
        "model": network.name,
        "cells": len(data.held),
        network.features: len(data.genes),
        **network.report(),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        "validation_cells": int(data.held.sum()),
        **{key: value for key, value in best.items() if key != "epoch"},
    }


def _card(word: str, summary: dict[str, Any], described: dict[str, Any], data: TrainingData) -> str:
    conditions = ", ".join(data.conditions[:8]) + (", ..." if len(data.conditions) > 8 else "")
    what = f"conditions (`{described['batch_key'] or 'no batch column'}`)"
    if described.get("label_key"):
        what = f"labels (`{described['label_key']}`)"
    record = described["history"][-1]
    inputs = ", ".join(f"`{i['name']}` ({i['digest'][:19]})" for i in record["inputs"])
    score = f"{summary['valid_loss']:.4g}" if "valid_loss" in summary else "none"
    programs = (
        f"- programs: {summary['programs']}, of which {summary['active_programs']} active (`programs.tsv`)\n"
        if "programs" in summary
        else f"- latent dimensions: {len(data.names)}\n"
    )
    return (
        f"# {described['model']} model\n\n"
        f"Trained by scmap {record['version']} on {summary['cells']} cells x {summary[word]} {word} from {inputs}, "
        f"seed {record['seed']}.\n\n"
        f"- {what}: {conditions}\n"
        f"{programs}"
        f"- epochs: {summary['epochs']}, weights of epoch {summary['best_epoch']}; validation score {score}\n\n"
        f"Use it with `scmap embed MODEL_DIR data.h5ad -o out.h5ad`; {word} are matched by name with `features.tsv`.\n"
    )
