"""What gene embeddings tell of genes: pairs, scores and lists, with baselines that need no embedding.

Section 4.2.3 of Cao's thesis (2023): gradient-boosted trees with scikit-learn's defaults on the two vectors of a pair
put together, on a random split of the pairs; a linear regression of a score of genes; trees on lists of genes, a fifth
left out. A random split of pairs leaves the same genes on both sides, where the number of a gene's partners alone
predicts well; so there is also a split by gene, a degree baseline, and random vectors of the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmap_cli.metrics.withheld import correlation

SPLITS = ("random", "gene-disjoint")
_TEST_SHARE = 0.2
_FOLDS, _REPEATS = 5, 5


@dataclass(frozen=True)
class Pairs:
    """Pairs of genes (as rows of an embedding table) and whether they are related: (p,) int64, int64 and bool."""

    first: np.ndarray
    second: np.ndarray
    related: np.ndarray

    def take(self, which: np.ndarray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[which], self.second[which], self.related[which])

    def __len__(self) -> int:
        return len(self.first)


def draw_negatives(positive: Pairs, rng: np.random.Generator, beside: Pairs | None = None, rounds: int = 50) -> Pairs:
    """The positive pairs, and as many unrelated ones in which genes occur as often as in the positives.

    Ends of positive pairs are shuffled against each other; what gives a positive, a pair of ``beside`` (training pairs
    beside test pairs), a repeat or a gene with itself is shuffled again, and left out in the end.
    """
    known = {
        (min(a, b), max(a, b))
        for pairs in (positive, beside)
        if pairs is not None
        for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    }
    # Pairs stay as they were shuffled: which gene comes first tells nothing of either kind.
    found: list[tuple[int, int]] = []
    ends = np.concatenate([positive.first, positive.second])
    left = rng.permutation(ends)
    for _ in range(rounds):
        again = []
        for a, b in zip(left[0::2].tolist(), left[1::2].tolist(), strict=False):
            pair = (min(a, b), max(a, b))
            if a == b or pair in known:
                again += [a, b]
            else:
                known.add(pair)
                found.append((a, b))
        left = rng.permutation(np.array(again, dtype=np.int64))
        if len(left) < 2:
            break
    drawn = np.array(found, dtype=np.int64).reshape(-1, 2)
    related = np.repeat([True, False], [len(positive), len(drawn)])
    return Pairs(np.concatenate([positive.first, drawn[:, 0]]), np.concatenate([positive.second, drawn[:, 1]]), related)


def split_pairs(pairs: Pairs, how: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training and test pairs.

    ``random`` leaves out a fifth of the pairs. ``gene-disjoint`` leaves out some genes: test pairs are of two such
    genes, training pairs of none, and pairs between the two are in neither.
    """
    rng = np.random.default_rng(seed)
    if how == "random":
        order = rng.permutation(len(pairs))
        cut = round(_TEST_SHARE * len(pairs))
        return np.sort(order[cut:]), np.sort(order[:cut])
    genes = np.unique(np.concatenate([pairs.first, pairs.second]))
    # Two genes are both among a share s of all with chance s^2; this one gives about a fifth as many test pairs.
    held = rng.random(int(genes.max(initial=0)) + 1) < 1 / (1 + (1 / _TEST_SHARE - 1) ** 0.5)
    a, b = held[pairs.first], held[pairs.second]
    return np.flatnonzero(~a & ~b), np.flatnonzero(a & b)


def pair_features(table_gd: np.ndarray, pairs: Pairs) -> np.ndarray:
    """(p, 2 d): the two vectors of each pair."""
    return np.concatenate([table_gd[pairs.first], table_gd[pairs.second]], axis=1)


def degree_features(train: Pairs, pairs: Pairs, genes: int) -> np.ndarray:
    """(p, 4): how many related and unrelated partners each gene of a pair has among the training pairs."""
    counts = [
        np.bincount(np.concatenate([train.first[which], train.second[which]]), minlength=genes)
        for which in (train.related, ~train.related)
    ]
    return np.stack([count[end] for end in (pairs.first, pairs.second) for count in counts], axis=1).astype(np.float64)


def score_pairs(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, seed: int
) -> dict[str, float]:
    """Accuracy and area under the ROC curve of gradient-boosted trees (scikit-learn's defaults) on unseen pairs."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    model = GradientBoostingClassifier(random_state=seed).fit(train_x, train_y)
    chance = model.predict_proba(test_x)[:, 1]
    return {"auc": float(roc_auc_score(test_y, chance)), "accuracy": float(((chance > 0.5) == test_y).mean())}


def regress(table_gd: np.ndarray, score_g: np.ndarray, seed: int) -> dict[str, Any]:
    """Linear regression of a score of genes in five folds: Pearson of the out-of-fold predictions, and by fold."""
    from sklearn.linear_model import LinearRegression
    from sklearn.model_selection import KFold

    predicted = np.zeros(len(score_g))
    folds = []
    for train, test in KFold(_FOLDS, shuffle=True, random_state=seed).split(table_gd):
        predicted[test] = LinearRegression().fit(table_gd[train], score_g[train]).predict(table_gd[test])
        folds.append(correlation(predicted[test], score_g[test]))
    return {"pearson": correlation(predicted, score_g), "folds": folds, "genes": len(score_g)}


def classify(table_gd: np.ndarray, listed_g: np.ndarray, seed: int) -> dict[str, Any]:
    """Trees that tell two lists of genes apart, a fifth held out (the thesis), and in repeated cross-validation.

    Returns
    -------
    dict
        ``held_out_auc`` and ``held_out_accuracy`` of one seeded split; ``auc`` the mean over five times five folds,
        with ``interval``, its 95 % interval, and ``genes`` of either list. The interval is by the corrected resampled t
        of Nadeau and Bengio (2003, Machine Learning 52): training sets overlap, so the variance of the mean of J folds
        is (1/J + test genes / training genes) times the variance over the folds.
    """
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, train_test_split

    index = np.arange(len(listed_g))
    train, test = train_test_split(index, test_size=_TEST_SHARE, stratify=listed_g, random_state=seed)
    held = score_pairs(table_gd[train], listed_g[train], table_gd[test], listed_g[test], seed)
    aucs = []
    for repeat in range(_REPEATS):
        for one, other in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed + repeat).split(table_gd, listed_g):
            model = GradientBoostingClassifier(random_state=seed).fit(table_gd[one], listed_g[one])
            aucs.append(float(roc_auc_score(listed_g[other], model.predict_proba(table_gd[other])[:, 1])))
    mean, reach = float(np.mean(aucs)), corrected_reach(aucs, 1 / (_FOLDS - 1))
    return {
        "held_out_auc": held["auc"],
        "held_out_accuracy": held["accuracy"],
        "auc": mean,
        "interval": [max(mean - reach, 0.0), min(mean + reach, 1.0)],
        "genes": [int(listed_g.sum()), int((~listed_g).sum())],
    }


def corrected_reach(scores: Sequence[float], test_by_train: float) -> float:
    """Half of the 95 % interval of a mean over resampled splits, see :func:`classify`."""
    from scipy import stats

    error = float(np.std(scores, ddof=1)) * (1 / len(scores) + test_by_train) ** 0.5
    return float(stats.t.ppf(0.975, len(scores) - 1)) * error
