"""``scmap info``: a description of a file, a model directory or the machine, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmap_cli import __version__
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_text
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.memory import available_memory, readable_size
from scmap_cli.runtime.threads import available_threads
from scmap_cli.stages.describe import FRAMES, TABLES, describe

KINDS = ("obs", "var", "obsm", "varm", "obsp", "layers", "uns", "array")
"""Kinds of slot that ``require`` knows; ``array`` is an array of an npz."""

_LIBRARIES = (
    "anndata",
    "h5py",
    "numpy",
    "pandas",
    "safetensors",
    "scanpy",
    "scipy",
    "scikit-learn",
    "umap-learn",
    "igraph",
)


def info(
    path: Path | str | None = None,
    output: Path | str = "-",
    *,
    as_json: bool = False,
    history: bool = False,
    require: Sequence[str] = (),
    system: bool = False,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Describe an h5ad, an npz, a model directory, or this machine.

    Parameters
    ----------
    path
        What to describe; None with ``system``.
    output
        File for the text of :func:`render`; ``-`` writes none, and the caller prints it.
    as_json
        Write JSON rather than text.
    history
        Only the runs that made it.
    require
        ``KIND:KEY`` that must be there, such as ``obsm:X_expimap``; then nothing else is done.
    system
        Describe this machine; imports torch.
    force, dry_run
        Replace an existing output; read and write nothing.

    Returns
    -------
    dict
        JSON values; ``kind`` is ``h5ad``, ``npz``, ``corpus``, ``model``, ``history``, ``required`` or ``system``.

    Raises
    ------
    InputError
        The path is of no known kind, unfit, or lacks what is required.
    UsageError
        A requirement that is not of the form KIND:KEY.
    """
    wanted = [_parse_requirement(text) for text in require]
    to_file = text_file(output)
    check_outputs(to_file, force=force)
    if system:
        result = _system()
    elif path is None:
        raise UsageError("nothing to describe was given", "give a path, or --system")
    else:
        result = describe(Path(path))
        if wanted:
            return _check_required(result, wanted, Path(path))
        if history:
            result = {"kind": "history", "path": str(path), "history": result["history"]}
    if to_file is not None and not dry_run:
        write_text(to_file, render(result, as_json), force)
    return result


def render(result: Mapping[str, Any], as_json: bool = False) -> str:
    """The description as text, or as JSON; a history is a JSON list in any case."""
    if result["kind"] == "history":
        return json.dumps(result["history"], indent=2, ensure_ascii=False) + "\n"
    if as_json:
        return json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    forms = {
        "h5ad": _h5ad_lines,
        "npz": _npz_lines,
        "model": _model_lines,
        "corpus": _corpus_lines,
        "system": _system_lines,
    }
    lines = forms[result["kind"]](result)
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {text}".rstrip() + "\n" for name, text in lines)


def _matrix_text(item: Mapping[str, Any]) -> str:
    shape = " x ".join(map(str, item["shape"]))
    stored = ""
    if "stored" in item:
        total = int(np.prod(item["shape"], dtype=object)) or 1
        stored = f", {item['stored']} stored ({100 * item['stored'] / total:.3g} %)"
    return " ".join(part for part in (item["form"], item["dtype"], shape) if part) + stored


def _column_text(column: Mapping[str, Any]) -> str:
    return f"{column['categories']} categories" if "categories" in column else str(column["type"])


def _h5ad_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = result["counts_from"]
    if counts["source"] is None:
        source = f"nowhere: {counts['why']}"
    else:
        looked = f"{counts['values_looked_at']} of {counts['values_stored']} values looked at"
        source = f"{counts['source']} (whole numbers; {looked})"
    lines = [
        ("file", f"{result['path']} (h5ad, {readable_size(result['bytes'])})"),
        ("shape", f"{result['cells']} cells x {result['genes']} features"),
        ("counts from", source),
    ]
    lines += [(name, _matrix_text(result[name])) for name in ("X", "raw") if result[name] is not None]
    for name in TABLES:
        lines += [(f"{name}:{key}", _matrix_text(item)) for key, item in result[name].items()]
    for name in FRAMES:
        lines += [(f"{name}:{key}", _column_text(column)) for key, column in result[name].items()]
    lines += [("uns", ", ".join(result["uns"]) or "empty"), ("history", _history_text(result["history"]))]
    return lines


def _history_text(records: Sequence[Any]) -> str:
    verbs = [str(record.get("verb", "?")) for record in records if isinstance(record, dict)]
    return " > ".join(verbs) or "none"


def _npz_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [("file", f"{result['path']} (npz, {readable_size(result['bytes'])})")]
    for key, value in result["header"].items():
        lines.append((f"header:{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    for name, array in result["arrays"].items():
        lines.append((f"array:{name}", f"{array['dtype']} {' x '.join(map(str, array['shape']))}"))
    return [*lines, ("history", _history_text(result["history"]))]


def _corpus_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("corpus", f"{result['path']} ({readable_size(result['bytes'])}, checksums agree)"),
        ("shape", f"{result['cells']} cells x {result['genes']} genes, {result['entries']} entries"),
        ("parts", str(result["parts"])),
        ("studies", f"{len(result['studies'])}: {', '.join(result['studies'][:12])}"),
        ("genomes", ", ".join(result["genomes"]) or "not said by the inputs"),
        ("history", _history_text(result["history"])),
    ]


def _model_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    metrics = dict(result["metrics"])
    epochs = f"{metrics.pop('epochs', '?')}, best {metrics.pop('best_epoch', '?')}"
    lines = [
        ("model", f"{result['path']} ({result['model']}, {readable_size(result['bytes'])})"),
        ("can", ", ".join(result["capabilities"])),
        ("features", str(result["features"])),
        ("parameters", str(result["parameters"])),
        ("conditions", f"{len(result['conditions'])} of {result['batch_key']}: {', '.join(result['conditions'])}"),
        ("epochs", epochs),
    ]
    if "programs" in metrics:
        lines.append(("programs", f"{metrics.pop('programs')}, of them active: {metrics.pop('active_programs', '?')}"))
    for key, value in metrics.items():
        if key not in ("model", "genes"):
            lines.append((f"metrics:{key}", f"{value:.6g}" if isinstance(value, float) else str(value)))
    return [*lines, ("history", _history_text(result["history"]))]


def _parse_requirement(text: str) -> tuple[str, str]:
    kind, found, key = text.partition(":")
    if not found or not key or kind not in KINDS:
        raise UsageError(f"--require {text!r} is not KIND:KEY", f"KIND is one of {', '.join(KINDS)}")
    return kind, key


def _check_required(result: Mapping[str, Any], wanted: Sequence[tuple[str, str]], path: Path) -> dict[str, Any]:
    for kind, key in wanted:
        held = list(result.get("arrays" if kind == "array" else kind) or ())
        if key not in held:
            raise InputError(f"{path} has no {kind}:{key}", f"{kind} in it: {', '.join(held) or 'none'}")
    names = [f"{kind}:{key}" for kind, key in wanted]
    log.info("%s has %s", path, ", ".join(names))
    return {"kind": "required", "path": str(path), "required": names}


def _system() -> dict[str, Any]:
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(number)
        gpus.append({"device": f"cuda:{number}", "name": card.name, "memory_bytes": int(card.total_memory)})
    return {
        "kind": "system",
        "scmap": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "cpus": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or available_threads(),
        "memory_available_bytes": available_memory(),
        "libraries": {name: installed(name) for name in _LIBRARIES},
    }


def _system_lines(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    cards = [f"{gpu['device']} {gpu['name']} ({readable_size(gpu['memory_bytes'])})" for gpu in result["gpus"]]
    return [
        ("scmap", result["scmap"]),
        ("python", f"{result['python']} on {result['platform']}"),
        ("torch", f"{result['torch']} ({'CUDA ' + result['cuda'] if result['cuda'] else 'no CUDA'})"),
        ("gpus", ", ".join(cards) or "none"),
        ("cpus", f"{result['cpus']}, threads used: {result['threads']}"),
        ("memory", f"{readable_size(result['memory_available_bytes'])} available"),
        *((name, found or "not installed") for name, found in result["libraries"].items()),
    ]
