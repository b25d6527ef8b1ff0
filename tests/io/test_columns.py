"""Columns as text: the same names whatever the type that a file keeps them in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scmap_cli.data.merge import batch_categories
from scmap_cli.io.columns import column_text, text_series
from scmap_cli.stages.inputs import condition_labels, text_column


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, np.nan],
        pd.array([1, 2, None], dtype="Int64"),
        pd.array(["1", "2", None], dtype="string"),
        pd.Categorical([1, 2, None]),
        pd.Categorical([1.0, 2.0, np.nan]),
        np.array([1, 2, None], dtype=object),
        np.array(["1", 2.0, np.nan], dtype=object),
    ],
)
def test_numbers_with_gaps_are_the_whole_numbers_that_they_were(column):
    obs = pd.DataFrame({"batch": column}, index=["a", "b", "c"])
    assert column_text(obs["batch"]).tolist() == ["1", "2", ""]
    assert text_column(obs, "batch", None, "none").tolist() == ["1", "2", "none"]
    assert condition_labels(obs, "batch", None).tolist() == ["1", "2", "unknown"]
    assert list(batch_categories(obs["batch"], "batch")) == ["1", "2", "unknown"]
    series = text_series(obs["batch"])
    assert (series.index.tolist(), series.dropna().tolist()) == (["a", "b", "c"], ["1", "2"])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ([0.5, -2.0, 1e20], ["0.5", "-2", "100000000000000000000"]),
        ([True, False], ["True", "False"]),
        (["None", "nan", "1.0", ""], ["None", "nan", "1.0", ""]),
        (np.array([0.5, np.inf], dtype=np.float32), ["0.5", "inf"]),
        (np.array([], dtype=object), []),
    ],
)
def test_other_values_are_as_python_writes_them(column, text):
    assert column_text(pd.Series(column)).tolist() == text
