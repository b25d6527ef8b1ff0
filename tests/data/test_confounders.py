"""Depth and covariates become z-scores and 0/1 columns; their usual values are those of an average cell."""

import numpy as np
import pandas as pd
import pytest

from scmap_cli.data.confounders import confounders, usual
from scmap_cli.errors import InputError


def cells() -> pd.DataFrame:
    return pd.DataFrame(
        {"age": [1.0, 2.0, 6.0], "donor": pd.Categorical(["a", None, "a"]), "fresh": [True, False, True], "same": 4},
        index=["x", "y", "z"],
    )


def test_columns_and_their_meaning() -> None:
    made = confounders(cells(), np.array([10, 100, 1000]), "fragments", ["age", "donor", "fresh", "same"])
    assert made.matrix.shape == (3, 1 + 1 + 2 + 2 + 1)
    np.testing.assert_allclose(made.matrix[:, :2].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(made.matrix[:, :2].std(0), 1)
    np.testing.assert_allclose(made.matrix[:, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)], atol=1e-12)
    np.testing.assert_array_equal(made.matrix[:, 2:4], [[1, 0], [0, 1], [1, 0]])
    assert [told["kind"] for told in made.described] == ["log depth", "number", "category", "category", "number"]
    assert made.described[2] == {"name": "donor", "kind": "category", "values": ["a", "unknown"], "usual": 0}
    np.testing.assert_array_equal(made.matrix[:, -1], 0)
    np.testing.assert_array_equal(usual(made.described), [0, 0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize("cells_", [100, 1000, 14125])
def test_a_constant_depth_is_zero(cells_: int) -> None:
    made = confounders(pd.DataFrame(index=[f"c{i}" for i in range(cells_)]), np.full(cells_, 777), "fragments", [])
    np.testing.assert_array_equal(made.matrix, 0)


@pytest.mark.parametrize("depth", [0, -1, np.nan, np.inf])
def test_a_depth_that_is_none(depth: float) -> None:
    with pytest.raises(InputError, match=r"1 cells have no depth above 0 in fragments, first 'y'"):
        confounders(cells(), np.array([10, depth, 5]), "fragments", [])


def test_an_absent_or_gappy_column() -> None:
    with pytest.raises(InputError, match="no obs column 'sex'"):
        confounders(cells(), np.ones(3), "fragments", ["sex"])
    with pytest.raises(InputError, match=r"'age' is missing or not finite in 1 cells"):
        confounders(cells().assign(age=[1.0, np.nan, 2.0]), np.ones(3), "fragments", ["age"])
