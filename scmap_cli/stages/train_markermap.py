"""``scmap train markermap``: read counts and labels, train the model, publish its directory with the markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.config import TrainConfig, build
from scmap_cli.data.matrices import column_means
from scmap_cli.data.splits import validation_split
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import MARKERS, write_table
from scmap_cli.io.text import read_numbers
from scmap_cli.markers.base import MarkerData, check_data
from scmap_cli.models.markermap import MarkerMap, MarkerMapConfig
from scmap_cli.registry import get_selector
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import SINGLE, plain_records
from scmap_cli.stages.marker_model import DEFAULTS, make_network, selection, usual_batch
from scmap_cli.stages.marker_tables import COLUMNS
from scmap_cli.stages.model_dir import Training, TrainingData
from scmap_cli.stages.panel import Panel, check_forced, load_panel, training_cells
from scmap_cli.stages.training_run import training_run


def train_markermap(
    input: Path,
    output: Path,
    *,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    train_cells: Path | None = None,
    prior: Path | None = None,
    costs: Path | None = None,
    force_in: Path | None = None,
    force_out: Path | None = None,
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
    """Train MarkerMap and write the model directory, which holds the markers in ``markers.tsv``.

    Parameters
    ----------
    input
        Raw counts: h5ad or another form that ``train expimap`` reads.
    output
        The model directory. While training it holds ``checkpoints/`` alone.
    label_key, exclude_labels
        ``obs`` column of the labels, and labels whose cells are left out. Cells without a label are left out, too.
    train_cells
        File with the names of the cells to train and validate on, one a line.
    prior
        TSV ``gene<TAB>score``: genes with larger scores start ahead; scores are scaled to mean 0 and deviation 1 over
        all genes, those not listed at the lowest score of the file.
    costs
        TSV ``gene<TAB>cost``: what choosing a gene costs, 0 where not listed.
    force_in, force_out
        Files of genes that must be, or must not be, markers, one a line.
    layer, gene_column
        Where the counts and gene names are, when not in the usual places.
    model_options, train_options
        Fields of :class:`~scmap_cli.models.markermap.MarkerMapConfig` and :class:`~scmap_cli.config.TrainConfig` that
        differ from the defaults.
    seed, device, resume, metrics, force, dry_run
        As :func:`scmap_cli.stages.train_expimap.train_expimap`.

    Returns
    -------
    dict
        The contents of ``metrics.json`` with ``genes_chosen``, the markers; for a dry run the plan.

    Raises
    ------
    UsageError, OutputExistsError, InputError, DeviceError, DivergedError, StoppedError, WriteError
        With their exit codes 2, 2, 3, 5, 4, 75 and 6.
    """
    input, output = Path(input), Path(output)
    settings = build(TrainConfig, DEFAULTS, train_options or {}, where="[train]")
    config = build(MarkerMapConfig, model_options or {}, where="[model]")
    if config.mode != "unsupervised" and label_key is None:
        raise UsageError(f"the {config.mode} mode needs labels", "name their column by --label-key")
    files = {"prior": prior, "costs": costs, "force_in": force_in, "force_out": force_out, "train_cells": train_cells}
    parameters = {
        "label_key": label_key,
        "exclude_labels": list(exclude_labels or ()),
        **files,
        "layer": layer,
        "gene_column": gene_column,
    }
    with training_run(
        MarkerMap.name, output, config, settings, inputs=[input, *files.values()], parameters=parameters,
        batch_key=None, seed=seed, device=device, resume=resume, metrics=metrics, force=force, dry_run=dry_run,
        one_process=True,
    ) as (training, run):  # fmt: skip
        panel = load_panel(
            input, label_key=label_key, exclude_labels=exclude_labels or (), layer=layer, gene_column=gene_column
        )
        cells = training_cells(panel, train_cells)
        data = panel.data(cells)
        forced = {
            "forced_in": panel.listed(force_in, "--force-in"),
            "forced_out": panel.listed(force_out, "--force-out"),
        }
        check_forced(panel, config.k, **forced)
        spec = get_selector("markermap-unsupervised" if config.mode == "unsupervised" else "markermap")
        check_data(spec, data, config.k, data.n_genes - len(forced["forced_out"]))
        held = validation_split(data.strata, settings.validation_share, seed)
        if "batch_size" not in (train_options or {}):
            settings = replace(settings, batch_size=usual_batch(int((~held).sum())))
            training = replace(training, settings=settings)
        plan = _plan(data, held, training)
        log.info(
            "%d cells (%d for validation) x %d genes, %d labels, %d %s markers, up to %d epochs on %s",
            plan["cells"], plan["validation_cells"], plan["genes"], len(plan["labels"]), config.k, config.mode,
            settings.epochs, training.device,
        )  # fmt: skip
        if dry_run:
            return plan
        network = make_network(
            data,
            held,
            config,
            seed,
            prior_g=None if prior is None else _prior(panel, prior),
            cost_g=None if costs is None else _numbers(panel, costs, "--costs", 0.0),
            **forced,
        )
        job = TrainingData(
            counts=data.counts,
            genes=panel.genes,
            cells=panel.source.cells[panel.kept][cells],
            codes=data.strata,
            conditions=list(data.classes) or [SINGLE],
            held=held,
            names=[f"z{i + 1}" for i in range(config.latent)],
            means=column_means(data.counts),
            source=panel.source.source,
            described={"label_key": label_key},
        )
        genes = panel.genes
        # What else was read is let go of before the training.
        del panel

        def markers_too(folder: Path) -> None:
            found = selection(network, data)
            rows = zip(genes[found.genes], found.scores, found.classes or [""] * config.k, strict=True)
            lines = [(rank, gene, f"{score:.6g}", name) for rank, (gene, score, name) in enumerate(rows, 1)]
            write_table(folder / MARKERS, COLUMNS, lines)

        summary = training.fit(network, job, run, plain_records(files), markers_too)
    return summary | {"genes_chosen": genes[selection(network, data).genes].tolist()}


def _numbers(panel: Panel, path: Path, flag: str, rest: float) -> np.ndarray:
    """(g,) float32 numbers of genes by name, ``rest`` where the file has none."""
    listed = read_numbers(path)
    values = np.full(len(panel.genes), rest, dtype=np.float32)
    values[panel.columns(list(listed), flag)] = list(listed.values())
    return values


def _prior(panel: Panel, path: Path) -> np.ndarray:
    """(g,) float32 scores of mean 0 and deviation 1; genes that are not listed have the lowest of the file."""
    scores = _numbers(panel, path, "--prior", np.nan)
    scores = np.where(np.isnan(scores), np.nanmin(scores), scores)
    spread = float(scores.std())
    if not spread > 0:
        raise InputError(
            f"{path}: all genes have the score {scores[0]:g}, those not listed too: the lowest",
            "give higher scores to the genes that are to start ahead",
        )
    scaled: np.ndarray = (scores - scores.mean()) / spread
    return scaled.astype(np.float32)


def _plan(data: MarkerData, held: np.ndarray, training: Training) -> dict[str, Any]:
    return {
        "cells": len(held),
        "genes": data.n_genes,
        "labels": list(data.classes),
        "markers": training.config.k,
        "mode": training.config.mode,
        "validation_cells": int(held.sum()),
        "epochs": training.settings.epochs,
        "batch_size": training.settings.batch_size,
        "device": str(training.device),
    }
