"""How well a set of genes tells the classes of unseen cells: the classifiers and scores of the MarkerMap paper.

Its tables give the overall accuracy and the support-weighted F1 of either classifier, its Methods (equations 5 and 6)
the misclassification M_c = 1 - TP_c / (TP_c + FP_c), which is one minus the precision, and F_c of each class, averaged
over classes. We give all of them. A class that is never predicted has precision 0, and so M_c = 1 and F_c = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scmap_cli.runtime.threads import current_threads

CLASSIFIERS = ("knn", "random-forest")
"""``knn``: 5 neighbours, Euclidean, equal votes. ``random-forest``: 100 trees."""

KNN_K, TREES = 5, 100


def predict(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, classifier: str, seed: int) -> np.ndarray:
    """Classes that a classifier gives to unseen cells.

    Parameters
    ----------
    x_train, x_test
        (n, k) and (m, k) scaled values of the chosen genes.
    y_train
        (n,) class codes.
    classifier
        One of :data:`CLASSIFIERS`.
    seed
        Of the forest; neighbours need none.

    Returns
    -------
    ndarray
        (m,) class codes.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    if classifier == "knn":
        model = KNeighborsClassifier(min(KNN_K, len(x_train)))
    else:
        model = RandomForestClassifier(TREES, random_state=seed, n_jobs=current_threads())
    return np.asarray(model.fit(x_train, y_train).predict(x_test))


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(classes, classes) int64 numbers of cells, true class by predicted class."""
    pairs = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes).astype(np.int64)


def class_scores(confusion_cc: np.ndarray) -> dict[str, np.ndarray]:
    """Misclassification M_c, recall and F_c of each class, (classes,) float64; NaN for a class without cells."""
    right = np.diag(confusion_cc).astype(np.float64)
    predicted, true = confusion_cc.sum(axis=0), confusion_cc.sum(axis=1)
    precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
    recall = np.divide(right, true, out=np.full_like(right, np.nan), where=true > 0)
    f1 = np.divide(2 * right, predicted + true, out=np.full_like(right, np.nan), where=true > 0)
    return {"misclassification": np.where(true > 0, 1 - precision, np.nan), "recall": recall, "f1": f1}


def overall_scores(confusion_cc: np.ndarray) -> dict[str, float]:
    """Accuracy, macro and weighted F1, and mean M_c over the classes that have cells."""
    by_class = class_scores(confusion_cc)
    true = confusion_cc.sum(axis=1)
    present = true > 0
    return {
        "accuracy": float(np.trace(confusion_cc) / confusion_cc.sum()),
        "macro_f1": float(by_class["f1"][present].mean()),
        "weighted_f1": float((by_class["f1"][present] * true[present]).sum() / true.sum()),
        "misclassification": float(by_class["misclassification"][present].mean()),
    }


def mislabel(codes: np.ndarray, n_classes: int, share: float, seed: Any) -> np.ndarray:
    """Give a share of the cells a label drawn uniformly from all classes, their own among them, as the paper does.

    Parameters
    ----------
    codes
        (n,) class codes.
    n_classes
        Number of classes to draw from.
    share
        In [0, 1]; the whole number of cells below ``share * n`` is drawn anew.
    seed
        Anything :func:`numpy.random.default_rng` takes.
    """
    rng = np.random.default_rng(seed)
    noisy = codes.copy()
    chosen = rng.permutation(len(codes))[: int(share * len(codes))]
    noisy[chosen] = rng.integers(0, n_classes, len(chosen))
    return noisy
