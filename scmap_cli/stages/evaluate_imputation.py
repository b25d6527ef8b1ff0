"""``scmap evaluate imputation``: Dice scores of imputed accessibility against bulk profiles, beside the raw data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmap_cli.data.matrices import find_counts, row_chunks
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.io.h5ad import is_sparse, read_h5ad
from scmap_cli.io.npz import array_shapes, read_npz, stream_rows
from scmap_cli.io.text import read_text_matrix
from scmap_cli.keys import BULK_OPEN
from scmap_cli.metrics.imputation import Blocks, best_threshold, dice_imputed, dice_raw, means_by_profile
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import dice_panels
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import text_column
from scmap_cli.stages.scores import render

# Values of one block: 16 MB in float32.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Imputed:
    """Values of a file that are read a block of cells at a time, with its cells and features.

    ``withheld`` is what it says of the entries that were hidden from it, None if it says nothing.
    """

    path: Path
    cells: np.ndarray
    features: np.ndarray
    array: str | None
    withheld: dict[str, Any] | None = None

    def blocks(self) -> Iterator[np.ndarray]:
        """(rows, P) numbers."""
        rows = max(1, _BLOCK // max(len(self.features), 1))
        for block in self._h5ad_blocks(rows) if self.array is None else stream_rows(self.path, self.array, rows):
            if not np.isfinite(block).all():
                raise InputError(f"{self.path}: {int((~np.isfinite(block)).sum())} imputed values are not finite")
            yield block

    def _h5ad_blocks(self, rows: int) -> Iterator[np.ndarray]:
        adata = read_h5ad(self.path, backed=True, unique=False)
        try:
            for start in range(0, adata.n_obs, rows):
                block = adata.X[start : start + rows]
                yield block.toarray() if is_sparse(block) else np.asarray(block)
        finally:
            adata.file.close()


@dataclass(frozen=True)
class _Truth:
    """Raw counts (n, P) with the type of each cell (-1 without a profile) and the profiles (T, P)."""

    raw: sparse.csr_matrix
    cells: pd.Index
    peaks: pd.Index
    type_n: np.ndarray
    types: tuple[str, ...]
    open_tp: np.ndarray
    source: str


def evaluate_imputation(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    raw: Path | str,
    label_key: str,
    truth: Path | str | None = None,
    open_above: float = 0.0,
    layer: str | None = None,
    thresholds: Sequence[float] = (0.5,),
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Score imputed accessibility, see :mod:`scmap_cli.metrics.imputation`.

    Parameters
    ----------
    inputs
        Imputed values, cells x peaks: h5ad (``X``) or npz (array ``imputed``, or the only table in it; ``cells`` and
        ``features`` name its rows and columns, without them they are those of ``raw``). Read a block at a time.
    output
        JSON file; ``-`` writes none, and the caller prints :func:`scmap_cli.stages.scores.render` of the result.
    raw
        h5ad of the raw counts, with the labels.
    label_key
        ``obs`` column of ``raw`` with the types; cells of a type without a profile are left out and counted.
    truth
        Table of bulk signal, peaks x types, TSV or CSV; by default ``varm["scmap_bulk_open"]`` of ``raw``, which
        ``scmap simulate atac`` writes.
    open_above
        A peak of ``truth`` is open where its signal is above this.
    layer
        Where the raw counts are.
    thresholds
        Imputed values above these are open.
    plot
        Draw the scores.
    seed
        Kept in the record; nothing here is random.
    force, dry_run
        Replace an existing output; check inputs and options, compute and write nothing.

    Returns
    -------
    dict
        ``settings`` and one entry an input in ``results``: under ``dice``, for each rule, the mean over cells, by type
        and of the types. ``raw`` is the binary raw data, ``soft`` takes the values as they are, ``> X`` are the
        thresholds, ``cell`` takes those above the cell's mean imputed value, ``scale`` is SCALE's rule, ``best`` the
        one threshold with the highest F1 of all entries.

    Raises
    ------
    InputError
        Cells, peaks, labels or profiles do not fit each other, or values are not finite.
    UsageError
        Options that make no sense.
    """
    if not inputs:
        raise UsageError("no input was given")
    thresholds = tuple(float(value) for value in thresholds)
    if not all(np.isfinite(value) for value in thresholds):
        raise UsageError(f"--thresholds must be numbers, not {list(thresholds)}")
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    known = _truth(Path(raw), label_key, truth, open_above, layer)
    settings: dict[str, Any] = {
        "label_key": label_key,
        "profiles": known.source,
        "open_above": open_above if truth is not None else None,
        "thresholds": list(thresholds),
        "score": "Dice by cell: 2 TP / (2 TP + FP + FN); soft: 2 sum(b x) / (sum b + sum x)",
        "cell": "above the mean of the cell's imputed values",
        "scale": "above the peak's mean and the cell's mean of the binary raw data",
        "best": "one threshold of highest F1 over all entries; looks at the truth",
        "seed": seed,
    }
    loaded = [open_imputed(Path(path), known.cells, known.peaks, "peaks") for path in inputs]
    result: dict[str, Any] = {"what": "imputation", "settings": settings, "results": []}
    if dry_run:
        for one in loaded:
            log.info("would score %s: %d cells x %d peaks", one.path, len(one.cells), len(one.features))
        return result
    read = [*inputs, raw, *([] if truth is None else [truth])]
    with provenance.run("evaluate imputation", inputs=read, output=to_file, parameters=settings, seed=seed) as run:
        for one in loaded:
            entry = _score(one, known, thresholds)
            log.info("%s", _line(entry))
            result["results"].append(entry)
        result["history"] = [run.record]
        if to_file is not None:
            write_text(to_file, render(result), force)
        if plot is not None:
            publish(plot, force, "the Dice scores", dice_panels, result["results"])
    return result


def _truth(raw: Path, label_key: str, truth: Path | str | None, open_above: float, layer: str | None) -> _Truth:
    adata = read_h5ad(raw)
    counts = find_counts(adata, layer)
    labels = text_column(adata.obs, label_key, raw)
    peaks = pd.Index(counts.var_names)
    open_pt, types, source = _profiles(adata, raw, peaks, truth, open_above)
    position = {name: t for t, name in enumerate(types)}
    type_n = np.array([position.get(label, -1) for label in labels.tolist()], dtype=np.int64)
    if not (type_n >= 0).any():
        raise InputError(
            f"no label in {label_key!r} names a profile (labels such as {', '.join(sorted(set(labels.tolist()))[:4])})",
            f"profiles: {', '.join(types)}",
        )
    return _Truth(counts.matrix, adata.obs_names, peaks, type_n, types, np.ascontiguousarray(open_pt.T), source)


def _profiles(
    adata: AnnData, raw: Path, peaks: pd.Index, truth: Path | str | None, open_above: float
) -> tuple[np.ndarray, tuple[str, ...], str]:
    """(P, T) bool profiles in the order of ``peaks``, the names of the types, and where they are from."""
    if truth is None:
        table = adata.varm.get(BULK_OPEN)
        if not isinstance(table, pd.DataFrame):
            raise InputError(f"{raw} has no profiles in varm[{BULK_OPEN!r}]", "give a table of them with --truth")
        if len(table) != len(peaks):
            raise InputError(f"{raw}: the profiles have {len(table)} peaks, the counts {len(peaks)}")
        return table.to_numpy() > 0, tuple(str(name) for name in table.columns), f"varm[{BULK_OPEN!r}]"
    read = read_text_matrix(truth)
    place = pd.Index(read.obs_names).get_indexer(peaks)
    if (place < 0).any():
        first = peaks[int(np.argmax(place < 0))]
        raise InputError(f"{truth} lacks {int((place < 0).sum())} of {len(peaks)} peaks, such as {first!r}")
    return read.X.toarray()[place] > open_above, tuple(map(str, read.var_names)), Path(truth).name


def open_imputed(path: Path, known_cells: pd.Index, known_features: pd.Index, what: str) -> Imputed:
    """An imputed file, once its cells and features (``what`` they are called) are known to be among the raw data's.

    Raises
    ------
    InputError
        It has no table, its names do not fit it, or some are not in the raw data or are repeated.
    """
    array, record = None, None
    if path.suffix == ".npz":
        shapes = array_shapes(path)
        tables = [name for name, shape in shapes.items() if len(shape) == 2]
        array = "imputed" if "imputed" in tables else tables[0] if len(tables) == 1 else None
        if array is None:
            raise InputError(f"{path} has no array 'imputed'", f"tables in it: {', '.join(tables) or 'none'}")
        header, others = read_npz(path, foreign=True, leave=array)
        record = header.get("withheld")
        cells = others.get("cells", known_cells.to_numpy()).astype(str)
        features = others.get("features", known_features.to_numpy()).astype(str)
        if shapes[array] != (len(cells), len(features)):
            raise InputError(
                f"{path}: {array!r} is {shapes[array]}, but there are {len(cells)} x {len(features)} names"
            )
    else:
        adata = read_h5ad(path, backed=True, unique=False)
        cells, features = adata.obs_names.to_numpy().astype(str), adata.var_names.to_numpy().astype(str)
        empty, record = adata.X is None, provenance.read_withheld(adata.uns)
        adata.file.close()
        if empty:
            raise InputError(f"{path} has no X")
    for kind, names, wanted in (("cells", cells, known_cells), (what, features, known_features)):
        strange = ~np.isin(names, wanted.to_numpy().astype(str))
        if strange.any():
            raise InputError(
                f"{path} has {int(strange.sum())} {kind} that the raw data lacks, such as {str(names[strange][0])!r}",
                "give the raw data that was imputed with --raw",
            )
        if len(np.unique(names)) < len(names):
            raise InputError(f"{path} names {kind} more than once")
    return Imputed(path, cells, features, array, record if isinstance(record, dict) else None)


def _score(one: Imputed, known: _Truth, thresholds: Sequence[float]) -> dict[str, Any]:
    cell_n, peak_p = known.cells.get_indexer(pd.Index(one.cells)), known.peaks.get_indexer(pd.Index(one.features))
    type_n = known.type_n[cell_n]
    kept = type_n >= 0
    if not kept.any():
        raise InputError(f"no cell of {one.path} has a type with a profile")
    open_tp = np.ascontiguousarray(known.open_tp[:, peak_p])
    binary = sparse.csr_matrix(
        (np.ones(known.raw.nnz, dtype=np.float32), known.raw.indices, known.raw.indptr), shape=known.raw.shape
    )
    averages = (
        np.asarray(binary.mean(axis=0, dtype=np.float64)).ravel()[peak_p],
        np.asarray(binary.mean(axis=1, dtype=np.float64)).ravel()[cell_n[kept]],
    )

    def blocks() -> Iterator[np.ndarray]:
        start = 0
        for block in one.blocks():
            part = kept[start : start + len(block)]
            start += len(block)
            yield block if part.all() else block[part]

    raw = binary[cell_n[kept]][:, peak_p]
    type_n = type_n[kept]
    best, f1 = best_threshold(blocks, open_tp, type_n)
    scores = {"raw": dice_raw(raw, open_tp, type_n)}
    scores |= dice_imputed(blocks, open_tp, type_n, thresholds=thresholds, best=best, means=averages)
    present, rows = np.unique(type_n), max(1, _BLOCK // max(len(one.features), 1))
    views: dict[str, Blocks] = {"raw": lambda: (part.toarray() for _, part in row_chunks(raw, rows)), "imputed": blocks}
    means = {name: means_by_profile(view, open_tp, type_n)[np.ix_(present, present)] for name, view in views.items()}
    return {
        "file": one.path.name,
        "cells": int(kept.sum()),
        "cells_left_out": len(known.cells) - int(kept.sum()),
        "peaks": len(one.features),
        "dice": {rule: _summary(values, type_n, known.types) for rule, values in scores.items()},
        "by_profile": {
            "types": [known.types[t] for t in present.tolist()],
            **{
                name: [[None if np.isnan(x) else float(x) for x in row] for row in table]
                for name, table in means.items()
            },
        },
        "best_threshold": best,
        "best_f1": f1,
    }


def _summary(dice_n: np.ndarray, type_n: np.ndarray, types: Sequence[str]) -> dict[str, Any]:
    by_type = {types[t]: float(dice_n[type_n == t].mean()) for t in np.unique(type_n).tolist()}
    return {"mean": float(dice_n.mean()), "mean_of_types": float(np.mean(list(by_type.values()))), "by_type": by_type}


def _line(entry: dict[str, Any]) -> str:
    scores = ", ".join(f"{rule} {found['mean']:.3f}" for rule, found in entry["dice"].items())
    size = f"{entry['cells']} cells x {entry['peaks']} peaks"
    return f"{entry['file']}: {size}, Dice {scores} (threshold {entry['best_threshold']:.3g})"
