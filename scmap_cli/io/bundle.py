"""The model directory: everything a trained model needs, in plain files. No pickle.

::

    MODEL_DIR/
      config.json         schema_version, model, configs, sizes, capabilities, history of runs, digests
      model.safetensors   tensors only
      features.tsv        index, name, mean count in training; the order is the contract
      categories.json     conditions in the order of their codes
      history.csv         one row an epoch: losses by part, learning rate
      metrics.json        what the training reached
      split.tsv           cell, train or valid
      programs.tsv        expiMap: one row a program
      markers.tsv         MarkerMap: rank, gene, score, class
      reference.npz       SAILERX: cells with RNA, and by what the reference of each is known again
      loss.png README.md

``config.json`` is what makes a directory a model: a folder that holds only ``checkpoints/`` is a run that has not
ended. Version 2 of the schema is the present one, 1 is read, a newer one refused. Files are checked against their
digests when they are read, so that a bad copy is found before it gives wrong numbers.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from scmap_cli.errors import InputError
from scmap_cli.registry import MODELS

# 2: the first layer of expiMap is stored genes x units (ExpiMap.upgraded).
SCHEMA_VERSION = 2

CONFIG = "config.json"
TENSORS = "model.safetensors"
FEATURES = "features.tsv"
CATEGORIES = "categories.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
SPLIT = "split.tsv"
PROGRAMS = "programs.tsv"
MARKERS = "markers.tsv"
CARD = "README.md"
LOSS = "loss.png"
CHECKPOINTS = "checkpoints"

_DIGESTED = (".safetensors", ".json", ".csv", ".tsv", ".npz")
_KEYS = ("model", "batch_key", "model_config", "structure", "features_digest", "digests")


@dataclass(frozen=True)
class Bundle:
    """A model directory in memory.

    Attributes
    ----------
    path
        The directory.
    config
        Contents of ``config.json``.
    tensors
        Arrays by name.
    features
        (g,) feature names in the order of the model.
    feature_means
        (g,) float64 mean count of each feature in training.
    categories
        Lists of category names, such as ``condition``.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    features: np.ndarray
    feature_means: np.ndarray
    categories: dict[str, list[str]]


def features_digest(names: Sequence[str] | np.ndarray) -> str:
    """SHA-256 of the ordered feature names."""
    return "sha256:" + hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


class _Lines:
    """Ends the rows of a csv writer with a line feed; one told to do so itself leaves carriage returns unquoted."""

    def __init__(self, handle: TextIO) -> None:
        self._handle = handle

    def write(self, row: str) -> int:
        return self._handle.write(row.removesuffix("\r\n") + "\n")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = "\t") -> None:
    """A small table; floats in their shortest exact form."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(_Lines(handle), delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


def write_bundle(
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    features: np.ndarray,
    feature_means: np.ndarray,
    categories: Mapping[str, Sequence[str]],
    history: Sequence[Mapping[str, float]],
    metrics: Mapping[str, Any],
    split: Iterable[tuple[str, str]],
) -> None:
    """Write the files of a model into ``folder``, which the caller publishes as a whole.

    What it holds before, such as ``programs.tsv``, gets a digest as well.

    Raises
    ------
    OSError
        A write was refused; :func:`~scmap_cli.io.atomic.atomic_dir` makes it a :class:`~scmap_cli.errors.WriteError`.
    """
    # The library's own writer makes files that only their owner may read, and hides what the system refused and why.
    (folder / TENSORS).write_bytes(save({name: np.ascontiguousarray(array) for name, array in tensors.items()}))
    means = [repr(float(mean)) for mean in feature_means]
    rows = [(i, name, mean) for i, (name, mean) in enumerate(zip(features, means, strict=True))]
    write_table(folder / FEATURES, ("index", "name", "mean"), rows)
    _write_json(folder / CATEGORIES, {key: list(map(str, names)) for key, names in categories.items()})
    columns = list(dict.fromkeys(key for row in history for key in row))
    write_table(folder / HISTORY, columns, [[row.get(c, "") for c in columns] for row in history], delimiter=",")
    _write_json(folder / METRICS, metrics)
    write_table(folder / SPLIT, ("cell", "split"), split)
    full = {
        "schema_version": SCHEMA_VERSION,
        **config,
        "features_digest": features_digest(features),
        "digests": {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.suffix in _DIGESTED},
    }
    full["digests"][CONFIG] = _config_digest(full)
    _write_json(folder / CONFIG, full)


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def _config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the config's values, without this digest itself and whatever the layout of the text."""
    others = {name: digest for name, digest in config["digests"].items() if name != CONFIG}
    text = json.dumps({**config, "digests": others}, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _changed(file: Path) -> InputError:
    return InputError(
        f"{file} is damaged or was changed: it does not match its digest in {CONFIG}", "copy the model directory anew"
    )


def check_file(config: Mapping[str, Any], file: Path) -> None:
    """Compare a file of a model directory with its digest, if ``config.json`` has one: older models lack some.

    Raises
    ------
    InputError
        The file is missing, damaged or was changed.
    """
    if file.name in config["digests"]:
        _check_digest(config, file)


def _check_digest(config: Mapping[str, Any], file: Path) -> None:
    try:
        found = _digest(file)
    except FileNotFoundError:
        raise InputError(f"{file.parent} lacks {file.name}", "copy the whole model directory") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    if found != config["digests"].get(file.name):
        raise _changed(file)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} lacks {path.name}", "copy the whole model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None


def is_bundle(path: Path | str) -> bool:
    """Whether a directory holds a finished model."""
    return (Path(path) / CONFIG).is_file()


def read_config(path: Path | str) -> dict[str, Any]:
    """``config.json`` of a model directory, checked.

    Raises
    ------
    InputError
        Not a model directory, training not finished, damaged, or of a newer schema.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a model directory", "give the folder that `scmap train` wrote")
    if not is_bundle(path):
        if (path / CHECKPOINTS).is_dir():
            raise InputError(f"the training in {path} has not finished", "run the same `scmap train` command again")
        raise InputError(f"{path} is not a model directory: it has no {CONFIG}")
    config = _read_json(path / CONFIG)
    version = config.get("schema_version") if isinstance(config, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path / CONFIG} says schema_version {version!r}, which is none of ours")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {version}; this scmap reads up to {SCHEMA_VERSION}", "upgrade scmap"
        )
    missing = [key for key in _KEYS if key not in config]
    if missing:
        raise InputError(f"{path / CONFIG} lacks {', '.join(missing)}", "copy the whole model directory")
    if not isinstance(config["digests"], dict) or config["digests"].get(CONFIG) != _config_digest(config):
        raise _changed(path / CONFIG)
    if config["model"] not in MODELS:
        raise InputError(f"{path} holds a {config['model']!r} model, which this scmap does not know", "upgrade scmap")
    return dict(config)


def read_features(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Names and mean counts from ``features.tsv``, in order; not yet checked against the digest."""
    file = Path(path) / FEATURES
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        names = np.array([row["name"] for row in rows], dtype=str)
        return names, np.array([float(row["mean"]) for row in rows], dtype=np.float64)
    except FileNotFoundError:
        raise InputError(f"{path} lacks {FEATURES}", "copy the whole model directory") from None
    except (KeyError, ValueError, TypeError, csv.Error, OSError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


def load_bundle(path: Path | str) -> Bundle:
    """Read and check a model directory.

    Raises
    ------
    InputError
        As :func:`read_config`; or tensors, features or categories are missing, damaged or do not match their digest.
        The message names the file.
    """
    path = Path(path)
    config = read_config(path)
    for name in (FEATURES, CATEGORIES, TENSORS):
        _check_digest(config, path / name)
    names, means = read_features(path)
    if features_digest(names) != config["features_digest"]:
        raise InputError(f"{path / FEATURES} was changed: it does not match the digest in {CONFIG}")
    categories = _read_json(path / CATEGORIES)
    if not isinstance(categories, dict) or not all(isinstance(v, list) for v in categories.values()):
        raise InputError(f"{path / CATEGORIES} is damaged")
    try:
        tensors = load_file(path / TENSORS)
    except FileNotFoundError:
        raise InputError(f"{path} lacks {TENSORS}", "copy the whole model directory") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path / TENSORS} is damaged: {error}") from None
    return Bundle(path, config, tensors, names, means, categories)


def read_program_sizes(path: Path | str) -> list[int | None]:
    """Column ``size_before`` of ``programs.tsv``: genes of each program in its source, None where it has none.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    file = Path(path) / PROGRAMS
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            cells = [row["size_before"] for row in csv.DictReader(handle, delimiter="\t")]
        return [int(cell) if cell else None for cell in cells]
    except FileNotFoundError:
        raise InputError(f"{path} lacks {PROGRAMS}", "copy the whole model directory") from None
    except (KeyError, ValueError, TypeError, csv.Error, OSError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


def read_table(file: Path) -> list[dict[str, str]]:
    """Rows of a table that :func:`write_table` wrote, by column.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle, delimiter="\t", strict=True))
    except FileNotFoundError:
        raise InputError(f"{file.parent} lacks {file.name}", "copy the whole model directory") from None
    except (csv.Error, ValueError, OSError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


def read_history(path: Path | str) -> list[dict[str, float]]:
    """Rows of ``history.csv``; empty cells are left out.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    file = Path(path) / HISTORY
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(handle)]
    except FileNotFoundError:
        raise InputError(f"{path} lacks {HISTORY}", "copy the whole model directory") from None
    except (ValueError, TypeError, csv.Error, OSError) as error:
        raise InputError(f"{file} is damaged: {error}") from None
