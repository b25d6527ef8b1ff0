"""SMaSH (Nelson et al. 2022, doi:10.1186/s12859-022-04860-2): genes that matter to a classifier of the cells.

``smash``: Gini importance in a random forest of 100 trees with balanced classes, which is what the MarkerMap paper ran.
``smash-dnn``: Shapley values of a network of 32 and 16 sigmoid units. Ours are expected gradients (Erion et al. 2021,
doi:10.1038/s42256-021-00343-w), the average of (x - x') times the slope of the class's probability between a cell x
and a background cell x'; the released code takes DeepLIFT's rules by way of TensorFlow 2.5.

As published, a fifth of the cells is left out, every seed is 42, and a tenth of the cells left out is explained. As
meant, the forest learns from all cells, and about 1,000 cells are explained, as many of each class.
A gene speaks for the class in which importance times mean scaled expression is largest, SMaSH's own rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scmap_cli.markers.base import MarkerData, Selection, best_for_classes
from scmap_cli.runtime.threads import current_threads

if TYPE_CHECKING:
    import torch

_PUBLISHED_SEED = 42
_BATCH, _EPOCHS, _PATIENCE = 100, 100, 5
_EXPLAINED, _DRAWS = 1000, 20


def _parts(codes: np.ndarray, seed: int, published: bool, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Cells to learn from and cells left out, stratified; every class keeps at least one cell on the first side."""
    rng = np.random.default_rng(_PUBLISHED_SEED if published else seed)
    out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        cells = rng.permutation(np.flatnonzero(codes == code))
        out[cells[: min(round(share * len(cells)), len(cells) - 1)]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def _balanced(codes: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many cells of every class, so that common classes do not decide alone which genes matter."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(codes == code))[:most] for code in np.unique(codes)])


def select_forest(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose the k genes of largest Gini importance, which is their score."""
    from sklearn.ensemble import RandomForestClassifier

    cells = _parts(data.labels, seed, True)[0] if as_published else slice(None)
    forest = RandomForestClassifier(
        n_estimators=100,
        class_weight="balanced",
        random_state=_PUBLISHED_SEED if as_published else seed,
        n_jobs=current_threads(),
    )
    forest.fit(data.scaled[cells], data.labels[cells])
    return best_for_classes(data, np.asarray(forest.feature_importances_), k)


def select_network(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose the k genes of largest mean absolute Shapley value over cells and classes, which is their score."""
    import torch

    from scmap_cli.markers.seeded import seeded_torch

    codes = data.labels
    learn, check = _parts(codes, seed, as_published)
    check = check if len(check) else learn
    sizes = np.bincount(codes[learn], minlength=len(data.classes))
    weight = torch.tensor(len(learn) / (len(sizes) * np.maximum(sizes, 1)), dtype=torch.float32)
    x_ng, y_n = torch.from_numpy(data.scaled), torch.from_numpy(codes)
    with seeded_torch(_PUBLISHED_SEED if as_published else seed):
        net = torch.nn.Sequential(
            *(torch.nn.Linear(data.n_genes, 32), torch.nn.BatchNorm1d(32), torch.nn.Sigmoid(), torch.nn.Dropout(0.2)),
            *(torch.nn.Linear(32, 16), torch.nn.BatchNorm1d(16), torch.nn.Sigmoid(), torch.nn.Dropout(0.1)),
            torch.nn.Linear(16, len(sizes)),
        )
        _train(net, x_ng, y_n, learn, check, weight)
        if as_published:
            rng = np.random.default_rng(_PUBLISHED_SEED)
            background, explained = (rng.permutation(cells)[: max(len(cells) // 10, 1)] for cells in (learn, check))
        else:
            background, explained = learn, _balanced(codes, _EXPLAINED // len(sizes) + 1, seed)
        scores_g = _expected_gradients(net, x_ng[explained], x_ng[background])
    return best_for_classes(data, scores_g, k)


def _train(
    net: torch.nn.Sequential,
    x_ng: torch.Tensor,
    y_n: torch.Tensor,
    learn: np.ndarray,
    check: np.ndarray,
    weight: torch.Tensor,
) -> None:
    """Adam on weighted cross-entropy until the left-out loss has not fallen for five epochs; the best weights stay."""
    import torch

    loss_of = torch.nn.CrossEntropyLoss(weight=weight)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    lowest, waited, kept = float("inf"), 0, {}
    for _ in range(_EPOCHS):
        net.train()
        for rows in torch.from_numpy(learn)[torch.randperm(len(learn))].split(_BATCH):
            # Batch normalisation has no deviation to divide by in a batch of one.
            if len(rows) > 1:
                optimiser.zero_grad()
                loss_of(net(x_ng[rows]), y_n[rows]).backward()
                optimiser.step()
        net.eval()
        with torch.no_grad():
            loss = float(loss_of(net(x_ng[check]), y_n[check]))
        if loss < lowest:
            lowest, waited = loss, 0
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        else:
            waited += 1
            if waited >= _PATIENCE:
                break
    net.load_state_dict(kept)


def _expected_gradients(net: torch.nn.Sequential, x_ng: torch.Tensor, background_ng: torch.Tensor) -> np.ndarray:
    """(g,) mean absolute expected gradient, summed over classes."""
    import torch

    net.eval()
    classes = int(net(x_ng[:1]).shape[1])
    total_cg = torch.zeros(classes, x_ng.shape[1], dtype=torch.float64)
    for rows in torch.arange(len(x_ng)).split(_BATCH):
        values_cng = torch.zeros(classes, len(rows), x_ng.shape[1])
        for _ in range(_DRAWS):
            other = background_ng[torch.randint(len(background_ng), (len(rows),))]
            difference = x_ng[rows] - other
            between = (other + torch.rand(len(rows), 1) * difference).requires_grad_(True)
            chance_nc = net(between).softmax(dim=1)
            for code in range(classes):
                (slope,) = torch.autograd.grad(chance_nc[:, code].sum(), between, retain_graph=code + 1 < classes)
                values_cng[code] += slope * difference
        total_cg += values_cng.abs().sum(dim=1).double() / _DRAWS
    return np.asarray(total_cg.sum(dim=0) / len(x_ng))
