"""What is known of genes, as text: embedding tables, pairs, scores, lists, and links of STRING."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io.h5ad import is_sparse, read_h5ad
from scmap_cli.io.npz import read_npz
from scmap_cli.io.text import open_text

_HEADS = {"gene", "genes", "gene_name", "symbol", "name"}
_TRUE, _FALSE = {"1", "true", "positive", "yes"}, {"0", "false", "negative", "no", "-1"}


def read_embedding(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Names (g,) and vectors (g, d) float32 of a gene embedding table.

    Parameters
    ----------
    path
        npz (arrays ``embedding`` and ``genes``), h5ad (genes are rows of ``X``), or text: a gene and its numbers a
        line, separated by tabs or spaces; a header line, and the first line of word2vec files, are passed over.

    Raises
    ------
    InputError
        It is no such table, vectors differ in length, hold no finite numbers, or a gene occurs twice.
    """
    path = Path(path)
    if path.suffix == ".npz":
        _, arrays = read_npz(path, foreign=True)
        if not {"embedding", "genes"} <= arrays.keys():
            raise InputError(
                f"{path} has no arrays embedding and genes", f"arrays in it: {', '.join(arrays) or 'none'}"
            )
        names, table_gd = arrays["genes"].astype(str), arrays["embedding"]
    elif path.suffix == ".h5ad":
        adata = read_h5ad(path)
        names = adata.obs_names.to_numpy().astype(str)
        table_gd = adata.X.toarray() if is_sparse(adata.X) else np.asarray(adata.X)
    else:
        names, table_gd = _text_embedding(path)
    if table_gd.ndim != 2 or table_gd.shape[0] != len(names) or not len(names):
        raise InputError(f"{path}: {len(names)} genes but vectors of shape {table_gd.shape}")
    table_gd = table_gd.astype(np.float32)
    if not np.isfinite(table_gd).all():
        raise InputError(f"{path}: {int((~np.isfinite(table_gd)).sum())} values are not finite")
    if len(np.unique(names)) < len(names):
        raise InputError(f"{path} names {len(names) - len(np.unique(names))} genes more than once")
    return names, table_gd


def _text_embedding(path: Path) -> tuple[np.ndarray, np.ndarray]:
    names: list[str] = []
    rows: list[np.ndarray] = []
    with open_text(path) as handle:
        for number, line in enumerate(handle, 1):
            fields = line.split()
            if not fields:
                continue
            try:
                vector = np.array(fields[1:], dtype=np.float32)
            except ValueError:
                if number == 1:
                    continue
                raise InputError(
                    f"{path}, line {number}: a value is not a number", "one gene and its numbers a line"
                ) from None
            # Sizes head a word2vec file; numbers can head a table's columns.
            if number == 1 and (fields[0].lower() in _HEADS or (len(fields) == 2 and fields[0].isdigit())):
                continue
            if rows and len(vector) != len(rows[0]):
                raise InputError(f"{path}, line {number}: {len(vector)} numbers, {len(rows[0])} expected")
            names.append(fields[0])
            rows.append(vector)
    if not rows or not len(rows[0]):
        raise InputError(f"{path} holds no vectors", "one gene and its numbers a line")
    return np.array(names, dtype=str), np.stack(rows)


def _rows(path: Path | str, fields: tuple[int, ...], what: str) -> list[list[str]]:
    """Fields of the lines of a table, separated by tabs, commas or spaces; the first row may be a header."""
    rows: list[list[str]] = []
    with open_text(path) as handle:
        for number, line in enumerate(handle, 1):
            row = line.replace(",", "\t").split("\t") if "\t" in line or "," in line else line.split()
            row = [field.strip() for field in row]
            if not any(row) or row[0].startswith("##"):
                continue
            if len(row) not in fields:
                raise InputError(f"{path}, line {number}: {len(row)} fields; {what}")
            rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty", what)
    return rows


def read_pairs(path: Path | str) -> tuple[list[tuple[str, str]], np.ndarray | None]:
    """Pairs of genes, and whether they are related (bool), None where the table has no third column.

    Raises
    ------
    InputError
        A row has other than two or three fields, or a label that is neither 0 nor 1.
    """
    rows = _rows(path, (2, 3), "give gene_a, gene_b and, if negatives are known, a label 0 or 1")
    header = rows[0][-1].lower() not in _TRUE | _FALSE if len(rows[0]) == 3 else rows[0][0].lower().startswith("gene")
    rows = rows[1:] if header else rows
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"{path} holds no pairs, or rows of two and of three fields")
    pairs = [(row[0], row[1]) for row in rows]
    if len(rows[0]) == 2:
        return pairs, None
    labels = [row[2].lower() for row in rows]
    for number, label in enumerate(labels, 1 + header):
        if label not in _TRUE | _FALSE:
            raise InputError(f"{path}, line {number}: label {label!r} is neither 0 nor 1")
    return pairs, np.array([label in _TRUE for label in labels], dtype=bool)


def read_links(
    path: Path | str, names: Path | str | None, channel: str, positive_above: float
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Pairs of a STRING links file, related where a channel's score is above a threshold; equal scores are left out.

    Parameters
    ----------
    path
        ``protein.links.detailed`` and the like: a header, protein1, protein2 and scores, separated by spaces.
    names
        Table of proteins and gene names (STRING's ``protein.info``: its first two columns); None takes the proteins'
        names as they are.
    channel
        Column of the score, such as ``experimental``.
    positive_above
        Scores above are related, scores below are not.

    Raises
    ------
    InputError
        There is no such column, or a score is no number.
    """
    gene_of: dict[str, str] | None = None
    if names is not None:
        with open_text(names) as handle:
            split = [line.rstrip("\r\n").split("\t") for line in handle if line.strip() and not line.startswith("#")]
        gene_of = {row[0]: row[1] for row in split if len(row) > 1}
    found: dict[tuple[str, str], float] = {}
    with open_text(path) as handle:
        header = next(handle, "").split()
        if channel not in header or len(header) < 3:
            raise InputError(f"{path} has no column {channel!r}", f"columns: {' '.join(header[:12]) or 'none'}")
        at = header.index(channel)
        for number, line in enumerate(handle, 2):
            row = line.split()
            try:
                score = float(row[at])
            except (IndexError, ValueError):
                raise InputError(f"{path}, line {number}: no score in column {channel!r}") from None
            ends = row[:2] if gene_of is None else [gene_of.get(end, "") for end in row[:2]]
            if all(ends) and ends[0] != ends[1]:
                key = (min(ends), max(ends))
                found[key] = max(score, found.get(key, 0.0))
    kept = {pair: score for pair, score in found.items() if score != positive_above}
    if not kept:
        raise InputError(f"{path} holds no link between named genes", "give STRING's protein.info by --protein-names")
    return list(kept), np.array([score > positive_above for score in kept.values()], dtype=bool)


def read_scores(path: Path | str) -> dict[str, float]:
    """A number for each gene, from two columns; genes without a number (``NA``) are left out.

    Raises
    ------
    InputError
        A value is no number, or a gene has two.
    """
    rows = _rows(path, (2,), "give a gene and its score a line")
    scores: dict[str, float] = {}
    for number, (gene, text) in enumerate(rows, 1):
        if text.lower() in ("na", "nan", ""):
            continue
        try:
            value = float(text)
        except ValueError:
            if number == 1:
                continue
            raise InputError(f"{path}, row {number}: {text!r} is not a number") from None
        if gene in scores and scores[gene] != value:
            raise InputError(f"{path}: {gene} has two scores")
        scores[gene] = value
    return scores


def read_lists(path: Path | str) -> dict[str, set[str]]:
    """Lists of genes in long form: the name of a list and a gene a line, with or without a header ``list gene``."""
    rows = _rows(path, (2,), "give the name of a list and a gene a line")
    lists: dict[str, set[str]] = {}
    for name, gene in rows[1:] if [field.lower() for field in rows[0]] == ["list", "gene"] else rows:
        lists.setdefault(name, set()).add(gene)
    return lists
