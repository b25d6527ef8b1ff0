r"""scImpute's method, small: which zeros are dropouts by a mixture, and values for them from like cells.

    python examples/benchmarks/peer_scimpute.py observed.h5ad --clusters 8 -o imputed.npz

The package is written in R; this is made anew from its paper (Li and Li 2018, doi:10.1038/s41467-018-03405-7). Values
are log10(1.01 + counts per million).

1. Principal components that explain 40 % of the variance (50 at most, by a randomised solver). Cells whose nearest
   neighbour is farther than the third quartile and 1.5 times the quartiles' distance are left alone; all others are in
   ``--clusters`` groups by spectral clustering on a graph of neighbours (there on a dense kernel).
2. In each group the values of a gene are of a mixture of a gamma and a normal distribution, fitted by expectation and
   maximisation. The gamma's posterior share is the probability of a dropout. A value above the normal's mean is none.
3. A cell's genes of probabilities up to ``--threshold`` are written as a sum, of weights at least 0, of the other
   cells of its group; the same weights give the other genes, at most the gene's largest value in the group.

Writes what ``scmap evaluate imputation --withhold`` scores: log1p of counts per 10,000 as ``imputed``, with the names
of ``cells`` and ``features``. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import anndata
import numpy as np
from scipy import sparse
from scipy.special import digamma, gammaln, polygamma
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

LOW, ROUNDS, LARGEST_SHAPE = np.log10(1.01), 30, 20.0


def groups(x_ng: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """(n,) group of each cell, -1 for those far from all others."""
    most = min(50, *x_ng.shape)
    pca = PCA(most, svd_solver="randomized", random_state=seed)
    z_nk = pca.fit_transform(x_ng)
    z_nk = z_nk[:, : max(int((np.cumsum(pca.explained_variance_ratio_) < 0.4).sum()) + 1, 2)]
    nearest = NearestNeighbors(n_neighbors=2).fit(z_nk).kneighbors(z_nk)[0][:, 1]
    low, high = np.quantile(nearest, [0.25, 0.75])
    kept = nearest <= high + 1.5 * (high - low)
    found = np.full(len(x_ng), -1)
    model = SpectralClustering(clusters, affinity="nearest_neighbors", n_neighbors=10, random_state=seed)
    found[kept] = model.fit_predict(z_nk[kept])
    return found


def gamma_fit(mean_g: np.ndarray, log_mean_g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shapes and rates of gamma distributions with these means and means of logarithms; the shape is 20 at most."""
    gap = np.maximum(np.log(mean_g) - log_mean_g, 1e-6)
    shape = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        shape = np.maximum(shape - (np.log(shape) - digamma(shape) - gap) / (1 / shape - polygamma(1, shape)), 1e-3)
    shape = np.minimum(shape, LARGEST_SHAPE)
    return shape, shape / mean_g


def dropouts(x_ng: np.ndarray) -> np.ndarray:
    """(n, g) probability that a value of a group's cells is a dropout; 0 for genes with fewer than three values."""
    told = (x_ng > LOW + 1e-9).sum(0) >= 3
    x = x_ng[:, told].astype(np.float64)
    seen = x > LOW + 1e-9
    share = np.clip(1 - seen.mean(0), 0.01, 0.99)
    shape, rate = np.full(x.shape[1], 0.5), np.ones(x.shape[1])
    mean = (x * seen).sum(0) / seen.sum(0)
    sd = np.maximum(np.sqrt((seen * (x - mean) ** 2).sum(0) / seen.sum(0)), 0.05)
    log_x = np.log(x)
    for step in range(ROUNDS + 1):
        of_gamma = np.log(share) + shape * np.log(rate) - gammaln(shape) + (shape - 1) * log_x - rate * x
        of_normal = np.log1p(-share) - 0.5 * ((x - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
        weight = 1 / (1 + np.exp(np.clip(of_normal - of_gamma, -500, 500)))
        if step == ROUNDS:
            break
        total, other = np.maximum(weight.sum(0), 1e-9), np.maximum((1 - weight).sum(0), 1e-9)
        share = np.clip(weight.mean(0), 1e-4, 1 - 1e-4)
        mean = ((1 - weight) * x).sum(0) / other
        sd = np.maximum(np.sqrt(((1 - weight) * (x - mean) ** 2).sum(0) / other), 0.05)
        shape, rate = gamma_fit((weight * x).sum(0) / total, (weight * log_x).sum(0) / total)
    weight[x > mean] = 0
    found = np.zeros(x_ng.shape, dtype=np.float32)
    found[:, told] = weight
    return found


def weights(gram_mm: np.ndarray, product_m: np.ndarray) -> np.ndarray:
    """Least squares with weights at least 0, from the products: Lawson and Hanson's active sets (Bro and de Jong)."""
    found, active = np.zeros(len(product_m)), np.zeros(len(product_m), dtype=bool)
    tolerance = 1e-8 * max(float(np.abs(product_m).max(initial=0.0)), 1e-12)
    for _ in range(3 * len(product_m)):
        slope = product_m - gram_mm @ found
        slope[active] = -np.inf
        best = int(slope.argmax())
        if slope[best] <= tolerance:
            break
        active[best] = True
        while True:
            trial = np.zeros_like(found)
            chosen = np.flatnonzero(active)
            ridge = 1e-9 * np.diag(gram_mm)[chosen].mean() * np.eye(len(chosen))
            trial[chosen] = np.linalg.solve(gram_mm[np.ix_(chosen, chosen)] + ridge, product_m[chosen])
            below = chosen[trial[chosen] <= 0]
            if not len(below):
                break
            step = (found[below] / np.maximum(found[below] - trial[below], 1e-300)).min()
            found += step * (trial - found)
            active &= found > 1e-12
            found[~active] = 0
        found = trial
    return found


def impute_group(x_ng: np.ndarray, dropped_ng: np.ndarray) -> np.ndarray:
    """Values of one group's cells, those that are dropouts rebuilt from its other cells."""
    found, most_g, every = x_ng.copy(), x_ng.max(0), np.arange(len(x_ng))
    for cell, dropped_g in enumerate(dropped_ng):
        kept = ~dropped_g
        if kept.all() or not kept.any() or len(x_ng) < 2:
            continue
        of_kept, others = x_ng[:, kept], every[every != cell]
        products = (of_kept @ of_kept.T).astype(np.float64)
        weight = weights(products[np.ix_(others, others)], products[others, cell])
        used = np.flatnonzero(weight)
        values = weight[used].astype(np.float32) @ x_ng[others[used]]
        found[cell, dropped_g] = np.minimum(values, most_g)[dropped_g]
    return found


def main() -> None:
    """Parse, impute, write, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="h5ad with counts in X")
    parser.add_argument("--clusters", type=int, required=True, help="groups of cells, which scImpute is told")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    adata = anndata.read_h5ad(args.cells)
    clock = time.perf_counter()
    counts = sparse.csr_matrix(adata.X, dtype=np.float64)
    per_million = sparse.diags(1e6 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)) @ counts
    x_ng = np.log10(per_million.toarray() + 1.01).astype(np.float32)
    group_n = groups(x_ng, args.clusters, args.seed)
    dropped = 0
    for group in range(args.clusters):
        cells = np.flatnonzero(group_n == group)
        if len(cells):
            dropped_ng = dropouts(x_ng[cells]) > args.threshold
            dropped += int(dropped_ng.sum())
            x_ng[cells] = impute_group(x_ng[cells], dropped_ng)
    values = np.log1p(np.maximum(10.0**x_ng - 1.01, 0) / 100).astype(np.float32)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=values, **names)
    told = {
        "seconds": time.perf_counter() - clock,
        "groups": np.bincount(group_n[group_n >= 0], minlength=args.clusters).tolist(),
        "left_alone": int((group_n < 0).sum()),
        "dropouts": dropped / x_ng.size,
    }
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
