"""``scmap map-query``: put a query into the space of a reference, learn what is new in it, carry labels over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from scmap_cli.config import TrainConfig, as_dict, build
from scmap_cli.data.batches import CsrStore
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import UsageError
from scmap_cli.io.atomic import check_outputs, write_json
from scmap_cli.io.bundle import PROGRAMS, Bundle, check_file, is_bundle, load_bundle, read_program_sizes
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.models.expimap import ExpiMap, ExpiMapConfig
from scmap_cli.models.surgery import extend, trained_parameters
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.plots.canvas import publish
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.carried_labels import LabelSearch
from scmap_cli.stages.inputs import MISSING, plain_records
from scmap_cli.stages.mapped import agreement, draw_map, joined_file, label_line, put_labels, query_file
from scmap_cli.stages.model_dir import Training, TrainingData, check_resume, check_target, quiet_followers
from scmap_cli.stages.program_tables import write_programs
from scmap_cli.stages.query_inputs import Added, Query, added_programs, aligned_query, read_reference, reference_model
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.distributed import ranks_from_environment
from scmap_cli.training.infer import embed_cells, restore_model

OVERLAP = "overlap.json"

QUERY_MODEL: dict[str, Any] = {
    "dropout": 0.0,
    "kl_weight": 0.1,
    "kl_anneal_epochs": 50.0,
    "group_lasso": 0.0,
    "soft_l1": 0.5,
    "unconstrained_l1": 0.7,
    "l1_anneal_epochs": 50.0,
    "hsic": 1.0,
}
"""Settings of a mapping, whatever those of the reference: no dropout, KL weight 0.1 and 50 epochs of annealing as in
the authors' notebooks; no group lasso on added programs, as in the released code; the rest as for ``scmap train``."""

_FROZEN = ("hidden", "likelihood", "mean", "input_scale")

QUERY_TRAIN: dict[str, Any] = {"patience": 20}
"""Settings of the training that differ from those of ``scmap train``."""

LEARNING_TRAIN: dict[str, Any] = {"lr": 3e-3, "patience": 0, "lr_patience": 0}
"""The same where programs are added: they take off late, when the validation score has stood still for dozens of
epochs, so training neither ends nor slows down before its time."""


def map_query(
    model_dir: Path,
    query: Path,
    output: Path,
    *,
    model_out: Path,
    batch_key: str | None = None,
    one_batch: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    min_overlap: float = 0.5,
    missing: str = "zero",
    new_programs: int = 0,
    programs: Path | None = None,
    reference: Path | None = None,
    label_key: str | None = None,
    space: str = "discriminant",
    components: int = 60,
    refine: int = 25,
    neighbors: int = 15,
    unknown_below: float = 0.5,
    join: Path | None = None,
    plot: Path | None = None,
    model_options: Mapping[str, Any] | None = None,
    train_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Map a query onto a trained expiMap reference.

    Parameters
    ----------
    model_dir
        The reference, written by ``scmap train expimap`` or by an earlier mapping. Not changed.
    query
        Raw counts; genes are matched by name.
    output
        ``.h5ad``: the query with its embedding in the reference's space, labels and novelty.
    model_out
        Directory of the mapped model, which embeds reference and query alike.
    batch_key
        ``obs`` column of the query's batches; by default the column of the training if the query has it. Batches that
        the reference knows keep its parameters, others get new ones.
    one_batch
        Take all cells as one new batch of this name, whatever columns there are. Without it and without a batch column
        the name is ``query``.
    layer, gene_column, min_overlap, missing
        As :func:`~scmap_cli.stages.inputs.aligned_counts`.
    new_programs
        Unconstrained programs to learn from the query.
    programs
        ``programs.npz`` with further programs to learn from the query, of the membership in ``model_options``.
    reference
        The reference's cells: their labels are carried over, and ``join`` writes them beside the query.
    label_key
        ``obs`` column of the labels in ``reference``. Where the query has it too, the agreement is reported.
    space
        Where neighbours are looked for: ``latent``, the embedding as it is; ``decoder``, by what distinguishes cells in
        expression (:func:`~scmap_cli.metrics.transfer.decoder_space`); or ``discriminant``, by what of that tells the
        reference's labels apart (:func:`~scmap_cli.metrics.transfer.discriminant_space`).
    components
        Leading principal components of the reference that are looked at; 0 takes all dimensions.
    refine
        Steps that fit the position of every cell to its counts before neighbours are looked for
        (:func:`~scmap_cli.models.refine.refined_positions`); 0 takes the encoder's positions. The embedding that is
        written is the encoder's either way.
    neighbors, unknown_below
        Neighbours that vote, and the probability below which a cell is called ``unknown``.
    join
        ``.h5ad`` with reference and query together.
    plot
        Draw a UMAP of the query, and of the reference where it is given, by batch and label.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.expimap.ExpiMapConfig` (those of the loss and of added programs) and of
        :class:`~scmap_cli.config.TrainConfig` that differ from :data:`QUERY_MODEL` and :data:`QUERY_TRAIN`, or
        :data:`LEARNING_TRAIN` where programs are added.
    seed, device, resume, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.

    Returns
    -------
    dict
        Overlap, conditions, numbers trained, label agreement; for a dry run what would be done.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    model_dir, query, output, model_out = map(Path, (model_dir, query, output, model_out))
    if model_out.resolve() == model_dir.resolve():
        raise UsageError(f"--model-out is {model_dir}, the reference itself", "choose another folder")
    if batch_key is not None and one_batch is not None:
        raise UsageError("--batch-key and --one-batch contradict each other", "give one of them")
    search = LabelSearch(space, components, refine, neighbors, unknown_below)
    _check(output, join, reference, label_key, new_programs, min_overlap, missing, resume)
    check_outputs(output, join, figures=[plot], force=force)
    usual = LEARNING_TRAIN if new_programs or programs is not None else QUERY_TRAIN
    settings = build(TrainConfig, usual, train_options or {}, where="[train]")
    ranks = ranks_from_environment()
    quiet_followers(ranks)
    where = resolve_device(device, ranks.local_rank)
    parameters = {
        "batch_key": batch_key,
        "one_batch": one_batch,
        "layer": layer,
        "gene_column": gene_column,
        "min_overlap": min_overlap,
        "missing": missing,
        "new_programs": new_programs,
        "programs": programs,
        "reference": reference,
        "label_key": label_key,
        "space": space,
        "components": components,
        "refine": refine,
        "neighbors": neighbors,
        "unknown_below": unknown_below,
        "model_config": dict(model_options or {}),
        "train_config": as_dict(settings),
    }
    inputs = [path for path in (model_dir, query, programs, reference) if path is not None]
    with (
        provenance.run(
            "map-query",
            inputs=inputs,
            output=output if ranks.first and not dry_run else None,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        finished = _finished(model_out, run.record) if resume == "auto" else None
        if finished is None:
            check_target(model_out, force, resume)
        bundle = reference_model(model_dir)
        frozen = [key for key in _FROZEN if key in (model_options or {})]
        if frozen:
            raise UsageError(f"{frozen[0]} is that of the reference and cannot be changed in a mapping")
        config = build(
            ExpiMapConfig,
            bundle.config["model_config"],
            QUERY_MODEL | {"unconstrained": new_programs, "membership": "hard"},
            model_options or {},
            where="[model]",
        )
        aligned = aligned_query(bundle, query, batch_key, one_batch, layer, gene_column, min_overlap, missing)
        added = added_programs(bundle, programs, new_programs)
        # Before training, so that a wrong file or column does not cost a finished run.
        known_cells = read_reference(bundle, reference, label_key) if reference is not None else None
        known = cast(ExpiMap, restore_model(ExpiMap, bundle.config, bundle.tensors, torch.device("cpu")))
        network = extend(
            known, config, len(aligned.conditions) - aligned.n_known, mixed_seed(seed, "init"), added.mask_gk
        )
        summary = _plan(aligned, network, added)
        log.info("%s", _headline(summary))
        if dry_run:
            return summary
        training = Training(
            model_out,
            config,
            settings,
            bundle.config["batch_key"],
            seed,
            where,
            ranks,
            resume,
            force,
            missing=missing,
            history=tuple(bundle.config.get("history", ())),
        )
        if finished is None:
            summary["training"] = _train(training, network, bundle, aligned, added, run)
        else:
            log.info("%s is the model of this very run; what is left to do is embedding", model_out)
            network.load_state_dict({name: torch.from_numpy(array) for name, array in finished.tensors.items()})
            network.to(where)
        if not ranks.first:
            return summary
        names = [*bundle.categories["latent"], *added.names]
        mapped = aligned.cells
        sides = [cells for cells in (mapped, known_cells) if cells is not None]
        stores = [CsrStore(cells.counts, cells.codes).to(where) for cells in sides]
        for cells, store in zip(sides, stores, strict=True):
            cells.mean_nz, _ = embed_cells(network, store)
        adata = query_file(mapped, network.name, names)
        found = None
        if known_cells is not None and known_cells.labels is not None and label_key is not None:
            found, used = search.carry(network, model_dir, known_cells.labels, sides, stores, seed)
            run.note(label_space=used)
            # Before the labels are put there, which may be under the same name.
            summary["labels"] = agreement(found, adata.obs, label_key) | {"space": used}
            put_labels(adata, found)
            log.info("%s", label_line(summary["labels"]))
        if join is not None and known_cells is not None:
            both = joined_file(known_cells, mapped, adata, bundle.features, network.name, names)
            run.stamp(both.uns)
            write_h5ad(both, join, force=force)
        run.stamp(adata.uns)
        write_h5ad(adata, output, force=force)
        if plot is not None:
            publish(plot, force, "the map", draw_map, mapped, known_cells, found, seed)
        log.info("wrote %s: %d cells x %d programs", output, *mapped.mean_nz.shape)
    return summary


def _check(
    output: Path,
    join: Path | None,
    reference: Path | None,
    label_key: str | None,
    new_programs: int,
    min_overlap: float,
    missing: str,
    resume: str,
) -> None:
    for path in (output, join):
        if path is not None and path.suffix != ".h5ad":
            raise UsageError(f"the output {path.name} does not end in .h5ad", "name it so")
    if reference is None and (join is not None or label_key is not None):
        flag = "--join" if join is not None else "--label-key"
        raise UsageError(f"{flag} needs the cells of the reference", "give --reference ref.h5ad")
    if new_programs < 0:
        raise UsageError(f"--new-programs {new_programs} must be at least 0")
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"--min-overlap {min_overlap} is not in [0, 1]")
    if missing not in MISSING:
        raise UsageError(f"--missing is {missing!r}", f"choose one of {', '.join(MISSING)}")
    check_resume(resume)


def _finished(model_out: Path, record: dict[str, Any]) -> Bundle | None:
    """The model that this very run has published, if it was stopped between that and its other outputs."""
    if not is_bundle(model_out):
        return None
    found = load_bundle(model_out)
    return found if found.config.get("history", [None])[-1] == json.loads(json.dumps(record)) else None


def _plan(aligned: Query, network: ExpiMap, added: Added) -> dict[str, Any]:
    names, counts = np.unique(aligned.cells.conditions, return_counts=True)
    return {
        "cells": len(aligned.cells.codes),
        "genes": aligned.report,
        "conditions": {
            str(name): {"cells": int(count), "new": str(name) not in aligned.conditions[: aligned.n_known]}
            for name, count in zip(names, counts, strict=True)
        },
        "added_programs": added.names,
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained_parameters": trained_parameters(network),
    }


def _headline(plan: dict[str, Any]) -> str:
    new = sum(condition["new"] for condition in plan["conditions"].values())
    genes = plan["genes"]
    return (
        f"{plan['cells']} cells in {len(plan['conditions'])} batches, {new} of them new; "
        f"{genes['matched']} of the model's {genes['reference']} genes "
        f"({genes['share_of_reference_counts']:.1%} of the reference's counts), {genes['extra']} others left out; "
        f"{plan['trained_parameters']} of {plan['parameters']} parameters train"
    )


def _train(
    training: Training, network: ExpiMap, bundle: Bundle, aligned: Query, added: Added, run: provenance.Run
) -> dict[str, Any]:
    check_file(bundle.config, bundle.path / PROGRAMS)
    before = read_program_sizes(bundle.path)
    names = [*bundle.categories["latent"], *added.names]
    held = validation_split(aligned.cells.codes, training.settings.validation_share, training.seed)
    if not trained_parameters(network):
        log.info("the reference knows all batches and no programs are added: nothing has to be trained")
        training = dataclasses.replace(training, settings=dataclasses.replace(training.settings, epochs=1, patience=0))
    data = TrainingData(
        counts=aligned.cells.counts,
        genes=bundle.features,
        cells=aligned.cells.data.cells,
        codes=aligned.cells.codes,
        conditions=aligned.conditions,
        held=held,
        names=names,
        means=bundle.feature_means,
        source=aligned.cells.data.source,
    )

    def more(folder: Path) -> None:
        write_json(folder / OVERLAP, aligned.report)
        sizes = [*before, *added.size_before]
        write_programs(folder, network, bundle.features, names, sizes, bundle.feature_means, len(added.names))

    return training.fit(network, data, run, {"reference": bundle.config["digests"]}, more)
