"""Sets of peaks: united, filtered, made equally wide."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError


def bins(sizes: dict[str, int], width: int) -> pd.DataFrame:
    """Windows of ``width`` bases from the start of every chromosome; the last one ends where the chromosome does.

    Returns
    -------
    DataFrame
        ``chrom``, ``start`` and ``end`` (int64), chromosomes in the order given.
    """
    parts = []
    for chrom, size in sizes.items():
        start = np.arange(0, size, width, dtype=np.int64)
        parts.append(pd.DataFrame({"chrom": chrom, "start": start, "end": np.minimum(start + width, size)}))
    return pd.concat(parts, ignore_index=True)


def chosen_chroms(chroms: pd.Series, keep: Sequence[str] | None, drop: Sequence[str] | None) -> np.ndarray:
    """Rows whose chromosome fits a shell pattern of ``keep`` (all without any) and none of ``drop``, bool."""
    names = pd.unique(chroms)
    kept = [
        name
        for name in names
        if (not keep or any(fnmatchcase(name, one) for one in keep))
        and not any(fnmatchcase(name, one) for one in drop or ())
    ]
    return chroms.isin(kept).to_numpy()


def overlaps(table: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Rows of ``table`` that overlap any interval of ``others`` by at least one base, bool."""
    from pyranges import PyRanges

    hits = np.zeros(len(table), bool)
    if len(table) and len(others):
        ours = _ranges(table)
        ours["Row"] = np.arange(len(table))
        found = PyRanges(ours).overlap(PyRanges(_ranges(others)), strandedness=False)
        if len(found):
            hits[found.df["Row"].to_numpy()] = True
    return hits


def _ranges(table: pd.DataFrame) -> pd.DataFrame:
    renamed = {"Chromosome": "chrom", "Start": "start", "End": "end"}
    return pd.DataFrame({name: table[column].to_numpy() for name, column in renamed.items()})


def reduced(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The union of sets by reduction: intervals that overlap or touch become one, as GenomicRanges' ``reduce`` does.

    Returns
    -------
    DataFrame
        ``chrom``, ``start``, ``end``; disjoint, sorted by name and start.
    """
    from pyranges import PyRanges

    merged = PyRanges(pd.concat([_ranges(one) for one in tables], ignore_index=True)).merge(strand=False).df
    table = merged[["Chromosome", "Start", "End"]].set_axis(["chrom", "start", "end"], axis=1)
    table["chrom"] = table["chrom"].astype(str).astype(object)
    return _sorted(table.astype({"start": np.int64, "end": np.int64}))


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    return table.sort_values(["chrom", "start", "end"], ignore_index=True)


def fixed_width(tables: Sequence[pd.DataFrame], width: int, sizes: dict[str, int] | None = None) -> pd.DataFrame:
    """Peaks of one width around the summits of several sets, none of which overlaps another.

    A set's scores are turned into ranks (0 to 1, ties share their mean), so that sets of any size and scale compete as
    equals; a set without scores has 0.5 throughout. From the best rank down, a peak is kept unless it overlaps one that
    was kept before (the iterative removal of Corces et al. 2018, doi:10.1126/science.aav1898). Equal ranks are taken
    by chromosome and place.

    Parameters
    ----------
    tables
        With ``chrom``, ``summit`` and ``score``.
    width
        Bases; the summit is base ``width // 2`` of its peak.
    sizes
        Chromosome lengths: peaks that would end beyond are left out, as are those that would begin before 0.

    Returns
    -------
    DataFrame
        As :func:`reduced`.
    """
    parts = []
    for one in tables:
        rank = one["score"].rank(pct=True, method="average").fillna(0.5)
        start = one["summit"].to_numpy() - width // 2
        parts.append(pd.DataFrame({"chrom": one["chrom"], "start": start, "end": start + width, "rank": rank}))
    table = pd.concat(parts, ignore_index=True)
    inside = table["start"] >= 0
    if sizes is not None:
        inside &= table["end"] <= table["chrom"].map(sizes).fillna(0)
    table = table[inside].sort_values(["rank", "chrom", "start"], ascending=[False, True, True], kind="stable")
    taken: dict[str, list[int]] = {}
    kept = np.zeros(len(table), bool)
    for i, (chrom, start) in enumerate(zip(table["chrom"].tolist(), table["start"].tolist(), strict=True)):
        starts = taken.setdefault(chrom, [])
        place = bisect_left(starts, start)
        # All have one width, so only the neighbours can overlap.
        near = starts[max(place - 1, 0) : place + 1]
        if all(abs(start - other) >= width for other in near):
            insort(starts, start)
            kept[i] = True
    return _sorted(table[kept][["chrom", "start", "end"]])


def filtered(
    table: pd.DataFrame,
    *,
    keep_chrom: Sequence[str] | None = None,
    drop_chrom: Sequence[str] | None = None,
    blacklist: pd.DataFrame | None = None,
    min_size: int = 0,
    max_size: int | None = None,
    sizes: dict[str, int] | None = None,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Drop intervals by chromosome, size and blacklist, and, with chromosome lengths, those that do not lie within.

    Returns
    -------
    DataFrame, dict
        What is left, in the same order, and how many each filter took.

    Raises
    ------
    InputError
        Nothing is left.
    """
    before, taken = len(table), {}

    def drop(name: str, gone: np.ndarray) -> None:
        nonlocal table
        if gone.any():
            taken[name] = int(gone.sum())
            table = table[~gone]

    if keep_chrom or drop_chrom:
        drop("chromosomes", ~chosen_chroms(table["chrom"], keep_chrom, drop_chrom))
    size = (table["end"] - table["start"]).to_numpy()
    drop("size", (size < min_size) | (size > (size if max_size is None else max_size)))
    if sizes is not None:
        drop("chrom-sizes", (table["end"] > table["chrom"].map(sizes).fillna(0)).to_numpy())
    if blacklist is not None:
        drop("blacklist", overlaps(table, blacklist))
    if not len(table):
        raise InputError(
            f"none of {before} regions is left by the filters ({', '.join(f'{k}: {v}' for k, v in taken.items())})",
            "choose others, and check that all files name chromosomes alike (chr1 or 1)",
        )
    return table.reset_index(drop=True), taken
