"""One gene list for many files: given, or the union of theirs, and where each file's genes are in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmap_cli.data.features import align
from scmap_cli.errors import InputError
from scmap_cli.io.gene_table import GeneTable, stem

_ENSEMBL = re.compile(r"^ENS[A-Z]*G?\d{6,}")


@dataclass(frozen=True)
class Vocabulary:
    """A gene list and the place of each file's columns in it.

    Attributes
    ----------
    genes
        (g,) names.
    codes
        For each file (q,) int32: place of a column in ``genes``, -1 where it is not in the list.
    """

    genes: np.ndarray
    codes: list[np.ndarray]

    def matched(self, number: int) -> int:
        """Genes of the list that a file has."""
        return int((self.codes[number] >= 0).sum())


def make_vocabulary(
    labels: Sequence[str],
    names: Sequence[np.ndarray],
    listed: Sequence[str] | None,
    table: GeneTable | None,
    min_overlap: float,
) -> Vocabulary:
    """Bring the genes of several files to one list.

    Parameters
    ----------
    labels
        What to call each file in messages.
    names
        Gene names of each file.
    listed
        The gene list, in its order; None takes the sorted union.
    table
        Other names of genes; those that it does not hold are left out. Without it names must agree, but for the
        versions of Ensembl identifiers.
    min_overlap
        Smallest share of genes in common with the list (of the other files, if there is none), of the shorter one.

    Raises
    ------
    InputError
        A file has too few genes in common with the rest; the message tells why that may be.
    """
    told = [_canonical(one, table) for one in names]
    if listed is not None:
        genes = np.asarray(listed, dtype=str)
        wanted = _canonical(genes, table) if table is not None else genes
    else:
        genes = wanted = np.array(sorted({name for one in told for name in one.tolist()} - {""}), dtype=str)
    if not len(genes):
        raise InputError("no gene is left in the list", "look at the gene table and the names of the inputs' genes")
    codes = []
    for label, raw, one in zip(labels, names, told, strict=True):
        code = _codes(one, wanted, label)
        codes.append(code)
        others = len(genes)
        common = int((code >= 0).sum())
        if listed is None and len(names) > 1:
            rest = {name for other in told if other is not one for name in other.tolist()} - {""}
            others, common = len(rest), len(rest & set(one.tolist()))
        least = max(min(int((one != "").sum()), others), 1)
        if common < max(1, min_overlap * least):
            known = np.concatenate([other for other in names if other is not raw]) if listed is None else genes
            raise InputError(
                f"{label} has {common} of {least} genes in common with the {'list' if listed else 'other inputs'}",
                _why(raw, known),
            )
    return Vocabulary(genes, codes)


def _canonical(names: np.ndarray, table: GeneTable | None) -> np.ndarray:
    """Names as the list has them; empty for a gene that the table lacks, or that shares its name with another."""
    if table is None:
        return np.asarray(names, dtype=str)
    found = [table.canonical.get(name, table.canonical.get(stem(name), "")) for name in names.tolist()]
    count = Counter(found)
    return np.array([name if count[name] == 1 else "" for name in found], dtype=str)


def _codes(names: np.ndarray, genes: np.ndarray, label: str) -> np.ndarray:
    """(q,) int32 place of each name in the list, -1 where it is not."""
    count = Counter(names.tolist())
    unique = np.array([name != "" and count[name] == 1 for name in names.tolist()], dtype=bool)
    repeated = int((~unique & (names != "")).sum())
    if repeated == len(names):
        raise InputError(f"{label}: every gene name occurs more than once", "name genes by another --gene-column")
    index = align(names[unique], genes).index
    code = np.full(len(names), -1, dtype=np.int32)
    present = np.flatnonzero(index >= 0)
    code[np.flatnonzero(unique)[index[present]]] = present
    return code


def kind_of(names: np.ndarray) -> str:
    """What gene names look like: ``Ensembl identifiers (ENSG)``, ``symbols`` and the like."""
    sample = names[:2000].tolist()
    ensembl = [name for name in sample if _ENSEMBL.match(name)]
    if len(ensembl) > len(sample) / 2:
        return f"Ensembl identifiers ({re.sub(r'[0-9].*', '', ensembl[0])})"
    upper = sum(name == name.upper() for name in sample)
    return "symbols in capitals (human)" if upper > len(sample) * 0.6 else "symbols in mixed case (mouse)"


def _why(names: np.ndarray, others: np.ndarray) -> str:
    own, rest = kind_of(names), kind_of(others)
    if own != rest:
        way = (
            "--gene-column, or give a --gene-table with both names"
            if "Ensembl" in own + rest
            else "a table of homologs"
        )
        return f"its genes are {own}, the others {rest}: bring them together with {way}"
    return f"its genes look like {', '.join(names[:3])}, the others like {', '.join(others[:3])}; see --gene-column"
