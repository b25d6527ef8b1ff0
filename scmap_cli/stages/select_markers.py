"""``scmap select-markers``: k genes that tell the classes apart, or that all other genes can be rebuilt from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.io.bundle import read_config
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.keys import MARKER, MARKER_CLASS, MARKER_RANK, MARKER_SCORE
from scmap_cli.markers.base import Selection, check_data, run_selector
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.markers import marker_panels
from scmap_cli.registry import Selector, get_selector
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import plain_records
from scmap_cli.stages.marker_benchmark import marker_benchmark
from scmap_cli.stages.marker_model import MODES, PUBLISHED, published_training, read_selection
from scmap_cli.stages.marker_tables import COLUMNS
from scmap_cli.stages.marker_training import (
    check_training,
    kept_beside,
    of_settings,
    read_settings,
    train_selection,
)
from scmap_cli.stages.panel import (
    Fold,
    Panel,
    check_classes,
    check_forced,
    check_splits,
    load_panel,
    training_cells,
)
from scmap_cli.training.device import resolve_device


def select_markers(
    input: Path,
    output: Path,
    *,
    k: int | None = None,
    method: str | None = None,
    label_key: str | None = None,
    exclude_labels: Sequence[str] = (),
    mode: str | None = None,
    model: Path | None = None,
    model_out: Path | None = None,
    model_config: Path | None = None,
    prior: Path | None = None,
    costs: Path | None = None,
    as_published: bool = False,
    splits: int | None = None,
    train_cells: Path | None = None,
    force_in: Path | None = None,
    force_out: Path | None = None,
    benchmark: Path | None = None,
    k_grid: Sequence[int] = (),
    summary: Path | None = None,
    workers: int | None = None,
    raw_depth: bool = False,
    h5ad_output: Path | None = None,
    plot: Path | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Choose marker genes, or compare methods of choosing them.

    Parameters
    ----------
    input
        Raw counts.
    output
        TSV with :data:`COLUMNS`; ``-`` gives the text back under ``table``. With ``benchmark``, its table.
    k
        Number of genes, 50 by default.
    method
        Name in :data:`scmap_cli.registry.SELECTORS`, ``markermap`` by default.
    label_key, exclude_labels
        ``obs`` column of the classes, and classes whose cells are left out.
    mode
        ``supervised``, ``unsupervised`` or ``joint``: short for the three forms of the method ``markermap``.
    model
        Directory of ``train markermap``, whose markers are taken; nothing is trained.
    model_out, model_config, prior, costs
        Of the method ``markermap``: keep the model, its settings as in ``--config`` of ``train markermap`` (the
        sections ``[model]`` and ``[train]``, over which ``k`` and ``mode`` prevail), and files as in
        :func:`scmap_cli.stages.train_markermap.train_markermap`. The same settings give the same genes as ``train
        markermap``. A training that is stopped keeps its state in the model directory, without one in a hidden folder
        beside the output.
    as_published
        Run the method as the MarkerMap paper did.
    splits
        Choose anew from the training cells of each of so many splits, those of ``evaluate markers``.
    train_cells
        File with the names of the cells to choose by, one a line.
    force_in, force_out
        Files with genes that must be, or must not be, chosen.
    benchmark, k_grid, summary, workers, raw_depth
        Compare the methods of a file instead; see :func:`scmap_cli.stages.marker_benchmark.marker_benchmark`.
    h5ad_output
        Also write the input with the markers in ``var``.
    plot
        Also draw the markers by class; of a benchmark, its scores.
    layer, gene_column
        As in :func:`scmap_cli.stages.inputs.load_rna`.
    seed
        Of the splits and of the methods that draw.
    device
        Where MarkerMap is trained; the other methods run on the CPU.
    force, dry_run
        Replace outputs; check alone.

    Returns
    -------
    dict
        ``table`` (text) and, without a benchmark, ``genes`` (a list a split).

    Raises
    ------
    UsageError
        Options that make no sense together, or an unknown method.
    InputError
        The input is unfit for the method: too few genes, no labels, a class too small.
    """
    to_file = text_file(output)
    outputs = (to_file, h5ad_output, summary)
    of_model = {"--model-out": model_out, "--model-config": model_config, "--prior": prior, "--costs": costs}
    if benchmark is not None:
        given = {"--method": method, "--train-cells": train_cells, "--h5ad-output": h5ad_output}
        _refuse({**given, "--as-published": as_published or None}, "with --benchmark; methods are named in its file")
        _refuse({"--force-in": force_in, "--force-out": force_out}, "with --benchmark")
        _refuse({"--mode": mode, "--model": model, **of_model}, "with --benchmark")
        _refuse({"-k": k if k_grid else None}, "with --k-grid")
        check_outputs(*outputs, figures=[plot], force=force)
        return marker_benchmark(
            input,
            output,
            benchmark,
            label_key=label_key,
            exclude_labels=exclude_labels,
            k_grid=k_grid or (50 if k is None else k,),
            splits=3 if splits is None else splits,
            summary=summary,
            workers=workers,
            raw_depth=raw_depth,
            plot=plot,
            layer=layer,
            gene_column=gene_column,
            seed=seed,
            device=device,
            force=force,
            dry_run=dry_run,
        )
    _refuse({"--k-grid": k_grid or None, "--summary": summary, "--workers": workers}, "without --benchmark")
    _refuse({"--raw-depth": raw_depth or None}, "without --benchmark")
    if model is not None:
        given = {"--method": method, "--mode": mode, "--force-in": force_in, "--force-out": force_out, **of_model}
        _refuse({**given, "--splits": splits, "--train-cells": train_cells}, "with --model, which has its markers")
        _refuse({"-k": k, "--as-published": as_published or None}, "with --model, which has its markers")
        method, mode = "markermap", None
        trained = read_config(model)
        if trained["model"] != "markermap":
            raise UsageError(f"{model} holds a model of type {trained['model']}", "give one of train markermap")
        k = int(trained["model_config"]["k"])
    method = "markermap" if method is None else method
    get_selector(method)  # an unknown name is told before what it could not take
    if method not in MODES or splits is not None:
        _refuse(of_model, "with --splits" if method in MODES else f"for the method {method}")
    if as_published:
        _refuse({"--model-config": model_config}, "with --as-published, which has settings of its own")
    told = read_settings(model_config)
    method, k = of_settings(method, k, mode, told["model"], model_config)
    spec = get_selector(method)
    trains = method in MODES and splits is None and model is None
    if spec.on_device:
        resolve_device(device)
    elif device not in ("auto", "cpu"):
        log.info("%s runs on the CPU", method)
    if k < 1:
        raise UsageError(f"-k must be at least 1, not {k}")
    if splits is not None:
        check_splits(splits)
        given = {"--train-cells": train_cells, "--h5ad-output": h5ad_output, "--plot": plot}
        _refuse(given, "with --splits; every split has its own genes")
    if plot is not None and label_key is None:
        raise UsageError("--plot draws the markers by class", "name the classes' column with --label-key")
    check_outputs(*outputs, figures=[plot], force=force)
    panel = load_panel(input, label_key=label_key, exclude_labels=exclude_labels, layer=layer, gene_column=gene_column)
    if splits is not None:
        check_classes(panel)
    forced = {
        "forced_in": panel.listed(force_in, "--force-in"),
        "forced_out": panel.listed(force_out, "--force-out"),
    }
    check_forced(panel, k, **forced)
    if h5ad_output is not None:
        _check_genes(panel)
    chosen = training_cells(panel, train_cells)
    spec.load()
    settings: dict[str, Any] = {
        **{"label_key": label_key, "exclude_labels": exclude_labels, "train_cells": train_cells},
        **{"prior": prior, "costs": costs, "force_in": force_in, "force_out": force_out},
        **{"layer": layer, "gene_column": gene_column, "seed": seed, "device": device},
        "model_options": told["model"] | {"k": k, "mode": MODES.get(method)} | (PUBLISHED if as_published else {}),
        "train_options": told["train"] | (published_training(MODES.get(method, "")) if as_published else {}),
    }
    if dry_run:
        if trains:
            check_training(panel, model_out, force, settings)
        elif model is not None:
            read_selection(model, panel)
        else:
            check_data(spec, panel.data(chosen), k, len(panel.genes) - len(forced["forced_out"]))
        log.info("would choose %d of %d genes by %s from %d cells", k, len(panel.genes), method, int(chosen.sum()))
        return {"table": "", "genes": []}
    parameters = plain_records(
        {
            **{"k": k, "method": method, "label_key": label_key, "exclude_labels": list(exclude_labels)},
            **{"as_published": as_published, "splits": splits, "train_cells": train_cells, "model": model},
            **{name[2:].replace("-", "_"): value for name, value in of_model.items() if name != "--model-out"},
            **{"force_in": force_in, "force_out": force_out, "layer": layer, "gene_column": gene_column},
        }
    )
    kept = kept_beside(to_file or h5ad_output or plot)
    files = (input, model, train_cells, force_in, force_out, model_config, prior, costs)
    read = [path for path in files if path is not None]
    with provenance.run("select-markers", inputs=read, output=to_file, parameters=parameters, seed=seed) as run:
        folds = [None] if splits is None else [Fold(panel, number, seed) for number in range(splits)]
        if model is not None:
            found = [read_selection(model, panel)]
        elif trains:
            found = [train_selection(panel, model_out, kept, force, settings)]
        else:
            found = [_choose(spec, panel, fold, chosen, k, seed, as_published, device, forced) for fold in folds]
        table = _table(panel, found, None if splits is None else seed)
        if to_file is not None:
            write_text(to_file, table, force)
        if h5ad_output is not None:
            _write_h5ad(panel, found[0], run, h5ad_output, force)
        if plot is not None:
            data = panel.data(chosen)
            publish(plot, force, "the markers", marker_panels, data, found[0].genes, panel.genes[found[0].genes])
        if trains and kept is not None:
            shutil.rmtree(kept, ignore_errors=True)
    log.info("%s: %s", method, ", ".join(panel.genes[found[0].genes[:8]]) + (", ..." if k > 8 else ""))
    return {"table": table, "genes": [panel.genes[one.genes].tolist() for one in found]}


def _refuse(options: dict[str, Any], when: str) -> None:
    """Refuse options that say nothing here; those that are None were not given."""
    for flag, value in options.items():
        if value is not None:
            raise UsageError(f"{flag} says nothing {when}")


def _choose(
    spec: Selector,
    panel: Panel,
    fold: Fold | None,
    cells: np.ndarray,
    k: int,
    seed: int,
    as_published: bool,
    device: str,
    forced: dict[str, np.ndarray],
) -> Selection:
    data, seed = (panel.data(cells), seed) if fold is None else (fold.data(), fold.seed)
    return run_selector(spec, data, k, seed=seed, as_published=as_published, device=device, **forced)


def _table(panel: Panel, found: Sequence[Selection], seed: int | None) -> str:
    front = () if seed is None else ("split", "seed")
    lines = ["\t".join((*front, *COLUMNS))]
    for number, one in enumerate(found):
        classes = one.classes or ("",) * len(one.genes)
        start = "" if seed is None else f"{number}\t{seed}\t"
        lines += [
            f"{start}{rank}\t{panel.genes[gene]}\t{score:.6g}\t{name}"
            for rank, (gene, score, name) in enumerate(zip(one.genes, one.scores, classes, strict=True), 1)
        ]
    return "\n".join(lines) + "\n"


def _check_genes(panel: Panel) -> None:
    """Refuse counts, as of raw, whose genes are not all in ``var``: it could not hold what is chosen."""
    alone = panel.genes[~np.isin(panel.genes, panel.source.adata.var_names.to_numpy().astype(str))]
    if len(alone):
        raise InputError(
            f"{panel.path}: {len(alone)} genes of {panel.source.source} are not in var, such as {str(alone[0])!r}, "
            "so that --h5ad-output could not hold them as markers",
            "choose from other counts by --layer, or leave --h5ad-output out",
        )


def _write_h5ad(panel: Panel, found: Selection, run: provenance.Run, path: Path, force: bool) -> None:
    """The input as it was read, with the markers in ``var``."""
    adata = panel.source.adata
    table = pd.DataFrame(index=pd.Index(panel.genes))
    table[MARKER], table[MARKER_RANK], table[MARKER_SCORE] = False, 0, np.nan
    names = panel.genes[found.genes]
    table.loc[names, MARKER] = True
    table.loc[names, MARKER_RANK] = np.arange(1, len(names) + 1)
    table.loc[names, MARKER_SCORE] = found.scores
    if found.classes is not None:
        table[MARKER_CLASS] = ""
        table.loc[names, MARKER_CLASS] = list(found.classes)
    # Counts may come from raw, and var hold genes that raw does not.
    aligned = table.reindex(adata.var_names)
    absent = aligned[MARKER].isna()
    aligned.loc[absent, [MARKER, MARKER_RANK]] = False, 0
    aligned = aligned.astype({MARKER: bool, MARKER_RANK: np.int64})
    if MARKER_CLASS in aligned:
        aligned[MARKER_CLASS] = aligned[MARKER_CLASS].fillna("")
    for name in aligned:
        adata.var[name] = aligned[name].to_numpy()
    run.stamp(adata.uns)
    write_h5ad(adata, path, force=force)
