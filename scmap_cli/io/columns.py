"""Columns of a table of cells as text: one rule for batches, conditions and labels, wherever they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

UNKNOWN = "unknown"
"""Category of the cells whose batch is not told."""


def column_text(column: pd.Series, missing: str = "") -> np.ndarray:
    """(n,) str: the values of a column as text, ``missing`` where it has none.

    Whole numbers are written without a point, as a column of them is of floats once it has a gap.
    """
    codes, values = pd.factorize(column)
    # The last one, as missing values have the code -1.
    names: np.ndarray = np.array([*map(_text, values), missing], dtype=str)
    return names[codes]


def text_series(column: pd.Series) -> pd.Series:
    """As :func:`column_text`, with the index and the gaps of the column."""
    return pd.Series(column_text(column).astype(object), column.index).where(column.notna().to_numpy())


def _text(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if whole else str(value)
