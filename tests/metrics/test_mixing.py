import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.mixing import batch_entropy


def test_separate_batches_give_zero_and_one_cloud_nearly_one():
    rng = np.random.default_rng(0)
    batch = np.arange(600) % 3
    emb = rng.normal(size=(600, 2))
    mixed = batch_entropy(knn(emb, 50)[0], batch)
    apart = batch_entropy(knn(emb + 100 * batch[:, None], 50)[0], batch)
    assert apart == 0
    assert mixed > 0.95


def test_unequal_sizes_do_not_look_like_separation():
    rng = np.random.default_rng(0)
    batch = np.where(rng.random(2000) < 0.1, "small", "large")
    assert batch_entropy(knn(rng.normal(size=(2000, 2)), 50)[0], batch) > 0.85


def test_closed_form_of_one_neighbourhood():
    indices = np.array([[1, 2, 3]] * 4)
    batch = np.array(["a", "a", "b", "b"])
    share = np.array([1 / 3, 2 / 3])
    assert batch_entropy(indices, batch) == pytest.approx(-(share * np.log2(share)).sum())


def test_one_batch_is_an_input_error():
    with pytest.raises(InputError, match="two batches"):
        batch_entropy(np.zeros((3, 1), dtype=int), np.zeros(3))
