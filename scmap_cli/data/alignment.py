"""What a reference embedding says of cells, ready for training: unit rows, and how far each cell is to be trusted."""

from __future__ import annotations

import numpy as np

from scmap_cli.errors import InputError

WEIGHTS = ("robust", "released", "none")
"""How the depths of RNA and ATAC become weights of cells, see :func:`depth_weights`."""

_TAIL = 0.05
# Differences of a sketch: rounding to half precision stays below it, another space is some hundred times above.
_SAME = 2e-3


def unit_rows(reference: np.ndarray, has_n: np.ndarray, cells: np.ndarray, name: str) -> np.ndarray:
    """Rows of length one, float32 (n, r); zeros for cells without RNA.

    Parameters
    ----------
    reference
        (n, r); rows of cells without RNA may hold anything.
    has_n
        Whether each cell has RNA.
    cells, name
        Names of the cells and of the embedding, for the messages.

    Raises
    ------
    InputError
        A cell with RNA has a row that is not finite or all zero.
    """
    values = np.where(has_n[:, None], np.asarray(reference, dtype=np.float64), 0.0)
    for bad, what in (
        (~np.isfinite(values).all(1), "NaN or infinite values"),
        (has_n & (np.nan_to_num(values) == 0).all(1), "zeros alone"),
    ):
        if bad.any():
            raise InputError(
                f"{name} holds {what} for {int(bad.sum())} cells with RNA, first {str(cells[int(np.argmax(bad))])!r}",
                "make the embedding anew, or let these cells be without RNA (has_rna false, all of the row NaN)",
            )
    length_n = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(has_n[:, None], length_n, 1.0)).astype(np.float32)


def sketch(unit_nr: np.ndarray) -> np.ndarray:
    """Four numbers that tell a reference row from one of another space, float32 (n, 4).

    Fixed mixtures of all dimensions, so that a flip or a turn of any of them shows, and rounding does not.

    Parameters
    ----------
    unit_nr
        Rows of length one.
    """
    steps_4 = np.sqrt(np.array([2.0, 3.0, 5.0, 7.0]))
    mix_r4 = np.cos(np.outer(np.arange(1, unit_nr.shape[1] + 1), steps_4))
    return np.asarray(unit_nr.astype(np.float64) @ mix_r4, dtype=np.float32)


def same_rows(one_n4: np.ndarray, other_n4: np.ndarray) -> np.ndarray:
    """Whether rows of two sketches are of the same reference row, bool (n,)."""
    return np.asarray((np.abs(one_n4 - other_n4) < _SAME).all(1))


def depth_weights(rna_n: np.ndarray, atac_n: np.ndarray, has_n: np.ndarray, how: str = "robust") -> np.ndarray:
    """Weights of cells from the log ratio of RNA to ATAC depth, (n,) float64, with mean 1 over cells with RNA.

    Parameters
    ----------
    rna_n, atac_n
        Depths, at least 0; those of cells without RNA may be anything.
    has_n
        Whether each cell has RNA; the others weigh 0.
    how
        ``robust``: the log ratio between its 5th and 95th percentile as a number from 0 to 1, cut off at both ends. A
        cell without RNA depth weighs 0 and one without ATAC depth the most. ``released``: between the smallest and
        the largest, as the thesis writes, so that one outlier moves all; a depth of 0 is refused. ``none``: 1 for all.

    Raises
    ------
    InputError
        A cell with RNA has a depth that is NaN, infinite or negative, or 0 where ``how`` is ``released``.
    """
    weight_n = has_n.astype(np.float64)
    if how == "none" or not has_n.any():
        return weight_n
    for name, depth_n in (("RNA", rna_n), ("ATAC", atac_n)):
        wrong_n = has_n & ~(np.isfinite(depth_n) & (depth_n >= 0))
        if wrong_n.any():
            raise InputError(
                f"{int(wrong_n.sum())} cells with RNA have an {name} depth that is missing, infinite or negative, "
                f"first cell {int(np.argmax(wrong_n)) + 1}",
                "mend the column of depths, or take --depth-weights none",
            )
    zero_n = has_n & ~((rna_n > 0) & (atac_n > 0))
    if how == "released" and zero_n.any():
        raise InputError(
            f"{int(zero_n.sum())} cells with RNA have an RNA or ATAC depth of 0, of which there is no logarithm",
            "leave them out, or take --depth-weights robust",
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(rna_n[has_n]) - np.log(atac_n[has_n])
    known = np.isfinite(ratio)
    # No depth of either kind says nothing for the RNA.
    ratio[np.isnan(ratio)] = -np.inf
    if not known.any():
        return weight_n
    tail = _TAIL if how == "robust" else 0.0
    low, high = np.quantile(ratio[known], [tail, 1 - tail])
    if high - low < 1e-12:
        weight_n[has_n] = np.where(ratio == -np.inf, 0.0, 1.0)
    else:
        weight_n[has_n] = np.clip((ratio - low) / (high - low), 0.0, 1.0)
    return weight_n / weight_n[has_n].mean()
