"""What a file or model directory holds, told as JSON values without loading its matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from scmap_cli import keys
from scmap_cli.data.matrices import count_faults
from scmap_cli.errors import InputError
from scmap_cli.io import bundle, shards
from scmap_cli.io.hdf5 import open_h5
from scmap_cli.io.npz import read_npz
from scmap_cli.runtime import provenance

FRAMES = ("obs", "var")
TABLES = ("layers", "obsm", "varm", "obsp", "varp")

_SAMPLE_BLOCKS, _SAMPLE_BLOCK = 64, 1 << 14


def describe(path: Path) -> dict[str, Any]:
    """Describe an h5ad, an npz, a corpus (once its checksums agree) or a model directory; ``kind`` says which.

    Raises
    ------
    InputError
        The path is of no known kind, or unfit.
    """
    if path.is_dir():
        return _describe_corpus(path) if shards.is_corpus(path) else _describe_model(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        with path.open("rb") as handle:
            magic = handle.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if magic.startswith(b"PK") or path.suffix == ".npz":
        return _describe_npz(path)
    if magic == b"\x89HDF\r\n\x1a\n" or path.suffix in (".h5ad", ".h5"):
        return _describe_h5ad(path)
    raise InputError(f"{path} is neither an h5ad, an npz, a corpus nor a model directory")


def _records(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _dtype(dtype: np.dtype) -> str:
    return "string" if h5py.check_string_dtype(dtype) is not None or dtype.kind in "SU" else str(dtype)


def _frame_columns(frame: Any) -> dict[str, dict[str, Any]]:
    """Columns of obs or var: type, and the number of categories where they are categorical."""
    if isinstance(frame, h5py.Dataset):
        return {name: {"type": _dtype(frame.dtype[name])} for name in list(frame.dtype.names or ())[1:]}
    index = _text(frame.attrs.get("_index", "index"))
    names = [_text(name) for name in frame.attrs.get("column-order", [])] or list(frame)
    columns: dict[str, dict[str, Any]] = {}
    for name in names:
        if name == index or name == "__categories" or name not in frame:
            continue
        item = frame[name]
        if isinstance(item, h5py.Group):
            if "categories" in item:
                columns[name] = {"type": "category", "categories": int(item["categories"].shape[0])}
            else:
                columns[name] = {"type": _text(item.attrs.get("encoding-type", "group"))}
        elif "__categories" in frame and name in frame["__categories"]:
            columns[name] = {"type": "category", "categories": int(frame["__categories"][name].shape[0])}
        else:
            columns[name] = {"type": _dtype(item.dtype)}
    return columns


def _frame_length(frame: Any) -> int:
    if isinstance(frame, h5py.Dataset):
        return int(frame.shape[0])
    index = _text(frame.attrs.get("_index", "index"))
    return int(frame[index].shape[0]) if index in frame else 0


def _element(item: Any) -> dict[str, Any]:
    """Form, number type and shape of a matrix or table."""
    if isinstance(item, h5py.Dataset):
        return {
            "form": "table" if item.dtype.names else "dense",
            "dtype": _dtype(item.dtype),
            "shape": list(item.shape),
        }
    form = _text(item.attrs.get("encoding-type", item.attrs.get("h5sparse_format", "group")))
    if form.removesuffix("_matrix") in ("csr", "csc") and "data" in item:
        shape = item.attrs.get("shape", item.attrs.get("h5sparse_shape", ()))
        return {
            "form": form.removesuffix("_matrix"),
            "dtype": _dtype(item["data"].dtype),
            "shape": [int(size) for size in shape],
            "stored": int(item["data"].shape[0]),
        }
    if form == "dataframe":
        return {"form": "table", "dtype": "mixed", "shape": [_frame_length(item), len(_frame_columns(item))]}
    return {"form": form, "dtype": "", "shape": []}


def _elements(tables: Any) -> dict[str, dict[str, Any]]:
    """Form, number type and shape of each table of a slot; older files keep those of obsm as fields of one."""
    if not isinstance(tables, h5py.Dataset):
        return {key: _element(item) for key, item in tables.items()}
    fields = {name: tables.dtype[name] for name in tables.dtype.names or ()}
    return {
        name: {"form": "dense", "dtype": _dtype(field.base), "shape": [*tables.shape, *field.shape]}
        for name, field in fields.items()
    }


def _sampled_fault(item: Any) -> tuple[str | None, int, int]:
    """Why stored values are no counts, judged from blocks spread over them; how many were looked at, of how many."""
    data = item["data"] if isinstance(item, h5py.Group) else item
    stored = int(np.prod(data.shape))
    rows = int(data.shape[0]) if data.shape else 0
    step = max(1, _SAMPLE_BLOCK // max(stored // max(rows, 1), 1))
    starts = sorted({int(start) for start in np.linspace(0, max(rows - step, 0), _SAMPLE_BLOCKS)})
    looked = end = 0
    for start in starts:
        first, end = max(start, end), start + step
        block = np.asarray(data[first:end])
        looked += block.size
        fault = count_faults(block.reshape(1, -1)) if block.size else None
        if fault is not None:
            return fault, looked, stored
    return None, looked, stored


def _counts_from(handle: h5py.File) -> dict[str, Any]:
    """Where a stage would take the raw counts from, in the order it would look."""
    layers = handle.get("layers", {})
    if keys.COUNTS_LAYER in layers:
        places = [(f"layers:{keys.COUNTS_LAYER}", layers[keys.COUNTS_LAYER])]
    else:
        named = (("raw", handle["raw/X"] if "raw/X" in handle else handle.get("raw.X")), ("X", handle.get("X")))
        places = [(name, item) for name, item in named if item is not None]
    faults = []
    for name, item in places:
        if _element(item)["form"] not in ("csr", "csc", "dense") or _element(item)["dtype"] == "string":
            faults.append(f"{name} is no matrix of numbers")
            continue
        fault, looked, stored = _sampled_fault(item)
        if fault is None and stored:
            return {"source": name, "values_looked_at": looked, "values_stored": stored}
        faults.append(f"{name} holds {fault or 'no values'}")
    return {"source": None, "why": "; ".join(faults) or "there is no matrix"}


def _describe_h5ad(path: Path) -> dict[str, Any]:
    # Nothing is read whole, so nothing is held against the memory at hand.
    with open_h5(path, on_disk=("/",)) as handle:
        if "obs" not in handle or "var" not in handle:
            raise InputError(f"{path} is not an AnnData file: it has no obs and var", "give an .h5ad file")
        uns = handle.get("uns", {})
        recorded = uns[keys.HISTORY][()] if isinstance(uns.get(keys.HISTORY), h5py.Dataset) else "[]"
        return {
            "kind": "h5ad",
            "path": str(path),
            "bytes": path.stat().st_size,
            "cells": _frame_length(handle["obs"]),
            "genes": _frame_length(handle["var"]),
            "counts_from": _counts_from(handle),
            "X": _element(handle["X"]) if "X" in handle else None,
            "raw": _element(handle["raw/X"]) if "raw/X" in handle else None,
            **{name: _elements(handle.get(name, {})) for name in TABLES},
            **{name: _frame_columns(handle[name]) for name in FRAMES},
            "uns": list(uns),
            "history": provenance.read_history({keys.HISTORY: _text(recorded)}),
        }


def _describe_npz(path: Path) -> dict[str, Any]:
    header, arrays = read_npz(path, foreign=True)
    return {
        "kind": "npz",
        "path": str(path),
        "bytes": path.stat().st_size,
        "header": {key: value for key, value in header.items() if key != "history"},
        "arrays": {name: {"dtype": _dtype(array.dtype), "shape": list(array.shape)} for name, array in arrays.items()},
        "history": _records(header.get("history")),
    }


def _describe_corpus(path: Path) -> dict[str, Any]:
    corpus = shards.open_corpus(path)
    corpus.verify()
    return {
        "kind": "corpus",
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "cells": corpus.n,
        "genes": len(corpus.genes),
        "entries": corpus.entries,
        "studies": corpus.studies,
        "genomes": corpus.genomes,
        "parts": len(corpus.parts),
        "history": corpus.history,
    }


def _describe_model(path: Path) -> dict[str, Any]:
    loaded = bundle.load_bundle(path)
    config = loaded.config
    try:
        metrics = json.loads((path / bundle.METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path / bundle.METRICS} is missing or damaged", "copy the whole model directory") from error
    return {
        "kind": "model",
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "model": config["model"],
        "schema_version": config["schema_version"],
        "capabilities": config.get("capabilities", []),
        "features": len(loaded.features),
        "parameters": int(sum(array.size for array in loaded.tensors.values())),
        "batch_key": config.get("batch_key"),
        "conditions": loaded.categories.get("condition", []),
        "model_config": config["model_config"],
        "train_config": config.get("train_config", {}),
        "metrics": metrics if isinstance(metrics, dict) else {},
        "history": _records(config.get("history")),
    }
