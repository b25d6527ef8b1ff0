"""The corpus: cells of many studies over one gene list, in shuffled parts of a zarr store.

::

    CORPUS.zarr/
      zarr.json            a zarr group; its attributes are the manifest: schema_version, genes, studies, genomes,
                           parts, history
      part-00000/          a zarr group of up to ``part_cells`` cells
        gene  count        uint16, the expressed genes and counts of all cells, one cell after another
        edges              int64 (n + 1), where each cell's entries begin
        total              float32 (n), counts of a cell over the gene list; 1e4 / total is its scale (CP10k)
        study              uint16 (n), code of the study
        cell               uint8, the cells' names as UTF-8, a line each

    .CORPUS.zarr.building/   parts of a build or an append that has not ended, and plan.json

The manifest holds the size and SHA-256 of every part. It is written last: parts that it does not list do not count.
Counts, not normalised values, are stored: log1p CP10k and bins
follow from them and from which genes are taken for observed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from scmap_cli.errors import InputError
from scmap_cli.io.atomic import atomic_dir, write_json
from scmap_cli.runtime.provenance import file_digest

SCHEMA_VERSION = 1
MANIFEST = "zarr.json"
MOST_GENES = 1 << 16
LARGEST_COUNT = (1 << 16) - 1

_AGAIN = "make the corpus again, or copy it anew"
_CHUNK, _SHARD = 1 << 20, 1 << 22
_DTYPES = {"gene": "u2", "count": "u2", "edges": "i8", "total": "f4", "study": "u2", "cell": "u1"}


@dataclass(frozen=True)
class Cells:
    """Cells of one part, or a stretch of them.

    Attributes
    ----------
    gene, count
        (m,) uint16 expressed genes, rising within a cell, and their counts.
    edges
        (n + 1,) int64.
    total
        (n,) float32 counts over the gene list.
    study
        (n,) uint16.
    names
        Names of the cells, or None where they were not read.
    """

    gene: np.ndarray
    count: np.ndarray
    edges: np.ndarray
    total: np.ndarray
    study: np.ndarray
    names: list[str] | None = None


@dataclass(frozen=True)
class Part:
    """What the manifest says of a part."""

    name: str
    cells: int
    entries: int
    digest: str


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk; parts are read as they are asked for.

    Attributes
    ----------
    path
        The folder.
    genes
        (g,) names; the order is that of the codes.
    studies
        Names of the studies in the order of their codes.
    parts
        In the order of the cells.
    history
        Records of the runs that made it.
    genomes
        Sorted, those that inputs said they are counted on; empty where none did.
    """

    path: Path
    genes: np.ndarray
    studies: list[str]
    parts: list[Part]
    history: list[dict[str, Any]] = field(default_factory=list)
    genomes: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of cells."""
        return sum(part.cells for part in self.parts)

    @property
    def entries(self) -> int:
        """Number of stored counts."""
        return sum(part.entries for part in self.parts)

    def read(self, number: int, names: bool = False) -> Cells:
        """Read a part, with the names of its cells if wanted.

        Raises
        ------
        InputError
            It is missing or damaged, or does not fit the manifest.
        """
        part = self.parts[number]
        arrays = self.columns(number, *(["cell"] if names else []), "gene", "count", "edges", "total", "study")
        edges = arrays["edges"]
        fits = (
            len(edges) == part.cells + 1
            and edges[0] == 0
            and edges[-1] == part.entries
            and bool((np.diff(edges) >= 0).all())
            and len(arrays["gene"]) == len(arrays["count"]) == part.entries
            and len(arrays["total"]) == len(arrays["study"]) == part.cells
            and (part.entries == 0 or int(arrays["gene"].max()) < len(self.genes))
            # zarr reads zeros where a file is missing.
            and (part.entries == 0 or int(arrays["count"].min()) > 0)
            and (part.cells == 0 or int(arrays["study"].max()) < len(self.studies))
        )
        if not fits:
            raise InputError(f"{self.path / part.name} does not fit the manifest of its corpus", _AGAIN)
        cell = arrays.pop("cell", None)
        return Cells(**arrays, names=None if cell is None else names_of(cell, part.cells))

    def columns(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """Some arrays of a part by name, not checked against each other.

        Raises
        ------
        InputError
            One is missing or damaged.
        """
        part = self.parts[number]
        try:
            group = zarr.open_group(self.path / part.name, mode="r")
            return {name: np.asarray(group[name][...]).astype(_DTYPES[name], copy=False) for name in names}  # type: ignore[index]
        except (KeyError, ValueError, OSError, RuntimeError, TypeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{self.path / part.name} is missing or damaged: {reason}", _AGAIN) from error

    def verify(self) -> None:
        """Compare every part with its checksum in the manifest.

        Raises
        ------
        InputError
            A part is missing, damaged or was changed.
        """
        for part in self.parts:
            check_part(self.path, part)

    def digest(self) -> str:
        """SHA-256 of genes, studies and the parts' own digests: equal for corpora of equal content."""
        text = json.dumps([self.genes.tolist(), self.studies, [asdict(part) for part in self.parts]])
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def names_of(cell: np.ndarray, cells: int) -> list[str]:
    """The names in the array ``cell`` of a part."""
    return cell.tobytes().decode("utf-8").split("\n")[:cells]


def building(path: Path) -> Path:
    """Where the parts of an unfinished build of this corpus are."""
    return path.with_name(f".{path.name}.building")


def is_corpus(path: Path) -> bool:
    """Whether a folder looks like a corpus."""
    return path.is_dir() and (path / MANIFEST).is_file()


def open_corpus(path: Path | str) -> Corpus:
    """Read the manifest of a corpus.

    Raises
    ------
    InputError
        There is no corpus, its building has not ended, it is damaged, or a newer scmap wrote it.
    """
    path = Path(path)
    if not is_corpus(path):
        if building(path).is_dir():
            raise InputError(
                f"{path} is a corpus whose building has not ended", "run the same preprocess corpus command again"
            )
        raise InputError(f"{path} is no corpus", "make one: scmap preprocess corpus *.h5ad -o corpus.zarr")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["attributes"]["scmap_corpus"]
        version = manifest["schema_version"]
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(f"{path} has schema_version {version}; this scmap reads up to {SCHEMA_VERSION}", "upgrade")
        genes = np.array(manifest["genes"], dtype=str)
        parts = [Part(**part) for part in manifest["parts"]]
        studies, history = [str(s) for s in manifest["studies"]], list(manifest["history"])
        # Corpora of before this was written down say nothing.
        found = Corpus(path, genes, studies, parts, history, [str(name) for name in manifest.get("genomes", [])])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path / MANIFEST} is damaged: {error}", _AGAIN) from None
    if not 0 < len(genes) <= MOST_GENES or not found.parts:
        raise InputError(f"{path} holds no cells", _AGAIN)
    return found


def check_part(path: Path, part: Part) -> None:
    """Compare a part with its checksum; :class:`InputError` says which does not fit."""
    if not (path / part.name).is_dir() or file_digest(path / part.name) != part.digest:
        raise InputError(f"{path / part.name} is missing, damaged or was changed", _AGAIN)


def write_part(path: Path, name: str, cells: Cells) -> Part:
    """Write a part atomically into the folder of a corpus, replacing one that a killed run left.

    Raises
    ------
    WriteError
        As :func:`scmap_cli.io.atomic.atomic_dir`.
    """
    lines = "\n".join(cells.names or []).encode("utf-8")
    arrays = {key: getattr(cells, key) for key in _DTYPES if key != "cell"} | {"cell": np.frombuffer(lines, np.uint8)}
    with atomic_dir(path / name, force=True) as folder:
        group = zarr.open_group(folder, mode="w")
        for key, values in arrays.items():
            shard = min(_SHARD, -(-max(len(values), 1) // _CHUNK) * _CHUNK)
            array = group.create_array(
                key,
                shape=values.shape,
                dtype=_DTYPES[key],
                chunks=(min(_CHUNK, shard),),
                shards=(shard,),
                compressors=ZstdCodec(level=1),
            )
            array[...] = values.astype(_DTYPES[key], copy=False)
    return Part(name, len(cells.total), len(cells.gene), file_digest(path / name))


def write_manifest(corpus: Corpus) -> None:
    """Make the folder a corpus of the parts that are listed."""
    manifest: Mapping[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cells": corpus.n,
        "entries": corpus.entries,
        "studies": corpus.studies,
        "genomes": corpus.genomes,
        "parts": [asdict(part) for part in corpus.parts],
        "history": corpus.history,
        "genes": corpus.genes.tolist(),
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"scmap_corpus": manifest}}
    write_json(corpus.path / MANIFEST, group, force=True)
