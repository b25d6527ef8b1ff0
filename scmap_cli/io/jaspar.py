"""Binding motifs as position frequency matrices in JASPAR's format, plain or gzip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io.text import open_text

BASES = "ACGT"
"""Order of the bases everywhere."""

_ROW = re.compile(r"(?:([ACGTacgt])\s*)?\[?\s*([^\[\]]*?)\s*\]?")
_LONGEST = 100
# Rows of shares do not sum to one exactly.
_SHARES = 0.05
_SITES = 100.0
_REMEDY = "give motifs in JASPAR's format: a line >ID NAME, then a row of counts for each of A, C, G and T"


@dataclass(frozen=True)
class Motif:
    """One motif.

    Attributes
    ----------
    id, name
        As in the file, ``MA0139.1`` and ``CTCF``; the name is the identifier where there is none.
    counts_l4
        (length, 4) float64 counts of A, C, G, T at each place.
    """

    id: str
    name: str
    counts_l4: np.ndarray

    @property
    def label(self) -> str:
        """Identifier and name in one word, as chromVAR writes them."""
        return self.id if self.name == self.id else f"{self.id}_{self.name}"


def read_jaspar(path: Path | str) -> list[Motif]:
    """Read motifs in file order.

    Parameters
    ----------
    path
        For each motif a line ``>ID NAME`` and four rows of numbers, which begin with their base (``A [ 4 19 0 ]``) or
        are in the order A, C, G, T. A matrix whose columns all sum to one is taken as shares of 100 sites.

    Raises
    ------
    InputError
        A row is missing, broken or of another length than the others (with its line number), a count is negative, a
        place has no count at all, an identifier is repeated, or there is no motif.
    """
    path = Path(path)
    motifs: list[Motif] = []
    header: tuple[int, str, str] | None = None
    rows: dict[str, np.ndarray] = {}

    def close() -> None:
        if header is not None:
            motifs.append(_motif(path, *header, rows))

    with open_text(path) as handle:
        for number, raw in enumerate(handle, 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            if line.startswith(">"):
                close()
                identifier, _, name = line[1:].strip().replace("\t", " ").partition(" ")
                if not identifier:
                    raise InputError(f"{path}, line {number}: a motif has no identifier", _REMEDY)
                header, rows = (number, identifier, name.strip() or identifier), {}
                continue
            if header is None:
                raise InputError(f"{path}, line {number}: a row of numbers before the first motif", _REMEDY)
            base, values = _row(path, number, line, len(rows))
            if base in rows:
                raise InputError(f"{path}, line {number}: motif {header[1]} has a second row of {base}", _REMEDY)
            rows[base] = values
    close()
    if not motifs:
        raise InputError(f"{path} holds no motif", _REMEDY)
    seen: set[str] = set()
    for motif in motifs:
        if motif.id in seen:
            raise InputError(f"{path} holds motif {motif.id} twice", "give each identifier once")
        seen.add(motif.id)
    return motifs


def _row(path: Path, number: int, line: str, place: int) -> tuple[str, np.ndarray]:
    found = _ROW.fullmatch(line)
    try:
        if found is None:
            raise ValueError
        values = np.array([float(word) for word in found[2].split()])
    except ValueError:
        raise InputError(f"{path}, line {number}: {line[:40]!r} is no row of a motif", _REMEDY) from None
    if place >= len(BASES):
        raise InputError(f"{path}, line {number}: a fifth row of a motif", _REMEDY)
    if not 1 <= len(values) <= _LONGEST:
        raise InputError(f"{path}, line {number}: a motif has 1 to {_LONGEST} places, here {len(values)}", _REMEDY)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(f"{path}, line {number}: a count is negative or not finite", _REMEDY)
    return (found[1].upper() if found[1] else BASES[place]), values


def _motif(path: Path, number: int, identifier: str, name: str, rows: dict[str, np.ndarray]) -> Motif:
    missing = [base for base in BASES if base not in rows]
    if missing:
        raise InputError(f"{path}, line {number}: motif {identifier} lacks the row of {', '.join(missing)}", _REMEDY)
    lengths = [len(rows[base]) for base in BASES]
    if len(set(lengths)) > 1:
        told = ", ".join(map(str, lengths))
        raise InputError(f"{path}, line {number}: the rows of motif {identifier} have {told} places", _REMEDY)
    counts_l4 = np.stack([rows[base] for base in BASES], axis=1)
    total_l = counts_l4.sum(1)
    if (total_l == 0).any():
        raise InputError(
            f"{path}, line {number}: place {int(np.argmax(total_l == 0)) + 1} of motif {identifier} has no count",
            "leave the motif or its empty places out",
        )
    if (np.abs(total_l - 1) < _SHARES).all():
        counts_l4 = _SITES * counts_l4 / total_l[:, None]
    return Motif(identifier, name, counts_l4)
