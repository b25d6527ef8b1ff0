"""``scmap evaluate imputation --withhold``: expression values that were hidden, beside plain baselines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli.data.features import align, apply
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import atomic_file, check_outputs, text_file, write_text
from scmap_cli.io.bundle import is_bundle, load_bundle, read_features
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.text import read_names
from scmap_cli.keys import WITHHELD_LAYER, WITHHELD_RECORD
from scmap_cli.metrics.withheld import by_gene, digest, scores, withhold
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.evaluate_imputation import open_imputed
from scmap_cli.stages.inputs import RnaInput, load_rna
from scmap_cli.stages.scores import check_sources, render
from scmap_cli.stages.withheld_baselines import BASELINES, USUAL, Hidden, baseline
from scmap_cli.training.asked import check_told, impute_entries
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import restore_model


def evaluate_withheld(
    inputs: Sequence[Path | str] = (),
    output: Path | str = "-",
    *,
    raw: Path | str,
    withhold_share: float,
    features: Path | None = None,
    fit_on: Path | None = None,
    baselines: Sequence[str] = (),
    observed_output: Path | None = None,
    genes_output: Path | None = None,
    layer: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Hide a share of the expressed entries and score how well they are predicted, see :mod:`..metrics.withheld`.

    Every method is given all that is left of a cell, whichever genes are scored. Files are scored if what they say of
    the entries that were hidden from them agrees; of files that say nothing a warning tells.

    Parameters
    ----------
    inputs
        Model directories, which are run here on what is left; or h5ad or npz files of values (log1p CP10k) that a
        method has made of ``observed_output`` of a call with the same raw data, share and seed.
    output
        JSON file; ``-`` writes none.
    raw
        Counts of the test cells.
    withhold_share
        Share of each cell's expressed entries that is hidden.
    features
        Genes that are scored: names, one a line, or a model directory; by default all. Of these, those that the raw
        data, all model directories and ``fit_on`` have.
    fit_on
        Counts of other cells, by which the baselines learn their gene effects (zero-shot), from as much of these cells
        as is left of the test cells; by default they learn from what is left of the test cells themselves.
    baselines
        Of :data:`BASELINES`; by default the gene's mean and the additive model.
    observed_output
        Also write what is left, for other methods: h5ad of counts, with the hidden entries marked in a layer.
    genes_output
        Also write entries, MAE and Pearson of every gene as TSV; inputs are told apart by their names.
    layer, batch_size, seed, device, force, dry_run
        As elsewhere.

    Returns
    -------
    dict
        ``settings`` and one entry a method in ``results``; ``entries_checked`` of a file tells whether it named the
        entries.

    Raises
    ------
    UsageError, InputError
        With exit codes 2 and 3.
    """
    raw = Path(raw)
    paths = [Path(path) for path in inputs]
    baselines = tuple(baselines) or USUAL
    strange = [name for name in baselines if name not in BASELINES]
    if strange:
        raise UsageError(f"unknown baseline {strange[0]!r}", f"choose of {', '.join(BASELINES)}")
    if not 0 < withhold_share < 1:
        raise UsageError(f"--withhold {withhold_share} is not in (0, 1)")
    if fit_on is not None and "magic" in baselines:
        raise UsageError("magic learns from the test cells alone", "leave it out with --fit-on")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    if genes_output is not None:
        check_sources([*baselines, *(path.name for path in paths)])
    to_file = text_file(output)
    check_outputs(to_file, observed_output, genes_output, force=force)
    settings: dict[str, Any] = {
        "withheld": withhold_share,
        "unit": "log1p of counts per 10,000 observed counts",
        "within_gene_pearson": "mean over the 300 genes with most withheld entries",
        "baselines_fitted_on": "observed entries of the test cells" if fit_on is None else Path(fit_on).name,
        "seed": seed,
    }
    read = [raw, *paths, *(path for path in (features, fit_on) if path is not None)]
    with (
        provenance.run(
            "evaluate imputation",
            inputs=read,
            output=None if dry_run else to_file,
            parameters=settings | {"baselines": list(baselines), "layer": layer},
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        other = None if fit_on is None else load_rna(fit_on, layer)
        test = _hide(raw, paths, features, other, layer, withhold_share, seed)
        hidden, scored = int(test.split.hidden_m.sum()), int(test.scored_m.sum())
        record = {
            "share": withhold_share,
            "seed": seed,
            "entries": digest(test.counts, test.split, test.cells.to_numpy(), test.genes.to_numpy()),
        }
        settings |= {
            "cells": len(test.cells),
            "genes": int(test.known_g.sum()),
            "entries": scored,
            "entries_digest": record["entries"],
        }
        log.info(
            "%d of %d entries withheld, %d cells x %d genes; %d of them in the %d genes that are scored",
            hidden, test.counts.nnz, *test.counts.shape, scored, settings["genes"],
        )  # fmt: skip
        result: dict[str, Any] = {"what": "imputation", "settings": settings, "results": []}
        if dry_run:
            return result
        truth_q, gene_q = test.split.value_m[test.scored_m], test.split.gene_m[test.scored_m]
        tables: dict[str, np.ndarray] = {}
        methods: list[tuple[str, Callable[[], tuple[np.ndarray, dict[str, Any]]]]] = [
            *((name, lambda name=name: (baseline(name, test, other, withhold_share, seed), {})) for name in baselines),
            *((path.name, lambda path=path: _of_input(path, test, record, device, batch_size)) for path in paths),
        ]
        for name, predict in methods:
            predicted_q, told = predict()
            entry = {"method": name, **scores(predicted_q, truth_q, gene_q), **told}
            log.info(
                "%s: MAE %.4f, Pearson %.4f, within genes %.4f",
                name, entry["mae"], entry["pearson"], entry["within_gene_pearson"],
            )  # fmt: skip
            result["results"].append(entry)
            tables[name] = predicted_q
        result["history"] = [run.record]
        if observed_output is not None:
            _write_observed(test, record, observed_output, run, force)
        if genes_output is not None:
            _write_genes(test, tables, truth_q, gene_q, genes_output, force)
        if to_file is not None:
            write_text(to_file, render(result), force)
    return result


def _hide(
    raw: Path,
    paths: Sequence[Path],
    features: Path | None,
    other: RnaInput | None,
    layer: str | None,
    share: float,
    seed: int,
) -> Hidden:
    data = load_rna(raw, layer)
    lists = [read_features(path)[0] for path in paths if is_bundle(path)]
    if features is not None:
        lists.append(read_features(features)[0] if features.is_dir() else np.array(read_names(features), dtype=str))
    if other is not None:
        lists.append(other.genes)
    known_g = np.ones(len(data.genes), dtype=bool)
    for names in lists:
        known_g &= align(names, data.genes).index >= 0
    if known_g.sum() < 2:
        raise InputError(f"{raw} and the inputs have {int(known_g.sum())} genes in common", "name genes alike")
    split = withhold(data.counts, share, seed, data.cells, data.genes)
    made = Hidden(data.counts, pd.Index(data.cells), pd.Index(data.genes), known_g, split)
    if not made.scored_m.any():
        raise InputError(f"no entry of {raw} could be withheld", "give more cells, or a larger --withhold")
    return made


def _of_input(
    path: Path, test: Hidden, record: dict[str, Any], device: str, batch_size: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """(q,) predictions for the entries that are scored, in their order, and what else to say of the input."""
    if is_bundle(path):
        return _of_model(path, test, device, batch_size), {}
    one = open_imputed(path, test.cells, test.genes, "genes")
    if one.withheld is None:
        log.warning("%s does not say which entries were hidden from it; it is scored as if they were these", path)
    elif one.withheld.get("entries") != record["entries"]:
        raise InputError(
            f"{path} was made of counts without other entries (share {one.withheld.get('share')}, seed "
            f"{one.withheld.get('seed')}) than those withheld here (share {record['share']}, seed {record['seed']})",
            "give the --raw, --withhold and --seed of the call that wrote the observed counts",
        )
    cell_n, gene_g = pd.Index(one.cells).get_indexer(test.cells), pd.Index(one.features).get_indexer(test.genes)
    missing = int((cell_n < 0).sum()), int((gene_g[test.known_g] < 0).sum())
    if any(missing):
        raise InputError(f"{path} lacks {missing[0]} cells and {missing[1]} genes that are scored", "see --features")
    row_q, column_q = cell_n[test.split.cell_m[test.scored_m]], gene_g[test.split.gene_m[test.scored_m]]
    found_q, start = np.zeros(len(row_q)), 0
    for block in one.blocks():
        inside = (row_q >= start) & (row_q < start + len(block))
        found_q[inside] = block[row_q[inside] - start, column_q[inside]]
        start += len(block)
    return found_q, {"entries_checked": one.withheld is not None}


def _of_model(path: Path, test: Hidden, device: str, batch_size: int) -> np.ndarray:
    bundle = load_bundle(path)
    if bundle.config["model"] != "expresser":
        raise UsageError(f"{path} holds a model of type {bundle.config['model']}, which gives no withheld values")
    where = resolve_device(device)
    model = restore_model(get_model(bundle.config["model"]).load(), bundle.config, bundle.tensors, where)
    alignment = align(test.genes.to_numpy(), bundle.features)
    counts, asked = apply(test.observed, alignment), apply(test.withheld(), alignment)
    check_told(counts)
    predicted = impute_entries(model, counts, asked, test.split.total_n, where, batch_size)
    found_m = np.zeros(test.counts.nnz)
    found_m[asked.data - 1] = predicted.data
    return found_m[test.scored_m]


def _write_observed(test: Hidden, record: dict[str, Any], path: Path, run: provenance.Run, force: bool) -> None:
    marked = test.withheld(np.ones(test.counts.nnz, dtype=np.int8))
    frame = AnnData(
        test.observed,
        obs=pd.DataFrame(index=test.cells.astype(object)),
        var=pd.DataFrame(index=test.genes.astype(object)),
        layers={WITHHELD_LAYER: marked},
        uns={WITHHELD_RECORD: json.dumps(record, sort_keys=True)},
    )
    run.stamp(frame.uns)
    write_h5ad(frame, path, force=force)


def _write_genes(
    test: Hidden, tables: dict[str, np.ndarray], truth_q: np.ndarray, gene_q: np.ndarray, path: Path, force: bool
) -> None:
    columns: dict[str, Any] = {"gene": test.genes.to_numpy().astype(str)}
    for name, predicted_q in tables.items():
        count_g, mae_g, pearson_g = by_gene(predicted_q, truth_q, gene_q, len(test.genes))
        columns |= {"entries": count_g, f"mae_{name}": mae_g, f"pearson_{name}": pearson_g}
    table = pd.DataFrame(columns)
    with atomic_file(path, force) as tmp:
        table[table["entries"] > 0].to_csv(tmp, sep="\t", index=False, float_format="%.5g")
