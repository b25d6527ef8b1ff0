"""One gene list for many files: given, or the union of theirs, and where each file's genes are in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmap_cli.data.features import align
from scmap_cli.errors import InputError
from scmap_cli.io.gene_table import ENSEMBL, GeneTable


@dataclass(frozen=True)
class Vocabulary:
    """A gene list and the place of each file's columns in it.

    Attributes
    ----------
    genes
        (g,) names.
    codes
        For each file (q,) int32: place of a column in ``genes``, -1 where it is not in the list.
    repeated
        For each file how many columns are left out because they share their name with another.
    """

    genes: np.ndarray
    codes: list[np.ndarray]
    repeated: list[int]

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
        Smallest share of genes in common, of the shorter one: of a file with the list, or, if there is none, of one
        file with another, so that such pairs link all files.

    Raises
    ------
    InputError
        Files have too few genes in common; the message tells why that may be.
    """
    told = [_canonical(one, table) for one in names]
    if listed is not None:
        genes = np.asarray(listed, dtype=str)
        wanted = _canonical(genes, table)[0] if table is not None else genes
    else:
        genes = wanted = np.array(sorted({name for one, _ in told for name in one.tolist()} - {""}), dtype=str)
    for label, (one, repeated) in zip(labels, told, strict=True):
        if repeated and not (one != "").any():
            raise InputError(f"{label}: every gene name occurs more than once", "name genes by another --gene-column")
    if not len(genes):
        raise InputError("no gene is left in the list", "look at the gene table and the names of the inputs' genes")
    codes = [_codes(one, wanted) for one, _ in told]
    known = np.zeros((len(codes), len(genes)), dtype=bool)
    for row, code in zip(known, codes, strict=True):
        row[code[code >= 0]] = True
    if listed is None:
        _check_linked(labels, names, known, min_overlap)
    else:
        for label, raw, (one, _), row in zip(labels, names, told, known, strict=True):
            common, least = int(row.sum()), max(min(int((one != "").sum()), len(genes)), 1)
            if common < max(1, min_overlap * least):
                raise InputError(f"{label} has {common} of {least} genes in common with the list", _why(raw, genes))
    return Vocabulary(genes, codes, [repeated for _, repeated in told])


def _check_linked(labels: Sequence[str], names: Sequence[np.ndarray], known_fg: np.ndarray, min_overlap: float) -> None:
    """Files are linked by pairs with enough genes in common; two of other names do not vouch for each other."""
    size_f = np.maximum(known_fg.sum(1), 1)

    def overlap(i: int, others: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Genes that a file shares with others, and those of the shorter one."""
        return (known_fg[others] & known_fg[i]).sum(1), np.minimum(size_f[others], size_f[i])

    found: list[int] = []
    front, apart = [0], list(range(1, len(labels)))
    while front:
        found.append(front.pop())
        common, least = overlap(found[-1], apart)
        linked = common >= np.maximum(1, min_overlap * least)
        front += [j for j, one in zip(apart, linked, strict=True) if one]
        apart = [j for j, one in zip(apart, linked, strict=True) if not one]
    if not apart:
        return
    few, rest = (apart, found) if len(apart) <= len(found) else (found, apart)
    common, least = overlap(few[0], rest)
    most = int((common / least).argmax())
    raise InputError(
        f"{labels[few[0]]} has {common[most]} of {least[most]} genes in common with {labels[rest[most]]}",
        _why(names[few[0]], names[rest[most]]),
    )


def _canonical(names: np.ndarray, table: GeneTable | None) -> tuple[np.ndarray, int]:
    """Names as the list has them, and how many share theirs with another.

    The name is empty for these, and for a gene that the table lacks.
    """
    found: list[str] = names.tolist()
    if table is not None:
        found = [table.name(name) for name in found]
    count = Counter(found)
    single = np.array([name if count[name] == 1 else "" for name in found], dtype=str)
    return single, len(found) - count[""] - int((single != "").sum())


def _codes(names: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """(q,) int32 place of each name in the list, -1 where it is not."""
    own, listed = np.flatnonzero(names != ""), np.flatnonzero(genes != "")
    index = align(names[own], genes[listed]).index
    code = np.full(len(names), -1, dtype=np.int32)
    present = np.flatnonzero(index >= 0)
    code[own[index[present]]] = listed[present]
    return code


def kind_of(names: np.ndarray) -> str:
    """What gene names look like: ``Ensembl identifiers (ENSG)``, ``symbols`` and the like."""
    sample = names[:2000].tolist()
    ensembl = [name for name in sample if ENSEMBL.match(name)]
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
