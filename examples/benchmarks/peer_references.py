"""Embeddings of RNA by other packages, as users bring them to SAILERX, each made by a Python that has the package.

    harmony-env/bin/pip install harmonypy==2.1.0 anndata
    scanorama-env/bin/pip install scanorama==1.7.4 anndata
    scvi-env/bin/pip install scvi-tools==1.4.2
    scanorama-env/bin/python examples/benchmarks/peer_references.py scanorama rna.h5ad --batch-key batch -o rna2.h5ad
    python examples/benchmarks/snareseq.py --rna rna2.h5ad --reference-key X_scanorama ...

Writes the cells with their counts and the embedding in ``obsm["X_harmony"]``, ``["X_scanorama"]`` or ``["X_scanvi"]``.

``harmony`` corrects the principal components of ``--pca-key``. ``scanorama`` integrates log1p CP10k of all genes to 50
dimensions. ``scanvi`` trains scVI, and from it scANVI with the labels of ``--label-key``, both with their defaults: it
is told the labels that it is scored by. The last line printed is one JSON object.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version

import anndata
import numpy as np


def run_harmony(args, adata):
    """Harmony's defaults on the components at hand."""
    import harmonypy

    x_nz = np.asarray(adata.obsm[args.pca_key], dtype=np.float64)
    found = harmonypy.run_harmony(x_nz, adata.obs[[args.batch_key]], args.batch_key, random_state=args.seed)
    emb = np.asarray(found.Z_corr)
    return emb if len(emb) == len(x_nz) else emb.T


def run_scanorama(args, adata):
    """Scanorama's defaults but for the dimensions."""
    import scanorama
    import scipy.sparse as sp

    counts = adata.X.tocsr().astype(np.float64)
    scale = 1e4 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    logged = sp.csr_matrix(sp.diags(scale) @ counts).log1p()
    batch = adata.obs[args.batch_key].astype(str).to_numpy()
    rows = [np.flatnonzero(batch == name) for name in sorted(set(batch))]
    names = [adata.var_names.tolist()] * len(rows)
    parts, _ = scanorama.integrate([logged[one] for one in rows], names, dimred=50, seed=args.seed, verbose=0)
    emb = np.empty((len(batch), parts[0].shape[1]))
    for one, part in zip(rows, parts, strict=True):
        emb[one] = part
    return emb


def run_scanvi(args, adata):
    """scANVI from scVI, each trained as long as it decides."""
    import scvi

    scvi.settings.seed = args.seed
    of = anndata.AnnData(adata.X.copy(), obs=adata.obs.copy(), var=adata.var[[]])
    scvi.model.SCVI.setup_anndata(of, batch_key=args.batch_key)
    model = scvi.model.SCVI(of)
    length = {"max_epochs": args.epochs or None, "accelerator": "cpu", "enable_progress_bar": False}
    model.train(**length)
    model = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category="unknown", labels_key=args.label_key)
    model.train(**length)
    return model.get_latent_representation()


JOBS = {
    "harmony": (run_harmony, "harmonypy"),
    "scanorama": (run_scanorama, "scanorama"),
    "scanvi": (run_scanvi, "scvi-tools"),
}


def main():
    """Parse, run one job, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=list(JOBS))
    parser.add_argument("cells", help="h5ad with raw counts in X")
    parser.add_argument("--batch-key", required=True)
    parser.add_argument("--label-key", help="for scanvi")
    parser.add_argument("--pca-key", default="X_rna", help="for harmony: key of obsm with components")
    parser.add_argument("--epochs", type=int, default=0, help="of scanvi's models, at most; 0 is their own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", required=True, help="h5ad")
    args = parser.parse_args()
    adata = anndata.read_h5ad(args.cells)
    job, package = JOBS[args.job]
    clock = time.perf_counter()
    emb_nz = job(args, adata)
    seconds = time.perf_counter() - clock
    adata.obsm[f"X_{args.job}"] = np.asarray(emb_nz, dtype=np.float32)
    adata.write_h5ad(args.output)
    told = {"dimensions": emb_nz.shape[1], "seconds": seconds, "versions": {package: version(package)}}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
