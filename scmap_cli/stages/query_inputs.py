"""What ``scmap map-query`` reads: the model, the query, programs that it brings, and the cells of the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.bundle import Bundle, load_bundle
from scmap_cli.io.programs import load_programs
from scmap_cli.metrics.transfer import labelled
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.registry import get_model
from scmap_cli.runtime.logs import log
from scmap_cli.stages.inputs import (
    RnaInput,
    aligned_counts,
    condition_labels,
    model_conditions,
    programs_over,
    text_column,
)


@dataclass(frozen=True)
class Added:
    """Programs that the query brings: memberships over the model's genes, names, sizes before the overlap."""

    mask_gk: sparse.csc_matrix | None
    names: list[str]
    size_before: list[int | None]


@dataclass
class Cells:
    """Cells of one file: what was read, counts in the model's gene order, conditions, labels, and the embedding."""

    data: RnaInput
    counts: sparse.csr_matrix
    conditions: np.ndarray
    codes: np.ndarray
    labels: np.ndarray | None = None
    mean_nz: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class Query:
    """Cells of a query, all conditions of the extended model (the known ones first), and the overlap of genes."""

    cells: Cells
    conditions: list[str]
    n_known: int
    report: dict[str, Any]


def read_reference(bundle: Bundle, path: Path, label_key: str | None) -> Cells:
    """The reference's cells, not embedded yet, with their labels as text (empty where missing).

    Counts and gene names are looked for in the usual places, wherever the query has its own.

    Raises
    ------
    InputError
        The file has genes or conditions that are not those of the reference, no column of labels, or no label in it.
    """
    data, counts, _ = aligned_counts(bundle, path, min_overlap=1.0)
    conditions, codes = model_conditions(bundle, data, None, path, reference=True)
    labels = text_column(data.adata.obs, label_key, path) if label_key is not None else None
    if labels is not None and not labelled(labels).any():
        raise InputError(f"no cell of {path} has a label in obs column {label_key!r}", "give another --label-key")
    return Cells(data, counts, conditions, codes, labels)


def reference_model(path: Path) -> Bundle:
    """The directory of a model that queries can be mapped onto; :class:`InputError` for any other."""
    bundle = load_bundle(path)
    kind = get_model(bundle.config["model"]).load()
    if "map_query" not in kind.capabilities or not issubclass(kind, ExpiMap):
        remedy = "map onto a model of `scmap train expimap`"
        if kind.features == "peaks":
            remedy = (
                "its encoder is not told batches, so that parameters of a new one would move no cell: "
                "embed the cells as they are by `scmap embed`"
            )
        raise InputError(f"{path} holds a {bundle.config['model']} model, which queries cannot be mapped onto", remedy)
    return bundle


def aligned_query(
    bundle: Bundle,
    path: Path,
    batch_key: str | None,
    one_batch: str | None,
    layer: str | None,
    gene_column: str | None,
    min_overlap: float,
    missing: str,
) -> Query:
    """The query in the gene order of the model, its conditions coded behind those that the model knows.

    Parameters
    ----------
    bundle, path
        The reference's model, and the query.
    batch_key, one_batch, layer, gene_column, min_overlap, missing
        As :func:`scmap_cli.stages.map_query.map_query`.

    Raises
    ------
    UsageError
        ``one_batch`` is a batch of the reference.
    InputError
        As :func:`~scmap_cli.stages.inputs.aligned_counts`, or there is no such column.
    """
    data, counts, report = aligned_counts(
        bundle, path, layer=layer, gene_column=gene_column, min_overlap=min_overlap, missing=missing
    )
    usual = bundle.config["batch_key"]
    key = batch_key or (usual if usual in data.adata.obs else None)
    known = bundle.categories["condition"]
    if one_batch in known:
        raise UsageError(f"the reference has a batch {one_batch!r} already", "give --one-batch another name")
    if one_batch is not None or key is None:
        labels = np.full(len(data.cells), one_batch or _fresh("query", set(known)))
    else:
        labels = condition_labels(data.adata.obs, key, path)
    present = set(labels.tolist())
    new = sorted(present - set(known))
    if present & set(known):
        shared = ", ".join(map(repr, sorted(present & set(known))[:5]))
        log.warning("taken for batches of the reference, by their names in %r: %s", key, shared)
    conditions = [*known, *new]
    position = {name: i for i, name in enumerate(conditions)}
    codes = np.array([position[label] for label in labels], dtype=np.int64)
    return Query(Cells(data, counts, labels, codes), conditions, len(known), report)


def added_programs(bundle: Bundle, path: Path | None, new_programs: int) -> Added:
    """Programs of ``path`` over the model's genes, then the unconstrained ones; names that the model does not have.

    Raises
    ------
    InputError
        A program has none of the model's genes.
    """
    taken = set(bundle.categories["latent"])
    names: list[str] = []
    size_before: list[int | None] = []
    mask: sparse.csc_matrix | None = None
    if path is not None:
        table = load_programs(path)
        mask = programs_over(table, bundle.features)
        size_k = np.asarray(mask.sum(0, dtype=np.int64)).ravel()
        empty = [str(name) for name in table.programs[size_k == 0]]
        if empty:
            raise InputError(
                f"{len(empty)} programs of {path} have none of the model's genes, such as {empty[0]}",
                "make the file anew with --genes of the model's data and --min-genes",
            )
        for name, size in zip(table.programs, table.size_before, strict=True):
            names.append(_fresh(str(name), taken))
            size_before.append(int(size))
    for number in range(1, new_programs + 1):
        names.append(_fresh(f"new_{number}", taken))
        size_before.append(None)
    return Added(mask, names, size_before)


def _fresh(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if the model has it already."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
