"""Linear baselines: latent semantic indexing of peaks, principal components of genes, and Harmony on either.

They are what a user should compare a model with. LSI is the singular value decomposition of TF-IDF values (Cusanovich
et al. 2018, doi:10.1016/j.cell.2018.06.052). Its first component mostly follows depth and is commonly left out. With TF
the counts of a cell divided by their sum, and IDF the cells divided by the cells or counts of a peak, two forms are
offered::

    log-tfidf      log(1 + 1e4 TF IDF)                Signac's default, the second method of ArchR
    logtf-logidf   log(1 + 1e4 TF) log(1 + IDF)       the third method of both

All decompositions are by ARPACK (full precision, seeded start, one thread), so the same input gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from scmap_cli.data.matrices import cell_totals, log1p_cp10k
from scmap_cli.errors import InputError, UsageError

TFIDF = ("log-tfidf", "logtf-logidf")
"""Forms of TF-IDF."""

_SCALE = 1e4
# Cells that are dense at a time.
_ROWS = 4096


def tfidf(counts: sp.csr_matrix, form: str = "log-tfidf", binary: bool = False) -> sp.csr_matrix:
    """TF-IDF values of counts.

    Parameters
    ----------
    counts
        (n, P) CSR counts.
    form
        One of :data:`TFIDF`.
    binary
        Take every count above 0 as 1.

    Returns
    -------
    csr_matrix
        (n, P) float64, stored where counts are. Empty cells stay empty.
    """
    if form not in TFIDF:
        raise UsageError(f"unknown TF-IDF {form!r}", f"known forms: {', '.join(TFIDF)}")
    data = np.ones(counts.nnz) if binary else counts.data.astype(np.float64)
    values = sp.csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape)
    totals = cell_totals(values)
    tf = data / np.repeat(np.maximum(totals, 1e-300), np.diff(values.indptr))
    found_p = np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()
    idf_p = values.shape[0] / np.maximum(found_p, 1e-300)
    if form == "log-tfidf":
        values.data = np.log1p(_SCALE * tf * idf_p[values.indices])
    else:
        values.data = np.log1p(_SCALE * tf) * np.log1p(idf_p)[values.indices]
    return values


def lsi(
    counts: sp.csr_matrix,
    components: int = 30,
    *,
    form: str = "log-tfidf",
    binary: bool = False,
    drop_first: bool = True,
    seed: int = 0,
) -> np.ndarray:
    """Latent semantic indexing: left singular vectors times singular values of the TF-IDF values.

    Parameters
    ----------
    counts, form, binary
        See :func:`tfidf`.
    components
        Dimensions that are returned.
    drop_first
        Leave the first component out (one more is then computed).

    Returns
    -------
    ndarray
        (n, components) float64, in falling order of singular values.

    Raises
    ------
    InputError
        More components than the matrix has.
    """
    from sklearn.decomposition import TruncatedSVD
    from threadpoolctl import threadpool_limits

    computed = components + int(drop_first)
    _check_size(counts, computed)
    values = tfidf(counts, form, binary)
    with threadpool_limits(1):
        scores_nz = TruncatedSVD(computed, algorithm="arpack", random_state=seed).fit_transform(values)
    return np.asarray(scores_nz[:, int(drop_first) :], dtype=np.float64)


def pca(counts: sp.csr_matrix, components: int = 30, *, as_is: bool = False, seed: int = 0) -> np.ndarray:
    """Principal components of log(1 + counts per 10,000), centred, not scaled: (n, components) float64.

    With ``as_is`` they are of the values themselves, such as imputed ones.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    _check_size(counts, components)
    values = (counts if as_is else log1p_cp10k(counts)).astype(np.float64)
    with threadpool_limits(1):
        scores_nz = PCA(components, svd_solver="arpack", random_state=seed).fit_transform(values)
    return np.asarray(scores_nz, dtype=np.float64)


def scaled_pca(counts: sp.csr_matrix, components: int = 50, *, largest: float = 10.0) -> np.ndarray:
    """Principal components of z-scored log counts: the usual embedding of RNA, (n, components) float64.

    Counts are scaled to the median of the cells' totals and become log(1 + x); each gene is centred and divided by its
    standard deviation, and cut off at ``largest`` deviations. Scaling to the median instead of 10,000 keeps the noise
    of shallow cells in bounds. Components are the eigenvectors of the covariance, added up a block of cells at a
    time, in falling order; the sign of each is that its largest loading is positive.

    Parameters
    ----------
    counts
        (n, g) CSR counts; genes that do not vary have no part in it.
    components
        Dimensions that are returned.
    largest
        Where z-scores are cut off.
    """
    from threadpoolctl import threadpool_limits

    _check_size(counts, components)
    totals = cell_totals(counts)
    values = log1p_cp10k(counts, target_sum=float(np.median(totals[totals > 0])), totals=totals)
    n, g = values.shape
    mean_g = np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()
    square_g = np.asarray(values.multiply(values).mean(axis=0, dtype=np.float64)).ravel()
    sd_g = np.sqrt(np.maximum(square_g - mean_g**2, 0.0))
    scale_g = np.divide(1.0, sd_g, out=np.zeros(g), where=sd_g > 1e-6)

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, n, _ROWS):
            rows = slice(start, min(start + _ROWS, n))
            yield rows, np.clip((values[rows].toarray() - mean_g) * scale_g, -largest, largest)

    covariance_gg, total_g = np.zeros((g, g)), np.zeros(g)
    scores_nz = np.empty((n, components))
    with threadpool_limits(1):
        for _, z_ng in blocks():
            covariance_gg += z_ng.T @ z_ng
            total_g += z_ng.sum(0)
        covariance_gg -= np.outer(total_g, total_g) / n
        loading_gz = np.linalg.eigh(covariance_gg)[1][:, ::-1][:, :components]
        loading_gz *= np.sign(loading_gz[np.abs(loading_gz).argmax(0), np.arange(components)])
        for rows, z_ng in blocks():
            scores_nz[rows] = (z_ng - total_g / n) @ loading_gz
    return scores_nz


def gene_svd(counts: sp.csr_matrix, components: int, *, seed: int = 0) -> np.ndarray:
    """Genes by co-expression: right singular vectors times values of standardised log1p CP10k, (g, components).

    Values of a gene are divided by its standard deviation and centred, so that nearness is correlation; genes that do
    not vary, such as those that no cell expresses, lie at the origin.
    """
    from scipy.sparse.linalg import LinearOperator, svds
    from threadpoolctl import threadpool_limits

    _check_size(counts, components)
    values = log1p_cp10k(counts).astype(np.float64)
    n, g = values.shape
    mean_g = np.asarray(values.mean(0)).ravel()
    square_g = np.asarray(values.multiply(values).mean(0)).ravel()
    deviation_g = np.sqrt(np.maximum(square_g - mean_g**2, 0))
    scale_g = np.divide(1.0, deviation_g, out=np.zeros(g), where=deviation_g > 1e-9)
    scaled = sp.csr_matrix(values @ sp.diags(scale_g))
    centre_g = mean_g * scale_g
    operator = LinearOperator(
        (n, g),
        matvec=lambda v: scaled @ v.ravel() - np.full(n, centre_g @ v.ravel()),
        rmatvec=lambda u: scaled.T @ u.ravel() - centre_g * u.sum(),
        dtype=np.float64,
    )
    start = np.random.default_rng(seed).normal(size=min(n, g))
    with threadpool_limits(1):
        _, size_z, right_zg = svds(operator, k=components, v0=start)
    order = np.argsort(-size_z)
    # What rounding leaves of genes that do not vary.
    right_zg[:, scale_g == 0] = 0.0
    return np.asarray((right_zg[order] * size_z[order, None]).T / np.sqrt(n), dtype=np.float64)


def harmony(emb_nz: np.ndarray, batch: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Harmony's correction (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0) of an embedding, its own defaults.

    Parameters
    ----------
    emb_nz
        (n, z) embedding.
    batch
        (n,) batches, at least two.

    Raises
    ------
    UsageError
        harmonypy is not installed.
    InputError
        There is only one batch.
    """
    if len(np.unique(batch)) < 2:
        raise InputError("Harmony needs at least two batches, and all cells are of one", "choose another --batch-key")
    try:
        from harmonypy import run_harmony
    except ImportError:
        raise UsageError(
            "lsi-harmony needs harmonypy, which is not installed", "pip install 'scmap-cli[harmony]'"
        ) from None
    # It reports at the level of information, on handlers of its own.
    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    clusters = max(2, min(round(len(emb_nz) / 30), 100))
    found = run_harmony(
        np.asarray(emb_nz, dtype=np.float64),
        {"batch": np.asarray(batch).astype(str)},
        ["batch"],
        nclust=clusters,
        random_state=seed,
        ncores=1,
        verbose=False,
    )
    return np.asarray(found.Z_corr, dtype=np.float64)


def _check_size(counts: sp.csr_matrix, computed: int) -> None:
    smaller = min(counts.shape)
    if computed >= smaller:
        raise InputError(
            f"{counts.shape[0]} cells x {counts.shape[1]} features have fewer than {computed + 1} components",
            "lower --components",
        )
