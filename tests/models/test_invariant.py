"""Weights that are given as text."""

from __future__ import annotations

import pytest

from scmap_cli.errors import UsageError
from scmap_cli.models.invariant import InvariantConfig


def config(**options: str) -> InvariantConfig:
    return InvariantConfig(hidden=(4,), latent=2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["0", "-0.0", "-1", "nan", "inf", "much", ""])
def test_the_weight_of_open_peaks_is_above_0(value: str) -> None:
    with pytest.raises(UsageError, match="positive_weight") as caught:
        config(positive_weight=value)
    assert "a number above 0" in str(caught.value.hint)


def test_any_number_above_0_will_do() -> None:
    assert config(positive_weight="5e-324").omega(0.5) == 5e-324
    assert config(positive_weight="2").omega(0.5) == 2


def test_the_weight_of_the_invariance_may_be_0_and_no_less() -> None:
    assert config(invariance="0").lam() == 0
    for value in ("-1e-9", "nan", "inf"):
        with pytest.raises(UsageError, match="invariance"):
            config(invariance=value)


def test_a_step_looks_at_a_bounded_number_of_peaks_unless_told_otherwise() -> None:
    assert config().share(10_000) == 1
    assert config().share(100_000) == 0.125
    assert config(peak_share="1").share(100_000) == 1
    for value in ("0", "1.1", "-1", "nan", "all"):
        with pytest.raises(UsageError, match="peak_share"):
            config(peak_share=value)
