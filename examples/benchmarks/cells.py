"""Small steps on files that the benchmarks run as processes of their own, with the Python of scmap.

``subset`` keeps the cells of some batches. ``peer`` writes what the peer reads: the cells dense, and the programs' mask
as plain arrays. ``baselines`` embeds by PCA and Harmony. ``collect`` puts embeddings of the same cells, in the same
order, into one h5ad for the scorer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from scipy import sparse

from scmap_cli.io.npz import read_npz
from scmap_cli.io.programs import load_programs


def tell(result: dict[str, Any]) -> None:
    """Print the result as the last line."""
    sys.stdout.write(json.dumps(result) + "\n")


def subset(args: argparse.Namespace) -> None:
    """Cells whose batch is named; counts stay as they are, genes without a count left are kept."""
    adata = anndata.read_h5ad(args.cells)
    kept = adata.obs[args.batch_key].astype(str).isin(args.only_batch).to_numpy()
    if not kept.any():
        raise SystemExit(f"no cell has {args.batch_key} in {args.only_batch}")
    adata = adata[kept].copy()
    adata.write_h5ad(args.output)


def peer(args: argparse.Namespace) -> None:
    """Dense copy of the cells (float32) and ``mask.npz``: mask genes x programs, genes, programs."""
    programs = load_programs(args.programs)
    np.savez(args.mask, mask=programs.mask.toarray(), genes=programs.genes, programs=programs.programs)
    adata = anndata.read_h5ad(args.cells)
    dense = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    # without the history and anything else that a peer's older reader could stumble over
    anndata.AnnData(dense.astype(np.float32), obs=adata.obs, var=adata.var[[]]).write_h5ad(args.output)
    tell({"cells": adata.n_obs, "genes": adata.n_vars, "programs": len(programs.programs)})


def baselines(args: argparse.Namespace) -> None:
    """PCA (50 components, seed 0) of log1p CP10k on the genes of ``--genes``, depth over all genes; Harmony on it.

    Harmony is harmonypy's with its defaults, left out where the package is not installed.
    """
    from sklearn.decomposition import PCA

    adata = anndata.read_h5ad(args.cells)
    genes = anndata.read_h5ad(args.genes, backed="r").var_names
    counts = sparse.csr_matrix(adata.X, dtype=np.float64)
    depth = np.asarray(counts.sum(1)).ravel()
    log1p = sparse.diags(1e4 / depth) @ counts
    log1p = log1p.tocsc()[:, adata.var_names.get_indexer(genes)].tocsr()
    log1p.data = np.log1p(log1p.data)
    arrays = {"pca": PCA(50, svd_solver="arpack", random_state=0).fit_transform(log1p.toarray()).astype(np.float32)}
    note = "harmonypy is not installed"
    try:
        import harmonypy
    except ImportError:
        pass
    else:
        corrected = np.asarray(harmonypy.run_harmony(arrays["pca"], adata.obs, args.batch_key, random_state=0).Z_corr)
        # release 2 returns cells x components, earlier ones the transpose
        arrays["harmony"] = (corrected if len(corrected) == adata.n_obs else corrected.T).astype(np.float32)
        note = ""
    np.savez(args.output, **arrays)
    tell({"methods": sorted(arrays), "note": note})


def collect(args: argparse.Namespace) -> None:
    """``NAME=FILE:KEY`` each become ``obsm["X_NAME"]``; KEY is an array of an npz or an obsm slot of an h5ad."""
    adata = anndata.read_h5ad(args.cells)
    out = anndata.AnnData(obs=adata.obs[[args.batch_key, args.label_key]].astype(str))
    dims = {}
    for text in args.embedding:
        name, _, where = text.partition("=")
        path, _, key = where.rpartition(":")
        if path.endswith(".npz"):
            values = read_npz(path, foreign=True)[1][key]
        else:
            found = anndata.read_h5ad(path)
            if not found.obs_names.equals(adata.obs_names):
                raise SystemExit(f"{path} does not hold the same cells in the same order")
            values = np.asarray(found.obsm[key])
        if len(values) != adata.n_obs:
            raise SystemExit(f"{path} holds {len(values)} cells, not {adata.n_obs}")
        out.obsm[f"X_{name}"] = values.astype(np.float32)
        dims[name] = int(values.shape[1])
    out.write_h5ad(args.output)
    tell({"dims": dims})


def main() -> None:
    """Parse and run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["subset", "peer", "baselines", "collect"])
    parser.add_argument("cells", type=Path, help="h5ad with raw counts in X")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--only-batch", nargs="+", help="subset: batches to keep")
    parser.add_argument("--programs", type=Path, help="peer: programs.npz")
    parser.add_argument("--mask", type=Path, help="peer: npz to write the mask to")
    parser.add_argument("--genes", type=Path, help="baselines: h5ad whose genes are used")
    parser.add_argument("--embedding", nargs="+", help="collect: NAME=FILE:KEY")
    args = parser.parse_args()
    needed = {"subset": ["only_batch"], "peer": ["programs", "mask"], "baselines": ["genes"], "collect": ["embedding"]}
    for name in needed[args.step]:
        if getattr(args, name) is None:
            parser.error(f"{args.step} needs --{name.replace('_', '-')}")
    {"subset": subset, "peer": peer, "baselines": baselines, "collect": collect}[args.step](args)


if __name__ == "__main__":
    main()
