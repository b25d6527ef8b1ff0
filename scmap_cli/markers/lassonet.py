"""LassoNet (Lemhadri et al. 2021, JMLR 22:127), by its authors' package: a residual network that loses its inputs.

A dense network with 100 hidden units is trained, then the penalty on its skip connections rises step by step and inputs
drop out. A gene's score is the penalty at which it dropped out; among those that leave together, or stay, the norm of
its last skip weights decides.

As meant, the path rises by a fifth a step while all genes are in it and by a twentieth from there on, and stops where k
genes are left, so that it is k that is sought, as the MarkerMap paper says. A step ends when the loss of the cells held
for validation (else a tenth) has not fallen for 5 epochs, the dense training after 50, or 200 in all. As published,
these are the package's defaults: a fiftieth a step until no gene is left, 10, 100 and 1,000 epochs, and a first penalty
that is longer sought than the path is followed. All other cells make one batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from lassonet import LassoNetClassifier

from scmap_cli.markers.base import MarkerData, Selection, best
from scmap_cli.markers.seeded import seeded_torch


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes."""
    with seeded_torch(seed), warnings.catch_warnings():
        # The package warns that its own first penalty may be too large.
        warnings.simplefilter("ignore")
        model = LassoNetClassifier(
            path_multiplier=1.02,
            n_iters=(1000, 100) if as_published else (200, 100),
            patience=(100, 10) if as_published else (50, 5),
            verbose=0,
            random_state=seed,
            torch_seed=seed,
            device="cpu",
        )
        left_at: list[tuple[float, np.ndarray]] = []

        def note(fitted: LassoNetClassifier, history: list) -> None:
            norms = fitted.model.skip.weight.detach().norm(dim=0).numpy().astype(np.float64)
            left_at.append((float(history[-1].lambda_), norms))

        def until_few() -> Iterator[float]:
            penalty = 1.0
            while True:
                yield penalty
                left = np.count_nonzero(left_at[-1][1])
                if left <= k:
                    return
                penalty *= 1.2 if left == data.n_genes else 1.05

        held = data.held
        codes = data.labels
        learn = ~held
        parts = {"X_val": data.scaled[held], "y_val": codes[held]} if held.any() else {}
        path = None if as_published else until_few()
        # Every class must be among the cells that are learned from, or the package counts too few of them.
        if len(np.unique(codes[learn])) < len(data.classes):
            learn, parts = np.ones(len(codes), dtype=bool), {}
        model.path(data.scaled[learn], codes[learn], lambda_seq=path, callback=note, **parts)
    return _by_leaving(left_at, k)


def _by_leaving(left_at: list[tuple[float, np.ndarray]], k: int) -> Selection:
    """The k genes that left last; ``left_at`` has the penalty and the norms of the skip weights of each step."""
    penalty_g = np.zeros(len(left_at[0][1]))
    norm_g = np.zeros_like(penalty_g)
    for penalty, norms in left_at:
        inside = norms > 0
        penalty_g[inside], norm_g[inside] = penalty, norms[inside]
    # Norms are far smaller than the ratio of two steps, so that they only decide within one.
    order_g = penalty_g * (1 + 1e-3 * norm_g / max(float(norm_g.max()), 1e-12)) + 1e-12 * norm_g
    genes = best(order_g, k)
    return Selection(genes, order_g[genes])
