"""A model of SCALE's kind, small: a VAE of open peaks with a mixture of Gaussians as its prior (Xiong et al. 2019).

    python examples/benchmarks/peer_scale.py atac.h5ad --clusters 8 -o embedded.h5ad --imputed values.npz

Written anew from the paper (doi:10.1038/s41467-019-12630-7), as small as the comparison needs. As there, ten latent
dimensions, a decoder that is one layer from them to the peaks, binary cross-entropy, the bound of a mixture whose
components are weighted by their posterior at the sample, a start from a mixture fitted to the first embedding, Adam at
0.002 falling to 0.0002, and cells decoded from posterior means. Smaller than there: 256 and 128 hidden units and 3,000
steps of 128 cells; ``--as-published`` has SCALE's 1024 and 128 units and 30,000 steps of 32 cells. ``--clusters`` is
told, as SCALE is told it. Neither depth nor batch enters the model.

Writes the cells with ``obsm["X_scale"]`` and an npz as ``scmap impute`` writes it, to which ``scmap evaluate
imputation`` applies SCALE's rule. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import torch
from scipy import sparse
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.nn import functional as F

LATENT, RATE, LAST_RATE, DECAY, WARM_UP = 10, 2e-3, 2e-4, 5e-4, 200

# Hidden units, cells a step, steps.
SMALL, PUBLISHED = ((256, 128), 128, 3_000), ((1024, 128), 32, 30_000)


class MixtureVae(nn.Module):
    """Peaks to ten dimensions and back, with the parameters of the mixture."""

    def __init__(self, peaks: int, clusters: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        first, second = hidden
        self.encoder = nn.Sequential(nn.Linear(peaks, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
        self.posterior, self.decoder = nn.Linear(second, 2 * LATENT), nn.Linear(LATENT, peaks)
        self.share_c = nn.Parameter(torch.zeros(clusters))
        self.mean_cz = nn.Parameter(torch.zeros(clusters, LATENT))
        self.log_var_cz = nn.Parameter(torch.zeros(clusters, LATENT))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def loss(self, x_np: torch.Tensor, kl_weight: float) -> torch.Tensor:
        """Negative bound, mean over the cells; components are averaged by their posterior at the sample."""
        mean_nz, log_var_nz = self.posterior(self.encoder(x_np)).chunk(2, 1)
        z_nz = mean_nz + torch.exp(0.5 * log_var_nz) * torch.randn_like(mean_nz)
        recon = F.binary_cross_entropy_with_logits(self.decoder(z_nz), x_np, reduction="sum")
        log_share_c = self.share_c.log_softmax(0)
        far_ncz = (z_nz[:, None] - self.mean_cz).square() / self.log_var_cz.exp() + self.log_var_cz
        log_weight_nc = (log_share_c - 0.5 * far_ncz.sum(2)).log_softmax(1)
        expected_ncz = (log_var_nz.exp()[:, None] + (mean_nz[:, None] - self.mean_cz).square()) / self.log_var_cz.exp()
        apart_nc = 0.5 * (expected_ncz + self.log_var_cz - log_var_nz[:, None] - 1).sum(2)
        kl_n = (log_weight_nc.exp() * (apart_nc + log_weight_nc - log_share_c)).sum(1)
        return (recon + kl_weight * kl_n.sum()) / len(x_np)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path, help="h5ad with raw counts in X")
    parser.add_argument("--clusters", type=int, required=True)
    parser.add_argument("--as-published", action="store_true", help="SCALE's own size and steps")
    parser.add_argument("--steps", type=int, help="in place of the 3,000 or 30,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="h5ad with the embedding")
    parser.add_argument("--imputed", type=Path, required=True, help="npz of the values")
    args = parser.parse_args()
    hidden, per_step, steps = PUBLISHED if args.as_published else SMALL
    steps = steps if args.steps is None else args.steps
    adata = anndata.read_h5ad(args.cells)
    counts = sparse.csr_matrix(adata.X)
    clock = time.perf_counter()
    torch.manual_seed(args.seed)  # noqa: TID251
    rng = np.random.default_rng(args.seed)

    def rows(index: np.ndarray | slice) -> torch.Tensor:
        return torch.from_numpy((counts[index].toarray() > 0).astype(np.float32))

    blocks = [slice(start, start + 1024) for start in range(0, counts.shape[0], 1024)]
    model = MixtureVae(counts.shape[1], args.clusters, hidden)

    def embedded() -> np.ndarray:
        with torch.no_grad():
            parts = [model.posterior(model.encoder(rows(block)))[:, :LATENT] for block in blocks]
        return torch.cat(parts).numpy()

    mixture = GaussianMixture(args.clusters, covariance_type="diag", reg_covar=1e-3, random_state=args.seed)
    start = mixture.fit(embedded().astype(np.float64))
    model.mean_cz.data.copy_(torch.from_numpy(start.means_))
    model.log_var_cz.data.copy_(torch.from_numpy(np.log(start.covariances_)))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    per_epoch = math.ceil(counts.shape[0] / per_step)
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(counts.shape[0])
        batch = order[step % per_epoch * per_step :][:per_step]
        optimizer.param_groups[0]["lr"] = max(RATE * 0.9 ** (step // 10), LAST_RATE)
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(rows(batch), min(1.0, step / WARM_UP))
        loss.backward()
        optimizer.step()
    emb_nz = embedded()
    anndata.AnnData(obs=adata.obs, obsm={"X_scale": emb_nz}).write_h5ad(args.output)
    with torch.no_grad():
        values = torch.sigmoid(model.decoder(torch.from_numpy(emb_nz))).numpy()
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.imputed, imputed=values, **names)
    told = {"seconds": time.perf_counter() - clock, "steps": steps, "loss": loss.item()}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
