"""The comparisons of ``scmap gp-test``: which cells are on the two sides of each, and which cannot be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmap_cli.errors import InputError, UsageError
from scmap_cli.runtime.logs import log

REST = "rest"
"""Against all other cells."""


@dataclass(frozen=True)
class TestedCells:
    """All cells of a run: posteriors, and the columns that make groups (empty text where a value is missing)."""

    mean_nz: np.ndarray
    var_nz: np.ndarray
    group_n: np.ndarray
    within_n: np.ndarray


@dataclass(frozen=True)
class Contrast:
    """Two sides of one test, bool (n,)."""

    group: str
    against: str
    within: str
    left_n: np.ndarray
    right_n: np.ndarray


def contrasts_of(
    cells: TestedCells, wanted: Sequence[str], against: str | None, within: str | None, column: str
) -> tuple[list[Contrast], list[dict[str, str]]]:
    """The tests to make, and those left out because a side has no cells.

    Raises
    ------
    InputError
        A named group does not exist, or no test is left.
    """
    known = [str(name) for name in np.unique(cells.group_n) if name != ""]
    rest = against is None or (against == REST and REST not in known)
    for name in (*wanted, *(() if rest or against is None else (against,))):
        if name not in known:
            raise InputError(f"no cell has {column} {name!r}", f"groups: {', '.join(map(repr, known[:12])) or 'none'}")
    if not wanted and against is not None and not rest:
        wanted = [name for name in known if name != against]
    groups = list(wanted) or known
    levels = [""] if within is None else [str(name) for name in np.unique(cells.within_n) if name != ""]
    contrasts, skipped = [], []
    for level in levels:
        inside_n = (cells.group_n != "") & ((cells.within_n == level) if within is not None else True)
        for name in groups:
            left_n = inside_n & (cells.group_n == name)
            right_n = inside_n & ((cells.group_n != name) if rest else (cells.group_n == against))
            other = ("all others" if REST in known else REST) if rest else str(against)
            if name == other and not rest:
                raise UsageError(f"group {name!r} is compared with itself", "give another --against")
            if left_n.any() and right_n.any():
                contrasts.append(Contrast(name, other, level, left_n, right_n))
                continue
            empty = name if not left_n.any() else other
            skipped.append({"group": name, "against": other, "within": level, "reason": f"{empty} has no cells"})
    if not contrasts:
        raise InputError(
            f"no comparison has cells on both sides ({len(skipped)} were tried)",
            f"groups: {', '.join(map(repr, known[:12])) or 'none'}",
        )
    for entry in skipped:
        where = f" within {entry['within']}" if entry["within"] else ""
        log.warning("%s against %s%s is left out: %s", entry["group"], entry["against"], where, entry["reason"])
    return contrasts, skipped


def described(contrast: Contrast) -> dict[str, Any]:
    """A comparison as JSON."""
    return {
        "group": contrast.group,
        "against": contrast.against,
        "within": contrast.within,
        "n": int(contrast.left_n.sum()),
        "n_against": int(contrast.right_n.sum()),
    }


def line(contrast: Contrast) -> str:
    """A comparison for the log."""
    where = f" within {contrast.within}" if contrast.within else ""
    return (
        f"{contrast.group} ({contrast.left_n.sum()} cells) against "
        f"{contrast.against} ({contrast.right_n.sum()} cells){where}"
    )
