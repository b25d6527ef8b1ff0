"""Sequences of regions from a FASTA file, plain or bgzip, through its index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pysam

from scmap_cli.errors import InputError
from scmap_cli.io.bgzf import packing

UNKNOWN = 4
"""Code of any letter that is no A, C, G or T (codes 0 to 3), such as N."""

_CODES = np.full(256, UNKNOWN, dtype=np.uint8)
for _code, _base in enumerate("ACGT"):
    _CODES[[ord(_base), ord(_base.lower())]] = _code
_REMEDY = "give the FASTA of the genome that the peaks are on, plain or bgzip"


@contextmanager
def _opened(path: Path) -> Iterator[pysam.FastaFile]:
    """The file with its index; one that is missing or older than the file is made in the temporary folder."""
    if not path.is_file():
        raise InputError(f"{path} does not exist", _REMEDY)
    with tempfile.TemporaryDirectory(prefix="scmap-") as folder:
        source = path
        if not _indexed(path):
            # htslib writes the index beside the name that it is given.
            source = Path(folder) / path.name
            source.symlink_to(path.resolve())
        try:
            handle = pysam.FastaFile(str(source))
        except (OSError, ValueError):
            how = ": it is packed by gzip, not bgzip" if packing(path) == "gzip" else ""
            raise InputError(f"{path} cannot be read as FASTA{how}", _REMEDY) from None
        with handle:
            yield handle


def _indexed(path: Path) -> bool:
    """Whether all that the file is indexed by lies beside it and is not older."""
    wanted = [".fai"] if packing(path) == "none" else [".fai", ".gzi"]
    beside = [Path(f"{path}{ending}") for ending in wanted]
    return all(file.is_file() and file.stat().st_mtime >= path.stat().st_mtime for file in beside)


def read_regions(path: Path | str, chrom: np.ndarray, start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """Sequences of regions as codes of their letters.

    Parameters
    ----------
    path
        FASTA, plain or bgzip.
    chrom, start, end
        (P,) regions, 0-based and half-open.

    Returns
    -------
    list of ndarray
        uint8 codes of each region, 0 to 3 for A, C, G, T in either case and :data:`UNKNOWN` for all else.

    Raises
    ------
    InputError
        The file is absent or no FASTA, a chromosome is not in it, or a region reaches beyond the end of one.
    """
    path = Path(path)
    with _opened(path) as handle:
        length = dict(zip(handle.references, handle.lengths, strict=True))
        missing = sorted(set(chrom.tolist()) - set(length))
        if missing:
            shown = ", ".join(map(repr, missing[:4]))
            raise InputError(
                f"{len(missing)} chromosomes of the peaks are not in {path}: {shown} (it has "
                f"{', '.join(map(repr, list(length)[:4]))})",
                "give the FASTA of the same genome, or drop these chromosomes",
            )
        beyond = end > np.array([length[name] for name in chrom.tolist()])
        if beyond.any():
            first = int(np.argmax(beyond))
            raise InputError(
                f"{int(beyond.sum())} peaks reach beyond the end of their chromosome in {path}, first "
                f"{chrom[first]}:{start[first]}-{end[first]} of {length[str(chrom[first])]} bases",
                "give the FASTA of the assembly that the reads were mapped to",
            )
        try:
            return [
                _CODES[np.frombuffer(handle.fetch(str(c), int(a), int(b)).encode("latin-1"), dtype=np.uint8)]
                for c, a, b in zip(chrom, start, end, strict=True)
            ]
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}", _REMEDY) from None
