"""Directions, agreement, entropy and the table of programs, against hand-made columns."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from scmap_cli.errors import UsageError
from scmap_cli.metrics.programs import (
    PROGRAM_COLUMNS,
    agreement,
    directions,
    importance_against_expression,
    normalised_entropy,
    program_rows,
)

#: columns: all up, one large down against two small up, off, a tie, one gene
W = np.array([[1, -3, 0, 1, 0], [1, 1, 0, -1, 0], [1, 1, 0, 0, 5]], dtype=np.float32)


def test_directions_by_sum_and_by_counts() -> None:
    assert directions(W, "sum").tolist() == [1, -1, 0, 0, 1]
    assert directions(W, "counts").tolist() == [1, 1, 0, 0, 1]
    with pytest.raises(UsageError, match="median"):
        directions(W, "median")


def test_agreement_tells_the_ambiguous_ones() -> None:
    assert agreement(W).tolist() == pytest.approx([1.0, 0.6, 0.0, 0.5, 1.0])


def test_entropy_is_one_for_equal_and_zero_for_a_single_gene() -> None:
    assert normalised_entropy(W).tolist() == pytest.approx([1.0, 0.865, 0.0, 1.0, 0.0], abs=1e-3)


def test_importance_against_expression_is_spearmans_over_the_genes_of_a_program() -> None:
    rng = np.random.default_rng(0)
    w, mean = rng.normal(size=(40, 3)), rng.gamma(1.0, size=40)
    w[rng.random((40, 3)) < 0.3] = 0
    found = importance_against_expression(w, mean)
    for k in range(3):
        used = w[:, k] != 0
        assert found[k] == pytest.approx(spearmanr(np.abs(w[used, k]), mean[used]).statistic)
    np.testing.assert_allclose(importance_against_expression(-5 * w, np.exp(mean)), found)
    assert importance_against_expression(np.sqrt(mean)[:, None], mean) == pytest.approx([1.0])
    assert np.isnan(importance_against_expression(np.eye(40, 2) + np.eye(40, 2, -1), mean)).all()


def test_rows() -> None:
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 0, 1, 0, 0]], dtype=np.uint8)
    mean = np.array([3.0, 1.0, 2.0])
    rows = program_rows(W, mask, np.array(["A", "B", "C"]), list("vwxyz"), [9, 9, 9, 9, None], mean, top=2)
    table = [dict(zip(PROGRAM_COLUMNS, row, strict=True)) for row in rows]
    assert table[1]["top_genes"] == "A(-3.000),B(+1.000)"
    assert table[1]["genes_outside"] == 1
    assert [row["expression_rho"] for row in table] == ["", "0.8660", "", "", ""]
    assert (table[2]["active"], table[2]["top_genes"]) == (0, "")
    assert (table[4]["kind"], table[4]["top_genes"], table[4]["size_before"]) == ("unconstrained", "C(+5.000)*", "")
