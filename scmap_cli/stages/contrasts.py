"""Which groups of cells are compared with which, from columns of ``obs`` and the names that a user gives."""

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
class Contrast:
    """Two sides of one test, bool (n,), and their names; ``within`` is empty for all cells."""

    group: str
    against: str
    within: str
    left_n: np.ndarray
    right_n: np.ndarray

    @property
    def line(self) -> str:
        """What is compared, for people."""
        where = f" within {self.within}" if self.within else ""
        return f"{self.group} ({self.left_n.sum()} cells) against {self.against} ({self.right_n.sum()} cells){where}"

    def described(self) -> dict[str, Any]:
        """Names and numbers of cells, JSON values."""
        return {
            "group": self.group,
            "against": self.against,
            "within": self.within,
            "n": int(self.left_n.sum()),
            "n_against": int(self.right_n.sum()),
        }


def find_contrasts(
    group_n: np.ndarray, within_n: np.ndarray | None, wanted: Sequence[str], against: str | None, column: str
) -> tuple[list[Contrast], list[dict[str, str]]]:
    """The tests to make, and those left out because a side has no cells.

    Parameters
    ----------
    group_n
        (n,) group of each cell, empty where there is none.
    within_n
        (n,) levels within which groups are compared, empty where there is none; or None.
    wanted
        Groups to test, all by default.
    against
        The group to compare with; None, or :data:`REST` where no group has that name, for all other cells.
    column
        What the groups are called in messages.

    Raises
    ------
    UsageError
        A group is compared with itself.
    InputError
        A named group does not exist, or no test is left.
    """
    known = [str(name) for name in np.unique(group_n) if name != ""]
    rest = against is None or (against == REST and REST not in known)
    for name in (*wanted, *(() if rest or against is None else (against,))):
        if name not in known:
            raise InputError(f"no cell has {column} {name!r}", f"groups: {', '.join(map(repr, known[:12])) or 'none'}")
    if not wanted and against is not None and not rest:
        wanted = [name for name in known if name != against]
    groups = list(wanted) or known
    levels = [""] if within_n is None else [str(name) for name in np.unique(within_n) if name != ""]
    contrasts, skipped = [], []
    for level in levels:
        inside_n = (group_n != "") & ((within_n == level) if within_n is not None else True)
        for name in groups:
            left_n = inside_n & (group_n == name)
            right_n = inside_n & ((group_n != name) if rest else (group_n == against))
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
