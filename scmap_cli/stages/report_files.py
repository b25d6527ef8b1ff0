"""Parts of a report about tables of cells and model directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli import keys
from scmap_cli.errors import InputError
from scmap_cli.io import bundle as files
from scmap_cli.io.columns import UNKNOWN, column_text
from scmap_cli.io.h5ad import read_h5ad
from scmap_cli.io.text import read_json, read_table
from scmap_cli.metrics.programs import OUTSIDE_INACTIVE
from scmap_cli.plots.draw import embedding as draw_embedding
from scmap_cli.plots.draw import loss_curves
from scmap_cli.plots.page import details, figure, grid, heading, table, text
from scmap_cli.plots.qc import depth_dependence, elbow, fragment_lengths, quality_columns, tss_profile, violins
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.provenance import run_json_path
from scmap_cli.stages.describe import describe
from scmap_cli.stages.embeddings import BASELINES, baseline_slot
from scmap_cli.stages.views import log1p_of

_LINEAR = tuple(keys.embedding_key(baseline_slot(name)) for name in BASELINES)
_BATCHES = ("batch", "sample")
_DEPTHS = ("n_fragments", "total_counts", "depth")
_MOST_CATEGORIES, _MOST_PICTURES, _MOST_CELLS = 100, 8, 100_000
_ONE_COLUMN = 20
_OVERLAP = "overlap.json"
_LARGEST_JSON = 16 << 20
_MOST_PROGRAMS, _MOST_GENES = 15, 5
_FEW_COUNTS, _MANY_UNKNOWN, _MANY_NEW, _LITTLE_OVERLAP, _ACTIVE = 0.01, 0.2, 0.95, 0.8, 0.9


@dataclass
class Part:
    """What a report says of one input.

    Attributes
    ----------
    name
        Of the input.
    pieces
        HTML by section.
    notes
        What a person should look at.
    numbers
        Figures for a table of runs.
    history
        Records of the commands that made it.
    colored
        Names that pictures could show.
    """

    name: str
    pieces: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    colored: set[str] = field(default_factory=set)

    def add(self, section: str, *pieces: str) -> None:
        """Append pieces to a section."""
        self.pieces.setdefault(section, []).extend(pieces)


def read_beside(path: Path) -> dict[str, Any]:
    """``FILE.run.json``: the command that made a file, and what the machine gave; empty where there is none to read."""
    beside = run_json_path(path)
    if not beside.is_file():
        return {}
    try:
        found = read_json(beside, _LARGEST_JSON)
    except InputError as error:
        log.debug("%s", error)
        return {}
    return found if isinstance(found, dict) else {}


def shown_cell(column: str, cell: str) -> Any:
    """A cell of a TSV for people: numbers as such, of a list of genes the first ones, None for nothing."""
    if column == "top_genes":
        return ", ".join(cell.split(",")[:_MOST_GENES])
    try:
        value = float(cell)
    except ValueError:
        return cell or None
    return int(value) if value.is_integer() and "." not in cell and abs(value) < 2**53 else value


def describe_npz(path: Path) -> Part:
    """A line about arrays and programs."""
    found = describe(path)
    part = Part(path.name, history=list(found["history"]))
    rows = [[name, one["dtype"], " x ".join(map(str, one["shape"]))] for name, one in found["arrays"].items()]
    part.add("Cells", heading(path.name), table(["array", "type", "shape"], rows))
    return part


def describe_cells(path: Path, color: Sequence[str], batch_key: str | None) -> Part:
    """Sizes, quality, labels carried over and pictures of an h5ad; its matrix is read for genes in ``color`` alone."""
    found = describe(path)
    part = Part(path.name, history=list(found["history"]))
    adata = read_h5ad(path, backed=True, unique=False)
    try:
        _cells(part, path, adata, found, batch_key)
        _pictures(part, adata, color)
    finally:
        adata.file.close()
    return part


def _cells(part: Part, path: Path, adata: AnnData, found: dict[str, Any], batch_key: str | None) -> None:
    obs = adata.obs
    part.numbers |= {"cells": adata.n_obs, "features": adata.n_vars}
    counts = found["counts_from"]["source"]
    slots = [f"{kind}:{name}" for kind in ("obsm", "layers") for name in found[kind]]
    rows = [
        ["cells", f"{adata.n_obs:,}"],
        ["features", f"{adata.n_vars:,}"],
        ["counts from", counts or "nowhere"],
        ["slots", ", ".join(slots) or "none"],
        ["columns of cells", ", ".join(map(str, obs.columns)) or "none"],
    ]
    part.add("Cells", heading(path.name), table(["", ""], rows))
    group = batch_key or next((name for name in _BATCHES if name in obs), None)
    if batch_key is not None and batch_key not in obs:
        raise InputError(f"{path} has no obs column {batch_key!r}", f"columns: {', '.join(map(str, obs.columns))}")
    groups = None if group is None else column_text(obs[group], UNKNOWN)
    drawn = []
    columns, zero = quality_columns(obs)
    for name, values in columns.items():
        part.numbers[f"median_{name}"] = float(np.nanmedian(values))
        caption = f"{name.replace('_', ' ')}, median {np.nanmedian(values):.4g}" + (f", by {group}" if group else "")
        drawn.append(figure(caption, violins, {name: values}, groups))
    for slot, draw, caption in (
        (keys.FRAGMENT_LENGTHS, fragment_lengths, "lengths of the fragments"),
        (keys.TSS_PROFILE, tss_profile, "cuts around start sites"),
    ):
        if slot in adata.uns:
            profiles = {str(name): np.asarray(values) for name, values in dict(adata.uns[slot]).items()}
            drawn.append(figure(caption, draw, profiles))
    part.add("Cells", grid(drawn))
    if zero:
        names = ", ".join(name.replace("_", " ") for name in zero)
        part.add("Cells", text(f"Not drawn, as 0 in every cell: {names}.", soft=True))
    if "total_counts" in obs and (empty := int((obs["total_counts"] == 0).sum())) > _FEW_COUNTS * adata.n_obs:
        part.notes.append(f"{empty} of {adata.n_obs} cells have no counts")
    _labels(part, obs)


def _labels(part: Part, obs: pd.DataFrame) -> None:
    """Labels carried over from a reference, and what speaks against them."""
    if keys.LABEL not in obs:
        return
    labels = obs[keys.LABEL].astype(object).astype(str)
    sizes = labels.value_counts()
    rows: list[list[Any]] = [[name, int(size), float(size / len(labels))] for name, size in sizes.items()]
    header = ["label", "cells", "share"]
    if keys.CONFIDENCE in obs:
        header.append("median probability")
        for row in rows:
            row.append(float(obs[keys.CONFIDENCE][labels == row[0]].astype(float).median()))
    part.add("Cells", heading("Labels carried over"), table(header, rows))
    unknown = float((labels == "unknown").mean())
    part.numbers["unknown_share"] = unknown
    if unknown > _MANY_UNKNOWN:
        part.notes.append(f"{unknown:.0%} of the cells have no sure label")
    if keys.NOVELTY in obs:
        far = float((obs[keys.NOVELTY].astype(float) > _MANY_NEW).mean())
        part.numbers["novel_share"] = far
        if far > _MANY_UNKNOWN:
            part.notes.append(f"{far:.0%} of the cells are farther from the reference than 95 % of its own cells")


def _pictures(part: Part, adata: AnnData, color: Sequence[str]) -> None:
    models = [key for key in adata.obsm if key.startswith("X_") and key not in (keys.UMAP, keys.TSNE)]
    depth = next((name for name in _DEPTHS if name in adata.obs), None)
    place = next((key for key in (keys.UMAP, keys.TSNE) if key in adata.obsm), None)
    if place is None:
        if models:
            part.add("Pictures", text(f"{part.name} has no UMAP; `scmap embed --umap` makes one.", soft=True))
    else:
        xy_n2 = np.asarray(adata.obsm[place])[:, :2]
        rows = _some(len(xy_n2))
        columns = _columns(part, adata, color)
        drawn = []
        for name, values in columns.items():
            # A legend of several columns takes the room of the cells.
            many = values.dtype.kind not in "fc" and len(np.unique(values[rows])) > _ONE_COLUMN
            shown = {name: values[rows]}
            caption = f"{part.name}: {name}"
            drawn.append(figure(caption, draw_embedding, xy_n2[rows], shown, wide=many, width=4.4 if many else 3.0))
        sample = f" ({len(rows):,} of {len(xy_n2):,} cells)" if len(rows) < len(xy_n2) else ""
        part.add("Pictures", heading(f"{part.name}{sample}"), grid(drawn))
    for key in models:
        if key in _LINEAR:
            spread_z = np.asarray(adata.obsm[key], dtype=np.float64).var(axis=0)
            part.add("Pictures", grid([figure(f"{part.name}: dimensions of {key}", elbow, spread_z)]))
        emb_nz = np.asarray(adata.obsm[key], dtype=np.float64)
        if depth is None or emb_nz.ndim != 2 or not np.isfinite(emb_nz).all() or len(emb_nz) < 3:
            continue
        depth_n = adata.obs[depth].to_numpy(dtype=np.float64)
        known = np.isfinite(depth_n) & (depth_n > 0)
        if known.sum() > 2 and np.ptp(depth_n[known]) > 0:
            named = adata.uns.get(keys.latent_names_key(key.removeprefix("X_")), ())
            names = [str(name) for name in named]
            names = names if len(names) == emb_nz.shape[1] else [f"{key} {i + 1}" for i in range(emb_nz.shape[1])]
            caption = f"{part.name}: how {key} goes with {depth}"
            part.add(
                "Pictures", grid([figure(caption, depth_dependence, emb_nz[known], depth_n[known], names, wide=True)])
            )


def _some(n: int) -> np.ndarray:
    """At most 100,000 cells, evenly over the file."""
    return np.unique(np.linspace(0, n - 1, min(n, _MOST_CELLS)).astype(np.int64))


def _columns(part: Part, adata: AnnData, color: Sequence[str]) -> dict[str, np.ndarray]:
    """What the pictures show: the names asked for that this file has, else columns of few categories, and depth."""
    columns: dict[str, np.ndarray] = {}
    genes = adata.var_names
    programs = {
        str(name): (key, i)
        for key in adata.obsm
        for i, name in enumerate(adata.uns.get(keys.latent_names_key(key.removeprefix("X_")), ()))
    }
    for name in color:
        if name in adata.obs:
            columns[name] = _values(adata.obs[name])
        elif name in programs:
            key, i = programs[name]
            columns[name] = np.asarray(adata.obsm[key])[:, i].astype(np.float64)
        elif name in genes:
            columns[f"log1p {name}"] = log1p_of(adata[:, [name]].X)
        else:
            continue
        part.colored.add(name)
    if color:
        return columns
    for name in map(str, adata.obs.columns):
        values = adata.obs[name]
        texts = isinstance(values.dtype, pd.CategoricalDtype) or values.dtype == object or values.dtype == bool
        if texts and 1 < values.nunique() <= min(_MOST_CATEGORIES, adata.n_obs - 1):
            columns[name] = _values(values)
    for name in (*_DEPTHS, keys.NOVELTY):
        if name in adata.obs and pd.api.types.is_numeric_dtype(adata.obs[name]):
            values = _values(adata.obs[name])
            columns[name if name == keys.NOVELTY else f"log10 {name}"] = (
                values if name == keys.NOVELTY else np.log10(np.maximum(values, 1))
            )
    return dict(list(columns.items())[:_MOST_PICTURES])


def _values(column: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=np.float64)
    return column_text(column, "nan")


def describe_model(path: Path) -> Part:
    """Sizes, training curves, overlap with a query and leading programs of a model directory."""
    found = describe(path)
    part = Part(path.name or path.resolve().name, history=list(found["history"]))
    metrics = dict(found["metrics"])
    part.numbers |= {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    }
    conditions = found["conditions"]
    rows = [
        ["model", found["model"]],
        ["can", ", ".join(found["capabilities"])],
        ["features", f"{found['features']:,}"],
        ["parameters", f"{found['parameters']:,}"],
        [
            "conditions",
            f"{len(conditions)} of {found['batch_key'] or 'no column'}: {', '.join(map(str, conditions[:12]))}",
        ],
        *(
            [key, _plain(value)]
            for key, value in metrics.items()
            if value is not None and key not in ("model", "genes", "peaks")
        ),
    ]
    part.add("Models", heading(part.name), table(["", ""], rows))
    history = [row for row in files.read_history(path) if "epoch" in row and "train_loss" in row]
    best = int(metrics.get("best_epoch") or 0)
    if history:
        drawn = [
            figure(f"{part.name}: loss by epoch", loss_curves, history, best=best, panels=("loss",)),
            figure(f"{part.name}: parts of the loss", loss_curves, history, best=best, panels=("parts",)),
        ]
        part.add("Models", grid(drawn))
        if best == len(history) and not metrics.get("stopped_early") and metrics.get("validation_cells"):
            part.notes.append(f"the last epoch, {best}, was the best one: more epochs may help")
    _overlap(part, path)
    _programs(part, path, metrics)
    settings = json.dumps(found["model_config"] | found["train_config"], ensure_ascii=False, default=str)
    part.add("Models", details("Settings of the model and its training", text(settings)))
    return part


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, ensure_ascii=False, default=str)


def _overlap(part: Part, path: Path) -> None:
    """What a mapped query shares with the reference."""
    if not (path / _OVERLAP).is_file():
        return
    report = read_json(path / _OVERLAP, _LARGEST_JSON)
    if not isinstance(report, dict):
        raise InputError(f"{path / _OVERLAP} is damaged", "map the query again")
    rows = [
        [key.replace("_", " "), _plain(value)] for key, value in report.items() if not isinstance(value, list | dict)
    ]
    part.add("Models", heading(f"{part.name}: overlap with the query"), table(["", ""], rows))
    share = report.get("share_of_reference_counts")
    if isinstance(share, int | float):
        part.numbers["share_of_reference_counts"] = float(share)
        if share < _LITTLE_OVERLAP:
            part.notes.append(f"genes that the query lacks hold {1 - share:.0%} of the reference's counts")


def _programs(part: Part, path: Path, metrics: dict[str, Any]) -> None:
    if not (path / files.PROGRAMS).is_file():
        return
    header, lines = read_table(path / files.PROGRAMS)
    found = pd.DataFrame(lines, columns=header)
    wanted = [name for name in ("program", "kind", "active", "size", "norm", "top_genes") if name in found]
    if "norm" in found:
        order = (
            pd.to_numeric(found["norm"], errors="coerce").fillna(-1).sort_values(ascending=False, kind="stable").index
        )
        found = found.loc[order]
    rows = [[shown_cell(name, row[name]) for name in wanted] for _, row in found.head(_MOST_PROGRAMS).iterrows()]
    names = [name.replace("_", " ") for name in wanted]
    part.add("Programs", heading(f"{part.name}: programs of the largest weights"), table(names, rows))
    total, active = metrics.get("programs"), metrics.get("active_programs")
    if isinstance(total, int) and isinstance(active, int) and total and active < _ACTIVE * total:
        part.notes.append(f"{total - active} of {total} programs are switched off")
    zero = metrics.get("outside_share_inactive")
    if isinstance(zero, int | float) and zero < OUTSIDE_INACTIVE:
        part.notes.append(
            f"{zero:.0%} of the weights outside soft programs are zero, at least {OUTSIDE_INACTIVE:.0%} are wanted: "
            "raise --soft-l1"
        )
