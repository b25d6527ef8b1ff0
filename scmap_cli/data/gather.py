"""Rows of a CSR matrix on the CPU as flat positions and values, compiled: one pass where tensor operations take eight."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def gather_rows(indptr: Any, indices: Any, values: Any, rows: Any, g: int, flat_m: Any, value_m: Any) -> None:
    """Write the stored entries of ``rows`` one after the other.

    Parameters
    ----------
    indptr, indices, values
        The CSR arrays.
    rows
        Row numbers, in any order, repeats allowed.
    g
        Columns of the matrix.
    flat_m, value_m
        Filled with ``place in rows * g + column`` (int64) and the values in the dtype of ``value_m``; as long as the rows
        have entries together.
    """
    m = 0
    for place in range(len(rows)):
        base = np.int64(place) * g
        for stored in range(indptr[rows[place]], indptr[rows[place] + 1]):
            flat_m[m] = base + indices[stored]
            value_m[m] = values[stored]
            m += 1
