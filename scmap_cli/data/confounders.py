"""What a decoder is told of each cell beside its batch: z-scored log depth, and further columns of ``obs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError
from scmap_cli.io.columns import UNKNOWN, column_text


@dataclass(frozen=True)
class Confounders:
    """Numbers of each cell and what they mean.

    Attributes
    ----------
    matrix
        float64 (n, c); depth is the first column, numeric ones are z-scores, categories are 0/1.
    described
        JSON values: for each covariate its ``name``, ``kind`` and what its columns are scaled by or stand for.
    """

    matrix: np.ndarray
    described: list[dict[str, Any]]


def confounders(obs: pd.DataFrame, depth: np.ndarray, depth_name: str, columns: Sequence[str]) -> Confounders:
    """Depth and covariates of cells.

    Parameters
    ----------
    obs
        The cells' table.
    depth
        Fragments or open peaks of each cell, above 0.
    depth_name
        Where the depth comes from, for messages and the record.
    columns
        Further columns: numbers become z-scores, anything else one 0/1 column a category (gaps are ``unknown``).

    Raises
    ------
    InputError
        A depth is not above 0, a column is absent, or a number is missing or not finite.
    """
    depth = np.asarray(depth, dtype=np.float64)
    bad = ~(np.isfinite(depth) & (depth > 0))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} cells have no depth above 0 in {depth_name}, first {obs.index[int(np.argmax(bad))]!r}",
            "leave these cells out, or name another column with --depth-key",
        )
    parts, described = [], []
    column, told = _z_score(np.log(depth))
    parts.append(column)
    described.append({"name": depth_name, "kind": "log depth", **told})
    for name in columns:
        if name not in obs:
            raise InputError(
                f"there is no obs column {name!r} for --covariates",
                f"columns: {', '.join(map(str, obs.columns[:12]))}",
            )
        values = obs[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            if not np.isfinite(numbers).all():
                raise InputError(
                    f"covariate {name!r} is missing or not finite in {int((~np.isfinite(numbers)).sum())} cells",
                    "fill the column, or leave it out",
                )
            column, told = _z_score(numbers)
            parts.append(column)
            described.append({"name": name, "kind": "number", **told})
        else:
            names, codes = np.unique(column_text(values, UNKNOWN), return_inverse=True)
            parts.append(np.eye(len(names))[codes])
            counts = np.bincount(codes)
            described.append(
                {"name": name, "kind": "category", "values": [str(n) for n in names], "usual": int(counts.argmax())}
            )
    return Confounders(np.concatenate(parts, axis=1), described)


def usual(described: Sequence[dict[str, Any]]) -> np.ndarray:
    """The covariates of an average cell, (c,): mean depth and numbers, the commonest category of each column."""
    parts = [
        np.eye(len(told["values"]))[told["usual"]] if told["kind"] == "category" else np.zeros(1) for told in described
    ]
    return np.concatenate(parts)


def _z_score(values: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    mean, std = float(values.mean()), float(values.std())
    # Rounding gives a constant column a deviation of its own.
    if np.ptp(values) == 0:
        return np.zeros((len(values), 1)), {"mean": mean, "std": 0.0}
    return ((values - mean) / std)[:, None], {"mean": mean, "std": std}
