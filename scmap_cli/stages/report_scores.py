"""Parts of a report about scores (JSON of ``evaluate``) and tables (TSV of ``gp-test`` and ``select-markers``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli.io.text import read_table
from scmap_cli.metrics.integration import OVERALLS, SCORES
from scmap_cli.plots.page import figure, grid, heading, table, text
from scmap_cli.plots.scores import (
    INTEGRATION,
    clustering_panels,
    dice_panels,
    gene_bars,
    integration_panels,
    invariance_panels,
    ranked_bars,
    score_bars,
)
from scmap_cli.stages.compare import tabulate
from scmap_cli.stages.evaluate_integration import BESIDE
from scmap_cli.stages.report_files import Part, read_beside, shown_cell
from scmap_cli.stages.report_markers import (
    describe_accuracy,
    describe_benchmark,
    describe_reconstruction,
    is_accuracy,
    is_benchmark,
    is_reconstruction,
)

_MOST_ROWS, _MOST_COLUMNS, _MOST_GROUPS, _TOP = 60, 16, 12, 10
_PANELS = {
    "clustering": clustering_panels,
    "invariance": invariance_panels,
    "imputation": dice_panels,
    "genes": gene_bars,
}
_INTEGRATION = dict(INTEGRATION)
_SETTINGS = ("resolutions", "thresholds")
_WITHHELD = ("mae", "rmse", "pearson", "within_gene_pearson")


def describe_scores(path: Path, found: Any) -> Part:
    """Scores of an evaluation with their figure; any other JSON object as a list of its values."""
    part = Part(path.name)
    entries = found.get("results") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        values = found if isinstance(found, dict) else {"value": found}
        told = [[str(key), _short_json(value)] for key, value in list(values.items())[:_MOST_ROWS]]
        part.add("Scores", heading(path.name), table(["", ""], told))
        return part
    what = str(found.get("what", "?"))
    part.history = [one for one in found.get("history", []) if isinstance(one, dict)]
    part.add("Scores", heading(f"{path.name}: {what}"))
    if what == "integration" and all(set(SCORES) <= set(entry.get("scores", ())) for entry in entries):
        _integration(part, entries)
    elif what == "markers" and is_accuracy(entries):
        describe_accuracy(part, entries)
    elif what == "reconstruction" and is_reconstruction(entries):
        describe_reconstruction(part, entries)
    else:
        made = tabulate({path.stem: found})
        columns = [name for name in made.columns if name != "run"][:_MOST_COLUMNS]
        rows: list[list[Any]] = [[row.get(name) for name in columns] for row in made.rows[:_MOST_ROWS]]
        part.add("Scores", table([re.sub("[_.]", " ", name) for name in columns], rows))
        name = f"{path.name}: {what}"
        if what == "imputation" and "dice" not in entries[0]:
            drawn = [key for key in made.columns if key in _WITHHELD]
            part.add("Scores", grid([figure(name, score_bars, made.rows, drawn, made.spread, wide=True)]))
        elif what in _PANELS:
            part.add("Scores", grid([figure(name, _PANELS[what], entries, wide=True)]))
        if len(made.rows) == 1:
            part.numbers |= {key: value for key, value in made.rows[0].items() if isinstance(value, float)}
    settings = found.get("settings")
    if isinstance(settings, dict):
        kept = {key: value for key, value in settings.items() if value not in (None, [], "") and key not in _SETTINGS}
        part.add("Scores", text("; ".join(f"{key}: {_short_json(value)}" for key, value in kept.items()), soft=True))
    return part


def _integration(part: Part, entries: Sequence[Mapping[str, Any]]) -> None:
    several = len({entry.get("file") for entry in entries}) > 1
    names = [f"{entry['file']} {entry['embedding']}" if several else str(entry["embedding"]) for entry in entries]
    columns = [name for name in (*SCORES, *OVERALLS) if any(entry["scores"].get(name) is not None for entry in entries)]
    texts = [_INTEGRATION[name] for name in columns]
    rows = [
        [name, entry.get("cells"), *(_rounded(entry["scores"].get(column)) for column in columns)]
        for name, entry in zip(names, entries, strict=True)
    ]
    part.add("Scores", table(["embedding", "cells", *texts], rows, best=texts))
    if all("details" in entry for entry in entries):
        part.add("Scores", grid([figure(f"{part.name}: scores", integration_panels, entries, wide=True)]))
    ours = {n: e["scores"].get("overall") for n, e in zip(names, entries, strict=True) if e["embedding"] not in BESIDE}
    theirs = {n: e["scores"].get("overall") for n, e in zip(names, entries, strict=True) if e["embedding"] in BESIDE}
    for name, value in ours.items():
        if value is not None:
            part.numbers[f"overall_{name}"] = float(value)
        better = [other for other, score in theirs.items() if None not in (score, value) and score > value]
        if better:
            part.notes.append(f"{name} has an overall score of {value:.3f}, below {', '.join(better)}")
    for name, entry in zip(names, entries, strict=True):
        missing = [_INTEGRATION[column] for column in SCORES if entry["scores"].get(column) is None]
        if missing:
            part.notes.append(f"{name}: {', '.join(missing)} could not be computed")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)


def _short_json(value: Any) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return told if len(told) <= 200 else told[:199] + "…"


def describe_table(path: Path) -> Part:
    """The leading rows of a TSV: of programs tested, of marker genes, or of any other table."""
    header, rows = read_table(path)
    # A table has no place for the command that made it.
    record = read_beside(path).get("record")
    part = Part(path.name, history=[record] if isinstance(record, dict) else [])
    if {"group", "program", "log_bf", "rank"} <= set(header):
        _tests(part, header, rows)
    elif {"gene", "rank"} <= set(header):
        part.add("Markers", heading(f"{path.name}: {len(rows)} rows"), _leading(header, rows))
    elif is_benchmark(header):
        part.add("Markers", heading(path.name))
        describe_benchmark(part, header, rows, _leading(header, rows))
    else:
        section = "Markers" if {"method", "k"} <= set(header) else "Scores"
        part.add(section, heading(path.name), _leading(header, rows))
    return part


def _leading(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    more = f"and {len(rows) - _MOST_ROWS} more rows" if len(rows) > _MOST_ROWS else ""
    columns = header[:_MOST_COLUMNS]
    shown = [[shown_cell(*pair) for pair in zip(columns, row, strict=False)] for row in rows[:_MOST_ROWS]]
    return table([name.replace("_", " ") for name in columns], shown) + (text(more, True) if more else "")


def _tests(part: Part, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Programs by strength for each contrast, the passing ones first."""
    entries = [dict(zip(header, row, strict=True)) for row in rows]
    contrasts: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for entry in entries:
        if entry["log_bf"]:
            key = tuple(entry.get(name, "") for name in ("group", "against", "within"))
            contrasts.setdefault(key, []).append(entry)
    passing = sum(entry.get("passes") == "1" for entry in entries)
    part.numbers |= {"contrasts": len(contrasts), "programs_passing": passing}
    words = {"program": "program", "log_bf": "log BF", "se": "se", "passes": "passes"}
    words |= {"direction": "direction", "effect": "effect", "top_genes": "top genes"}
    wanted = [name for name in words if name in header]
    drawn: list[str] = []
    for (group, against, within), found in list(contrasts.items())[:_MOST_GROUPS]:
        title = f"{group} against {against}" + (f" within {within}" if within else "")
        leading = found[:_TOP]
        shown = [
            [entry[name] == "1" if name == "passes" else shown_cell(name, entry[name]) for name in wanted]
            for entry in leading
        ]
        part.add("Programs", heading(f"{part.name}: {title}"), table([words[name] for name in wanted], shown))
        values = np.array([float(entry["log_bf"]) for entry in leading])
        names = [entry["program"] for entry in leading]
        up = np.array([entry.get("direction") == "up" for entry in leading])
        drawn.append(figure(f"log Bayes factors, {title}", ranked_bars, values, names, up))
    part.add("Programs", grid(drawn))
    if len(contrasts) > _MOST_GROUPS:
        part.add("Programs", text(f"and {len(contrasts) - _MOST_GROUPS} more contrasts", soft=True))
    if contrasts and not passing:
        part.notes.append("no program passes the threshold")
