"""``scmap report``: one self-contained page of what was run and what came of it, and its numbers for MultiQC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scmap_cli import __version__
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, write_json, write_text
from scmap_cli.io.bundle import is_bundle
from scmap_cli.io.text import read_json
from scmap_cli.plots.page import Section, details, notes, page, table, text
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.report_files import Part, describe_cells, describe_model, describe_npz, read_beside
from scmap_cli.stages.report_scores import describe_scores, describe_table

_LARGEST_JSON = 64 << 20
_LARGEST_PAGE = 5 << 20
_ORDER = ("Cells", "Models", "Pictures", "Programs", "Markers", "Scores")


def report(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    title: str | None = None,
    color: Sequence[str] = (),
    batch_key: str | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write one HTML page about files and model directories, and ``NAME_mqc.json`` beside it.

    Parameters
    ----------
    inputs
        h5ad files, npz files and model directories of scmap, JSON of ``evaluate``, TSV of ``gp-test`` and
        ``select-markers``; told apart by content, in any order.
    output
        The page, ``.html``.
    title
        Of the page; by default the name of the output.
    color
        What pictures of cells show: columns of ``obs``, genes or peaks, programs. By default the columns of few
        categories, and depth.
    batch_key
        Column of ``obs`` by which quality is shown; by default ``batch`` or ``sample`` where there is one.
    seed
        Of the order in which points are drawn; kept in the record.
    force, dry_run
        Replace existing outputs; read the inputs and write nothing.

    Returns
    -------
    dict
        ``output``, ``multiqc``, ``bytes`` of the page, ``notes``, and ``sections`` by title.

    Raises
    ------
    InputError
        An input is of no kind that is known, or unfit.
    """
    paths = [Path(path) for path in inputs]
    output = Path(output)
    if not paths:
        raise UsageError("no input was given")
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the output {output.name} does not end in .html", "the report is an HTML page")
    beside = output.with_name(f"{output.stem}_mqc.json")
    check_outputs(output, beside, force=force)
    parameters = {"title": title, "color": list(color), "batch_key": batch_key}
    with provenance.run(
        "report", inputs=paths, output=None if dry_run else output, parameters=parameters, seed=seed
    ) as run:
        parts = [_part(path, list(color), batch_key) for path in paths]
        shown = {name for part in parts for name in part.colored}
        strange = [name for name in color if name not in shown]
        if strange:
            raise InputError(f"--color {strange[0]!r} is in no file that has a UMAP", "name a column, gene or program")
        remarks = [f"{part.name}: {remark}" for part in parts for remark in part.notes]
        sections = _sections(paths, parts, remarks)
        result: dict[str, Any] = {
            "output": str(output),
            "multiqc": str(beside),
            "notes": remarks,
            "sections": [section.title for section in sections if any(section.pieces)],
        }
        if dry_run:
            return result
        lead = f"{len(paths)} input{'s' if len(paths) > 1 else ''}: {', '.join(part.name for part in parts)}"
        html = page(title or output.stem, lead, sections, f"Made by scmap {__version__} report.")
        result["bytes"] = len(html.encode())
        if result["bytes"] > _LARGEST_PAGE:
            log.warning("the page has %.1f MB; give fewer inputs or colours", result["bytes"] / 1e6)
        write_json(beside, _multiqc(output.stem, parts), force)
        write_text(output, html, force)
        run.note(page_bytes=result["bytes"])
        for remark in remarks:
            log.info("look at %s", remark)
    return result


def _part(path: Path, color: Sequence[str], batch_key: str | None) -> Part:
    """What there is to say about one input, by its kind."""
    if path.is_dir():
        if not is_bundle(path):
            raise InputError(f"{path} is a folder without a finished model", "give files or model directories")
        return describe_model(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the name of the input")
    with path.open("rb") as handle:
        start = handle.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return describe_cells(path, color, batch_key)
    if start.startswith(b"PK"):
        return describe_npz(path)
    if path.suffix == ".json" or start.lstrip()[:1] == b"{":
        return describe_scores(path, read_json(path, _LARGEST_JSON))
    return describe_table(path)


def _sections(paths: Sequence[Path], parts: Sequence[Part], remarks: Sequence[str]) -> list[Section]:
    made = {name: Section(name) for name in _ORDER}
    for part in parts:
        for name, pieces in part.pieces.items():
            made[name].pieces += pieces
    return [
        Section("To look at", [notes(remarks)]),
        *made.values(),
        Section("What was run", _history(paths, parts)),
    ]


def _history(paths: Sequence[Path], parts: Sequence[Part]) -> list[str]:
    """Every command that made an input, once, with what it took and what the machine gave."""
    seen: dict[str, list[Any]] = {}
    for path, part in zip(paths, parts, strict=True):
        last = len(part.history) - 1
        for place, record in enumerate(part.history):
            if not isinstance(record, dict):
                continue
            machine = _machine(path, record) if place == last else {}
            key = json.dumps(record, sort_keys=True, default=str)
            read = ", ".join(str(one.get("name", "?")) for one in record.get("inputs", []) if isinstance(one, dict))
            told = {k: v for k, v in dict(record.get("parameters") or {}).items() if v not in (None, [], "", {})}
            seconds, memory = machine.get("seconds"), machine.get("peak_memory_bytes")
            row = [
                str(record.get("verb", "?")),
                read,
                record.get("seed"),
                str(record.get("version", "?")),
                round(seconds, 1) if isinstance(seconds, int | float) else None,
                round(memory / 2**20) if isinstance(memory, int | float) else None,
                json.dumps(told, ensure_ascii=False, default=str),
            ]
            if key not in seen or (machine and seen[key][4] is None):
                seen[key] = row
    if not seen:
        return [text("The inputs keep no record of commands.", soft=True)]
    rows = list(seen.values())
    header = ["command", "read", "seed", "scmap", "seconds", "peak MiB"]
    settings = table(["command", "settings"], [[row[0], row[6]] for row in rows])
    return [table(header, [row[:6] for row in rows]), details("Settings of every command", settings)]


def _machine(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Wall time and memory from the file beside an output, where it is of this very run."""
    found = read_beside(path)
    same = found.get("record") == record and isinstance(found.get("machine"), dict)
    return dict(found["machine"]) if same else {}


def _multiqc(name: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Custom content for MultiQC: one table, a row an input, whole numbers and floats only."""
    columns = list(dict.fromkeys(key for part in parts for key in part.numbers))
    return {
        "id": f"scmap_{name}",
        "section_name": "scmap",
        "description": "Cells, models and scores of single-cell runs.",
        "plot_type": "table",
        "pconfig": {"id": f"scmap_{name}_table", "title": "scmap"},
        "headers": {key: {"title": key.replace("_", " ")} for key in columns},
        "data": {part.name: part.numbers for part in parts if part.numbers},
    }
