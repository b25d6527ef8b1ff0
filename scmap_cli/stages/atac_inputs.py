"""What ``preprocess atac`` counts: the features and other regions, and one input after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.data.counting import TALLIES, Counted, Counter, Rule, Tables, count_block
from scmap_cli.data.peak_sets import bins as make_bins
from scmap_cli.data.peak_sets import filtered
from scmap_cli.data.peaks import Peaks
from scmap_cli.data.profiles import Profile, Profiler
from scmap_cli.data.qc_atac import tss_regions
from scmap_cli.data.regions import index_regions
from scmap_cli.errors import InputError
from scmap_cli.io.bam import BamOptions, bam_blocks, is_bam
from scmap_cli.io.bed import read_bed, read_sizes
from scmap_cli.io.fragments import BadRows, Block, map_blocks
from scmap_cli.runtime.logs import log
from scmap_cli.runtime.threads import current_threads


@dataclass
class Counts:
    """One input: counts (n, p) CSR int32, tallies (n, 8) int64, the cells' barcodes as bytes, a report, a profile."""

    matrix: sp.csr_matrix
    sums: np.ndarray
    barcodes: list[bytes]
    report: dict[str, Any]
    profile: Profile | None = None


@dataclass(frozen=True)
class HowToCount:
    """What holds for every input.

    Attributes
    ----------
    rule, use_support
        As :func:`~scmap_cli.data.counting.count_block`.
    sizes
        Chromosome lengths, None where they are not known.
    max_bad_rows
        Rows that may be no fragments.
    min_fragments
        Smallest number of fragments of a barcode where no barcodes are listed.
    bam
        How read pairs become fragments.
    profiler
        Takes the profile of all fragments, where it is wanted.
    """

    rule: Rule
    use_support: bool
    sizes: dict[str, int] | None
    max_bad_rows: int
    min_fragments: int
    bam: BamOptions
    profiler: Profiler | None = None


def make_features(
    peaks: Path | str | None,
    bins: int | None,
    chrom_sizes: Path | str | None,
    keep_chrom: Sequence[str] | None,
    drop_chrom: Sequence[str] | None,
    blacklist: Path | str | None,
) -> tuple[pd.DataFrame, dict[str, int] | None]:
    """Peaks in file order or bins by chromosome, after their filters; and chromosome lengths where they are known.

    Raises
    ------
    InputError
        A file is unfit, peaks end beyond their chromosome, or no feature is left.
    """
    sizes = None if chrom_sizes is None else read_sizes(chrom_sizes)
    if peaks is not None:
        table = read_bed(peaks)[["chrom", "start", "end"]]
        repeated = table.duplicated().to_numpy()
        if repeated.any():
            log.warning("%s: %d peaks are repeated and taken once", peaks, int(repeated.sum()))
            table = table[~repeated]
        if sizes is not None:
            beyond = table["end"] > table["chrom"].map(sizes).fillna(np.inf)
            if beyond.any():
                row = table[beyond].iloc[0]
                raise InputError(
                    f"{peaks}: {int(beyond.sum())} peaks end beyond their chromosome, such as "
                    f"{row['chrom']}:{row['start']}-{row['end']} ({sizes[row['chrom']]} bases)",
                    "give the peaks and --chrom-sizes of one genome",
                )
    else:
        table = make_bins(sizes or {}, bins or 0)
    regions = None if blacklist is None else read_bed(blacklist)
    table, taken = filtered(table, keep_chrom=keep_chrom, drop_chrom=drop_chrom, blacklist=regions)
    for name, number in taken.items():
        log.info("%d features dropped by %s", number, name)
    if peaks is not None:
        overlapping = Peaks(*(table[name].to_numpy() for name in ("chrom", "start", "end"))).overlapping()
        if overlapping:
            log.warning(
                "%s: %d peaks overlap one before, and a fragment counts in each (preprocess peaks unites them)",
                peaks,
                overlapping,
            )
    return table, sizes


def make_tables(features: pd.DataFrame, tss: pd.DataFrame | None, mito: Sequence[str]) -> Tables:
    """Index all regions over one list of chromosomes."""
    sites = pd.DataFrame({"chrom": [], "position": np.empty(0, np.int64)}) if tss is None else tss
    chroms = list(dict.fromkeys([*features["chrom"], *sites["chrom"]]))
    promoters, around = tss_regions(sites, chroms)
    codes = {name: code for code, name in enumerate(chroms)}
    return Tables(codes, index_regions(features, chroms), promoters, around, len(features), frozenset(mito))


def count_input(path: Path, tables: Tables, how: HowToCount, listed: list[str] | None) -> Counts:
    """Count the fragments of a file.

    Parameters
    ----------
    path
        Fragments or BAM.
    tables, how
        What to count in, and how.
    listed
        Barcodes to keep, in this order; None keeps those with enough fragments, in the order of their names.

    Raises
    ------
    InputError
        The file is unfit, shares no chromosome with the features, or no barcode is left.
    """
    log.info("reading %s", path)
    counter = Counter(tables.n_features, listed)
    bad = BadRows(path, how.max_bad_rows)
    threads = current_threads()

    def counted(block: Block) -> tuple[Counted, Profile | None]:
        profile = None if how.profiler is None else how.profiler.of(block)
        return count_block(block, tables, how.rule, how.use_support), profile

    blocks: Iterator[tuple[Counted, Profile | None]]
    if is_bam(path):
        blocks = (counted(block) for block in bam_blocks(path, how.bam, threads, how.sizes))
    else:
        blocks = map_blocks(
            path,
            counted,
            threads=threads,
            with_support=how.use_support,
            sizes=how.sizes,
            bad_rows=bad,
        )
    profile: Profile | None = None
    for one, part in blocks:
        counter.add(one)
        if part is not None:
            profile = part if profile is None else profile + part
    matrix, sums = counter.finish()
    if bad.count:
        log.warning("%s: %d rows are no fragments and were left out (%s)", path, bad.count, "; ".join(bad.told))
    fragments = int(sums[:, TALLIES.index("fragments")].sum())
    if fragments + counter.others == 0:
        raise InputError(f"{path} holds no fragments", "give a file of chromosome, start, end and barcode")
    _check_chroms(path, list(counter.chroms), tables)
    log.info("%s: %d fragments", path, fragments + counter.others)
    report = {"path": str(path), "fragments": fragments + counter.others, "bad_rows": bad.count}
    if listed is None:
        report |= {"barcodes": len(counter.names)}
    else:
        report |= {"barcodes_listed": len(listed), "fragments_of_listed_barcodes": fragments}
    one_input = Counts(matrix, sums, counter.names.names(), report)
    made = _enough(path, one_input, how.min_fragments) if listed is None else _found(path, one_input, listed)
    made.profile = profile
    return made


def _check_chroms(path: Path, chroms: list[str], tables: Tables) -> None:
    """Refuse a file that shares no chromosome with the features."""
    offset = tables.features.offset
    ours = [name for name, code in tables.codes.items() if offset[code + 1] > offset[code]]
    missing = [name for name in ours if name not in set(chroms)]
    if len(missing) == len(ours):
        raise InputError(
            f"{path} has no chromosome in common with the features ({', '.join(chroms[:3])} against "
            f"{', '.join(ours[:3])})",
            "name chromosomes alike in both, and take peaks and fragments of one genome",
        )
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        log.info("%s: no fragments on %d of %d chromosomes with features (%s)", path, len(missing), len(ours), shown)


def _found(path: Path, one: Counts, listed: list[str]) -> Counts:
    """The same, after a look at how many of the barcodes listed are there."""
    found = int(np.count_nonzero(one.sums[:, TALLIES.index("fragments")]))
    log.info("%s: %d of %d barcodes found", path, found, len(listed))
    one.report["barcodes_found"] = found
    if found == 0:
        raise InputError(
            f"{path}: none of the {len(listed)} barcodes of --barcodes is there (such as {listed[0]})",
            "look at a row of the file: a suffix such as -1 may be missing on one side",
        )
    return one


def _enough(path: Path, one: Counts, least: int) -> Counts:
    """The barcodes with enough fragments, in the order of their names."""
    fragments = one.sums[:, TALLIES.index("fragments")]
    enough = np.flatnonzero(fragments >= max(least, 1))
    if not len(enough):
        raise InputError(
            f"{path}: none of {len(fragments)} barcodes has {least} fragments (the largest has {int(fragments.max())})",
            "lower --min-fragments",
        )
    rows = np.array(sorted(enough.tolist(), key=one.barcodes.__getitem__))
    log.info("%s: %d of %d barcodes have at least %d fragments", path, len(rows), len(fragments), max(least, 1))
    return Counts(one.matrix[rows], one.sums[rows], [one.barcodes[i] for i in rows], one.report)


def cell_names(one: Counts) -> list[str]:
    """The barcodes as text.

    Raises
    ------
    InputError
        One is not plain text.
    """
    names = []
    for raw in one.barcodes:
        name = raw.decode(errors="replace")
        if not name.isprintable() or "\ufffd" in name:
            raise InputError(f"{one.report['path']}: the barcode {raw[:40]!r} is not plain text", "check the file")
        names.append(name)
    return names
