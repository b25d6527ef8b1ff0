"""Bulk accessibility profiles that single cells are drawn from: taken from a table, or made up with a family tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from scmap_cli.data.peaks import Peaks, peak_positions
from scmap_cli.errors import InputError, UsageError

_PEAK_WIDTH = 500
# Two peaks are at least this far apart, so that background lies between many of them.
_GAP, _GAP_MEAN = 500, 15_000
_CHROMOSOMES = tuple(f"chr{number}" for number in range(1, 23))
# Parts of the variance of a made-up peak's openness: all types together, a pair of sister types.
_SHARED, _FAMILY = 0.7, 0.2
# Log signal of an open peak by how far its openness is above the bar; the standard deviation is then about 1, that of
# called peaks in sorted blood cells.
_SLOPE = 1.7


@dataclass(frozen=True)
class Bulk:
    """Profiles of T cell types over P peaks.

    Attributes
    ----------
    signal_pt
        (P, T) float64, at least 0; each column sums to 1.
    open_pt
        (P, T) bool: the binary profile, where a type's own signal is above the threshold.
    peaks
        Positions, as :class:`~scmap_cli.data.peaks.Peaks`.
    names, types
        Names of peaks and types.
    """

    signal_pt: np.ndarray
    open_pt: np.ndarray
    peaks: Peaks
    names: np.ndarray
    types: tuple[str, ...]


def bulk_from_table(
    signal_pt: np.ndarray, names: np.ndarray, columns: Sequence[str], types: Sequence[str], open_above: float = 0.0
) -> Bulk:
    """Profiles from a table of signal.

    Parameters
    ----------
    signal_pt
        (P, C) signal of any scale, which may differ by column; each column is divided by its sum.
    names
        (P,) peak names that tell positions.
    columns
        (C,) names of the columns.
    types
        Columns wanted, in this order.
    open_above
        A peak is open in a type where the signal, on the scale of the table, is above this.

    Raises
    ------
    InputError
        A wanted column is not there or has no signal, values are negative or not finite, a peak is named twice.
    """
    missing = [name for name in types if name not in columns]
    if missing:
        raise InputError(f"the bulk table has no column {missing[0]!r}", f"columns: {', '.join(columns)}")
    if not (np.isfinite(signal_pt) & (signal_pt >= 0)).all():
        raise InputError("the bulk table holds values that are negative or not finite", "give signal of 0 and more")
    index: pd.Index = pd.Index(names)
    if index.has_duplicates:
        raise InputError(f"the bulk table names {index[index.duplicated()][0]!r} more than once", "keep each peak once")
    wanted_pt = signal_pt[:, [list(columns).index(name) for name in types]].astype(np.float64)
    open_pt = wanted_pt > open_above
    for name, open_p in zip(types, open_pt.T, strict=True):
        if not open_p.any():
            raise InputError(f"no peak of column {name!r} has signal above {open_above:g}", "lower --open-above")
    peaks = peak_positions(pd.DataFrame(index=index))
    return Bulk(wanted_pt / wanted_pt.sum(axis=0), open_pt, peaks, np.asarray(names).astype(str), tuple(types))


def generate_bulk(rng: np.random.Generator, n_peaks: int, n_types: int, open_share: float = 0.4) -> Bulk:
    """Made-up profiles in which types overlap as real ones do.

    A peak's openness in a type is a standard normal number, the sum of one for all types (0.7 of the variance), one for
    the two sister types 2i and 2i + 1 (0.2) and one of the type itself. The highest ``open_share`` are open, and their
    log signal is proportional to the height above the bar: peaks that are strong in one type tend to be strong in
    others. Of the peaks open in either of two types, sister types share 0.72 and others 0.53 by default; between 16
    sorted blood cell types that share runs from 0.32 to 0.92, most around 0.55.

    Parameters
    ----------
    rng
        Source of all that is random.
    n_peaks, n_types
        Sizes.
    open_share
        Share of the peaks that are open in a type.
    """
    if not 0 < open_share < 1:
        raise UsageError(f"--open-share must lie between 0 and 1, not {open_share}")
    shared_p = rng.normal(size=(n_peaks, 1))
    family_pf = rng.normal(size=(n_peaks, (n_types + 1) // 2))
    own_pt = rng.normal(size=(n_peaks, n_types))
    family_pt = family_pf[:, np.arange(n_types) // 2]
    level_pt = np.sqrt(_SHARED) * shared_p + np.sqrt(_FAMILY) * family_pt + np.sqrt(1 - _SHARED - _FAMILY) * own_pt
    bar = float(ndtri(1 - open_share))
    open_pt = level_pt > bar
    # At least one peak a type, however few peaks were asked for.
    open_pt[level_pt.argmax(axis=0), np.arange(n_types)] = True
    signal_pt = np.where(open_pt, np.exp(_SLOPE * (level_pt - bar)), 0.0)
    peaks = _spread_peaks(rng, n_peaks)
    names = np.array(
        [f"{c}:{s}-{e}" for c, s, e in zip(peaks.chrom, peaks.start.tolist(), peaks.end.tolist(), strict=True)]
    )
    return Bulk(signal_pt / signal_pt.sum(axis=0), open_pt, peaks, names, tuple(f"type{t + 1}" for t in range(n_types)))


def _spread_peaks(rng: np.random.Generator, n_peaks: int) -> Peaks:
    """Peaks of 500 bp, evenly many on each of 22 chromosomes, with exponential gaps of 15 kb on average."""
    code_p = np.sort(np.arange(n_peaks) % len(_CHROMOSOMES))
    step_p = _GAP + np.rint(rng.exponential(_GAP_MEAN, size=n_peaks)).astype(np.int64) + _PEAK_WIDTH
    total_p = np.cumsum(step_p)
    first_p = np.searchsorted(code_p, code_p)
    end_p = total_p - total_p[first_p] + step_p[first_p]
    return Peaks(np.array(_CHROMOSOMES)[code_p], end_p - _PEAK_WIDTH, end_p)
