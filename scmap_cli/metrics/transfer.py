"""Labels of a reference carried over to a query by nearest neighbours, with how sure and how new each cell is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scmap_cli.errors import InputError

EXACT_REFERENCE = 100_000
"""Up to this many cells of the reference neighbours are exact; beyond, pynndescent finds nearly all, which depend a
little on the number of its threads."""

UNKNOWN_LABEL = "unknown"
"""What a cell is called when its neighbours disagree too much."""

# Dimensions whose spread is a smaller part of the largest one's are taken to have none.
_NO_SPREAD = 1e-6

# Distances of the reference among itself come from this many cells, seeded.
_NOVELTY_CELLS = 10_000


@dataclass(frozen=True)
class Transfer:
    """Labels of query cells.

    Attributes
    ----------
    labels
        (n,) text: the most probable label, or ``unknown`` below the threshold.
    best
        (n,) text: the most probable label whatever its probability.
    confidence
        (n,) its probability: its share of the neighbours' weights, 0 to 1.
    entropy
        (n,) entropy of the label probabilities over that of equal ones: 0 sure, 1 no idea.
    novelty
        (n,) share of reference cells, labelled or not, that are nearer to their reference neighbours than this cell is:
        near 1 means that the cell is unlike the reference, or that its batch is not well mixed in.
    probability
        (n, labels) probabilities, columns as ``names``.
    names
        The reference's labels, sorted.
    """

    labels: np.ndarray
    best: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    novelty: np.ndarray
    probability: np.ndarray
    names: list[str]


def labelled(labels: np.ndarray) -> np.ndarray:
    """Which cells have a label, bool: neither empty text nor ``unknown``."""
    known: np.ndarray = (labels != "") & (labels != UNKNOWN_LABEL)
    return known


def nearest_in(reference_nz: np.ndarray, query_nz: np.ndarray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest reference cells of every query cell by Euclidean distance.

    Returns
    -------
    indices, distances
        (n, k) int64 and float64, nearest first; fewer than k where the reference is smaller.
    """
    for name, values in (("reference", reference_nz), ("query", query_nz)):
        if not np.isfinite(values).all():
            raise InputError(f"the embedding of the {name} holds values that are not finite")
    k = min(k, len(reference_nz))
    if len(reference_nz) <= EXACT_REFERENCE:
        from sklearn.neighbors import NearestNeighbors

        # Brute force: in hundreds of dimensions trees look at every cell anyway.
        finder = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(np.asarray(reference_nz, np.float64))
        distance, index = finder.kneighbors(np.asarray(query_nz, np.float64))
    else:
        from pynndescent import NNDescent

        found = NNDescent(np.asarray(reference_nz, np.float32), n_neighbors=max(k, 30), random_state=seed)
        index, distance = found.query(np.asarray(query_nz, np.float32), k=k)
    return index.astype(np.int64), distance.astype(np.float64)


def decoder_space(mean_nz: np.ndarray, w_gk: np.ndarray, shift_free: bool = True) -> np.ndarray:
    """Coordinates in which Euclidean distance is that of the decoder's outputs.

    Latent dimensions weigh alike in their own space, also those that hardly change the expression of any gene; here a
    step counts as much as it changes what is decoded, for a softmax or exp mean the log expression.

    Parameters
    ----------
    mean_nz
        (n, z) latent positions.
    w_gk
        (g, z) weights of a linear decoder.
    shift_free
        The same shift of all genes means nothing (softmax) and is left out.

    Returns
    -------
    ndarray
        (n, z) float64: ``mean_nz`` times a root of the Gram matrix of the weights.
    """
    w_gk = w_gk.astype(np.float64)
    if shift_free:
        w_gk = w_gk - w_gk.mean(0)
    value_z, vector_zz = np.linalg.eigh(w_gk.T @ w_gk)
    return mean_nz.astype(np.float64) @ (vector_zz * np.sqrt(np.maximum(value_z, 0.0)))


def leading_components(reference_nz: np.ndarray, query_nz: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Both embeddings in the leading principal components of the reference; all of it where it has no more.

    What a trained encoder adds to a cell by chance is spread over all dimensions, and what distinguishes cells lies in
    few: fewer components make better neighbours of cells that the encoder was not trained on.
    """
    if count >= min(reference_nz.shape):
        return reference_nz, query_nz
    from sklearn.decomposition import PCA

    fitted = PCA(count, svd_solver="covariance_eigh").fit(np.asarray(reference_nz, np.float64))
    return fitted.transform(reference_nz), fitted.transform(query_nz)


def discriminant_space(
    reference_nz: np.ndarray, reference_labels: np.ndarray, query_nz: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both embeddings along the directions that tell the reference's labels apart, in units of the spread within them.

    Neighbours by plain distance go by whatever varies most, be it a response that cuts across the types. Here a
    direction counts by how far apart it holds the labels (linear discriminant analysis; the covariances of the labels
    are shrunk as by Ledoit and Wolf, J. Multivar. Anal. 88, 2004).

    Parameters
    ----------
    reference_nz, query_nz
        (m, z) and (n, z) embeddings in the same space.
    reference_labels
        (m,) labels; cells without one (empty text, or ``unknown``) and those that are alone with theirs say nothing.

    Returns
    -------
    reference, query
        (m, c) and (n, c), with c one less than the labels and no more than z. None with fewer than two labels, and
        where the spread within them cannot be told: no label has three cells, or all cells of a label are the same.
    """
    name, code_m, count = np.unique(reference_labels, return_inverse=True, return_counts=True)
    kept = (labelled(name) & (count > 1))[code_m]
    # Directions without any spread would make the covariance singular.
    spread = reference_nz.std(0)
    lively = spread > _NO_SPREAD * spread.max(initial=0.0)
    # The covariance of two cells has one direction only, and shrinkage leaves it as it is.
    if len(np.unique(code_m[kept])) < 2 or count[code_m[kept]].max() < 3 or not lively.any():
        return None
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    both = [np.asarray(values[:, lively], np.float64) for values in (reference_nz, query_nz)]
    try:
        fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(both[0][kept], code_m[kept])
    except np.linalg.LinAlgError:
        return None
    return fitted.transform(both[0]), fitted.transform(both[1])


def transfer_labels(
    reference_nz: np.ndarray,
    reference_labels: np.ndarray,
    query_nz: np.ndarray,
    *,
    k: int = 15,
    threshold: float = 0.5,
    seed: int = 0,
) -> Transfer:
    """Weighted vote of the k nearest reference cells.

    A neighbour at distance d weighs ``exp(-d^2 / 2 s^2)``, with s the root mean square of the cell's k distances.

    Parameters
    ----------
    reference_nz, query_nz
        (m, z) and (n, z) embeddings in the same space.
    reference_labels
        (m,) labels; cells without one (empty text, or ``unknown``) do not vote.
    k
        Neighbours.
    threshold
        A label below this probability becomes ``unknown``.
    seed
        Used for sampling, and beyond :data:`EXACT_REFERENCE` cells.

    Raises
    ------
    InputError
        No labelled reference cell, or an embedding that is not finite.
    """
    kept = labelled(reference_labels)
    if not kept.any():
        raise InputError("no cell of the reference has a label")
    index, distance = nearest_in(reference_nz, query_nz, k, seed)
    novelty = _novelty(reference_nz, distance, k, seed)
    if not kept.all():
        index, distance = nearest_in(reference_nz[kept], query_nz, k, seed)
    names, code_m = np.unique(reference_labels[kept], return_inverse=True)
    scale = np.sqrt((distance**2).mean(1, keepdims=True))
    weight = np.exp(-0.5 * (distance / np.where(scale > 0, scale, 1.0)) ** 2)
    n = len(query_nz)
    probability = np.zeros((n, len(names)))
    np.add.at(probability, (np.arange(n)[:, None], code_m[index]), weight)
    probability /= probability.sum(1, keepdims=True)
    confidence = probability.max(1)
    best = names[probability.argmax(1)].astype(object)
    logs = np.log(probability, out=np.zeros_like(probability), where=probability > 0)
    entropy = -(probability * logs).sum(1) / np.log(max(len(names), 2))
    labels = np.where(confidence >= threshold, best, UNKNOWN_LABEL)
    return Transfer(
        labels.astype(str),
        best.astype(str),
        confidence,
        np.maximum(entropy, 0.0),
        novelty,
        probability,
        [str(name) for name in names],
    )


def _novelty(reference_nz: np.ndarray, distance: np.ndarray, k: int, seed: int) -> np.ndarray:
    m = len(reference_nz)
    if m < 2:
        return np.zeros(len(distance))
    pick = np.arange(m)
    if m > _NOVELTY_CELLS:
        pick = np.sort(np.random.default_rng(seed).choice(m, _NOVELTY_CELLS, replace=False))
    # A reference cell is its own nearest neighbour; it is left out.
    _, own = nearest_in(reference_nz, reference_nz[pick], k + 1, seed)
    usual = np.sort(own[:, 1:].mean(1))
    return np.searchsorted(usual, distance.mean(1), side="left") / len(usual)
