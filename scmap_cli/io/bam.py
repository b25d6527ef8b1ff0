"""Fragments from aligned read pairs: a BAM file becomes the blocks that a fragments file gives.

A fragment is a proper pair whose two reads pass the filters. It goes from the first base of the forward read to the
last of the reverse read, both moved to the middle of the transposase's cut (+4 and -5, Buenrostro et al. 2013,
doi:10.1038/nmeth.2688). Pairs of one barcode with the same two ends are copies of one molecule and count once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pysam

from scmap_cli.errors import InputError
from scmap_cli.io.bgzf import AGAIN, packing, pieces
from scmap_cli.io.fragments import Block
from scmap_cli.io.parsing import as_text
from scmap_cli.runtime.logs import log


@dataclass(frozen=True)
class BamOptions:
    """How read pairs become fragments.

    Attributes
    ----------
    barcode_from
        Two-letter tag with the barcode, or ``name`` for the name of the read.
    barcode_regex
        Its first group is the barcode in a read's name.
    min_mapq
        Smallest mapping quality of both reads.
    keep_duplicates
        Take pairs that are marked as duplicates, and count each copy.
    shift_start, shift_end
        Bases added to the ends of a fragment.
    """

    barcode_from: str = "CB"
    barcode_regex: str = "^([^:]+):"
    min_mapq: int = 30
    keep_duplicates: bool = False
    shift_start: int = 4
    shift_end: int = -5


def is_bam(path: Path | str) -> bool:
    """Whether a file is BAM, by its content.

    Raises
    ------
    InputError
        It is absent, empty or unreadable; or a CRAM file, which is not read.
    """
    path = Path(path)
    if packing(path) != "bgzf":
        with path.open("rb") as handle:
            if handle.read(4) == b"CRAM":
                raise InputError(f"{path} is a CRAM file", "turn it into BAM, as with samtools view -b")
        return False
    return next(iter(pieces(path)))().startswith(b"BAM\1")


class _Fragments:
    """Fragments of one chromosome, barcodes as numbers."""

    def __init__(self) -> None:
        self.start, self.end, self.cell = array("i"), array("i"), array("i")

    def block(self, chrom: str, names: list[str], copies: bool) -> Block:
        columns = np.array([self.cell, self.start, self.end], np.int32)
        if copies:
            support = np.ones(columns.shape[1], np.int32)
        else:
            columns, counts = np.unique(columns, axis=1, return_counts=True)
            support = counts.astype(np.int32)
        cell, start, end = columns
        used, local = np.unique(cell, return_inverse=True)
        text, places, keys = as_text([names[i] for i in used])
        codes = np.zeros(len(start), np.int32)
        return Block([chrom], codes, start, end, local.astype(np.int32), support, text, places, keys)


def bam_blocks(
    path: Path | str, options: BamOptions, threads: int = 1, sizes: Mapping[str, int] | None = None
) -> Iterator[Block]:
    """Yield the fragments of a BAM file, chromosome by chromosome.

    Memory is that of one chromosome's fragments where the file is sorted by coordinate, else of all (12 bytes each).

    Parameters
    ----------
    path
        BAM, sorted in any way; no index is needed.
    options
        Filters and where the barcode is.
    threads
        Threads that inflate.
    sizes
        Bases of each chromosome: the file must have been aligned to these.

    Raises
    ------
    InputError
        The file is truncated or corrupt, has no proper pairs that pass, no barcodes, or other chromosomes.
    """
    path = Path(path)
    before = pysam.set_verbosity(0)
    try:
        with pysam.AlignmentFile(str(path), "rb", check_sq=False, threads=threads) as file:
            for name, bases in zip(file.references, file.lengths, strict=True):
                if sizes is not None and sizes.get(name, bases) != bases:
                    raise InputError(
                        f"{path} was aligned to {name} of {bases} bases, and --chrom-sizes has {sizes[name]}",
                        "give the sizes of the genome that the reads were aligned to",
                    )
            yield from _read(path, file, options)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is truncated or corrupt: {error}", AGAIN) from error
    finally:
        pysam.set_verbosity(before)


def _read(path: Path, file: Any, options: BamOptions) -> Iterator[Block]:
    is_sorted = file.header.to_dict().get("HD", {}).get("SO") == "coordinate"
    pattern = re.compile(options.barcode_regex)
    waiting: dict[str, Any] = {}
    found: dict[int, _Fragments] = {}
    cells: dict[str, int] = {}
    names: list[str] = []
    reads = pairs = nameless = place = 0
    for read in file:
        reads += 1
        if (
            not read.is_proper_pair
            or read.is_secondary
            or read.is_supplementary
            or read.is_qcfail
            or (read.is_duplicate and not options.keep_duplicates)
            or read.mapping_quality < options.min_mapq
        ):
            continue
        if is_sorted and read.reference_id != place:
            # Mates that did not pass are behind us.
            waiting.clear()
            place = read.reference_id
        mate = waiting.pop(read.query_name, None)
        if mate is None:
            waiting[read.query_name] = read
            continue
        if mate.is_reverse == read.is_reverse or mate.reference_id != read.reference_id:
            continue
        forward, reverse = (mate, read) if read.is_reverse else (read, mate)
        start, end = forward.reference_start + options.shift_start, reverse.reference_end + options.shift_end
        if not 0 <= start < end:
            continue
        barcode = _barcode(forward, options.barcode_from, pattern)
        pairs += 1
        if barcode is None:
            nameless += 1
            continue
        if is_sorted and found and read.reference_id not in found:
            for chrom, fragments in found.items():
                yield fragments.block(file.get_reference_name(chrom), names, options.keep_duplicates)
            found.clear()
        one = found.setdefault(read.reference_id, _Fragments())
        number = cells.setdefault(barcode, len(names))
        if number == len(names):
            names.append(barcode)
        one.start.append(start)
        one.end.append(end)
        one.cell.append(number)
    for chrom, fragments in found.items():
        yield fragments.block(file.get_reference_name(chrom), names, options.keep_duplicates)
    if not pairs:
        raise InputError(
            f"{path}: none of {reads} reads is of a proper pair that passes",
            "give paired reads, or lower --min-mapq",
        )
    if nameless == pairs:
        raise InputError(
            f"{path}: none of {pairs} read pairs has a barcode in {options.barcode_from}",
            "say where the barcode is with --barcode-from and --barcode-regex",
        )
    log.info("%s: %d read pairs pass, %d of them without a barcode", path, pairs, nameless)


def _barcode(read: Any, where: str, pattern: re.Pattern[str]) -> str | None:
    if where == "name":
        match = pattern.search(read.query_name)
        return match[1] if match else None
    value = read.get_tag(where) if read.has_tag(where) else None
    return None if value in (None, "", "-") else str(value)
