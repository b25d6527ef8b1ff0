"""``scmap evaluate ... --compare``: one table of several results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_json, write_text
from scmap_cli.io.text import read_json
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.scores import score_bars
from scmap_cli.runtime.logs import log

_NAMES = ("run", "file", "embedding", "name", "method", "baseline")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several results.

    Attributes
    ----------
    what
        Kind of evaluation.
    columns
        Names of the columns; ``run`` is first.
    rows
        One a result, with what it has of the columns.
    spread
        Standard deviations beside the scores of a row, where a result has them.
    """

    what: str
    columns: list[str]
    rows: list[dict[str, Any]]
    spread: list[dict[str, float]]


def read_scores(path: Path) -> dict[str, Any]:
    """The JSON of an evaluation.

    Raises
    ------
    InputError
        The file is none: no JSON, or without ``what`` and ``results``.
    """
    found = read_json(path, _LARGEST)
    entries = found.get("results") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or "what" not in found:
        raise InputError(f"{path} is no result of scmap evaluate", "give JSON files that `scmap evaluate` wrote")
    return dict(found)


def compare(
    inputs: Sequence[Path | str],
    output: Path | str = "-",
    *,
    what: str,
    plot: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> ScoreTable:
    """One table of several results of one kind of evaluation, a row for each embedding or method in each.

    Parameters
    ----------
    inputs
        JSON files of ``scmap evaluate``.
    output
        ``.json`` for JSON, else TSV; ``-`` writes none, and the caller prints :func:`render_table`.
    what
        The kind of evaluation that all must be of.
    plot
        Draw the scores.
    force, dry_run
        Replace existing outputs; write nothing.

    Raises
    ------
    InputError
        A file is no result, or one of another kind.
    """
    paths = [Path(path) for path in inputs]
    if not paths:
        raise UsageError("no result to compare was given")
    to_file = text_file(output)
    check_outputs(to_file, figures=[plot], force=force)
    results = [read_scores(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        if result["what"] != what:
            raise InputError(
                f"{path} holds scores of {result['what']}, not of {what}", f"use `scmap evaluate {result['what']}`"
            )
    _tell_settings(results)
    table = tabulate(dict(zip(_run_names(paths), results, strict=True)))
    if dry_run:
        return table
    if to_file is not None:
        if str(output).endswith(".json"):
            write_json(to_file, {"what": table.what, "columns": table.columns, "rows": table.rows}, force)
        else:
            write_text(to_file, render_table(table), force)
    if plot is not None:
        publish(plot, force, "the comparison", score_bars, table.rows, table.columns, table.spread)
    return table


def tabulate(results: Mapping[str, Mapping[str, Any]]) -> ScoreTable:
    """Rows and columns of results of one kind by the name of their run; only single numbers become columns."""
    rows, spread = [], []
    for name, result in results.items():
        for entry in result["results"]:
            flat = {"run": name} | _flat(entry)
            deviations = {key.removesuffix(".sd"): value for key, value in flat.items() if key.endswith(".sd")}
            subsamples = entry.get("subsamples")
            if isinstance(subsamples, dict) and isinstance(subsamples.get("sd"), dict):
                deviations |= {key: value for key, value in subsamples["sd"].items() if value is not None}
            rows.append(flat)
            spread.append({key: float(value) for key, value in deviations.items() if isinstance(value, int | float)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    named = [key for key in _NAMES if key in columns]
    columns = named + [key for key in columns if key not in named]
    return ScoreTable(str(next(iter(results.values()))["what"]), columns, rows, spread)


def render_table(table: ScoreTable) -> str:
    """The table as TSV, numbers in their shortest exact form."""
    lines = ["\t".join(table.columns)]
    for row in table.rows:
        cells = [row.get(key) for key in table.columns]
        lines.append("\t".join("" if cell is None else " ".join(str(cell).split()) for cell in cells))
    return "\n".join(lines) + "\n"


def _flat(entry: Mapping[str, Any], above: str = "", depth: int = 0) -> dict[str, Any]:
    """Single values of an entry, those in ``scores`` under their own names; details and subsamples are left."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("details", "subsamples", "settings"):
            continue
        name = f"{above}{key}"
        if isinstance(value, dict):
            if key == "scores":
                found |= _flat(value)
            elif depth < 1:
                found |= _flat(value, f"{name}.", depth + 1)
        elif not isinstance(value, list):
            found[name] = value
    return found


def _run_names(paths: Sequence[Path]) -> list[str]:
    """Names of the files without their ending, and with the folder where two are alike."""
    stems = [path.stem for path in paths]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else str(path.with_suffix("")) for stem, path in zip(stems, paths, strict=True)]


def _tell_settings(results: Sequence[Mapping[str, Any]]) -> None:
    """Warn of settings by which the results differ, as scores under other settings are not comparable."""
    settings = [json.loads(json.dumps(result.get("settings", {}))) for result in results]
    skip = {"baseline", "subsamples", "subsample_share"}
    differing = [
        key for key in settings[0] if key not in skip and any(other.get(key) != settings[0][key] for other in settings)
    ]
    if differing:
        log.warning("the settings of the results differ in %s", ", ".join(differing))
