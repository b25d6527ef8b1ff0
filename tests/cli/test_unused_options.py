"""Options that would change nothing beside the others are refused, before any file is looked at."""

from __future__ import annotations

import pytest

MAP = ("map-query", "model", "q.h5ad", "-o", "out.h5ad", "--model-out", "out-model")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*MAP, "--space", "latent"), "--space needs --label-key"),
        ((*MAP, "--unknown-below", "0.5", "--reference", "r.h5ad"), "--unknown-below needs --label-key"),
        ((*MAP, "--reference", "r.h5ad"), "--reference needs --label-key, --join or --plot"),
    ],
)
def test_an_option_without_use_is_2(scmap, words, told):
    assert told in scmap(*words, status=2).err
    assert scmap.files() == {}


@pytest.mark.parametrize("word", ["--join", "--plot"])
def test_the_reference_is_also_for_other_outputs(scmap, word):
    assert "model" in scmap(*MAP, "--reference", "r.h5ad", word, "both.h5ad", status=3).err
