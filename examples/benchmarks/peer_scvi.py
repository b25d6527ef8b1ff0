"""The peer's side for withheld values: scVI, run by the Python of an environment that has it.

    scvi-env/bin/pip install scvi-tools==1.4.2

It takes the file that ``scmap evaluate imputation --observed-output`` writes, trains scVI with its defaults on the
counts that are left in it, and writes an npz of ``imputed``, log1p of the expected counts per 10,000, with the names of
``cells`` and ``features``: what ``scmap evaluate imputation --withhold`` scores. scVI is not told that a withheld gene
is expressed, so its errors are mostly those of predicting zeros. The last line printed is one JSON object.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version


def load(path):
    """Counts, ``obs`` and ``var`` alone: an older anndata cannot read all that a newer one writes."""
    import anndata
    import h5py
    from anndata.experimental import read_elem

    with h5py.File(path) as file:
        return anndata.AnnData(*(read_elem(file[name]) for name in ("X", "obs", "var")))


def run_scvi(args, adata):
    """scVI as its tutorial trains it."""
    import numpy as np
    import scvi

    scvi.settings.seed = args.seed
    adata.X = adata.X.tocsr()
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    model.train(max_epochs=args.epochs or None, accelerator=args.accelerator, enable_progress_bar=False)
    values = model.get_normalized_expression(library_size=1e4, return_numpy=True)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=np.log1p(values).astype(np.float32), **names)
    return {"epochs": len(model.history["reconstruction_loss_train"])}


def main():
    """Parse, run, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", help="h5ad with the counts that are left in X")
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 is scVI's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("-o", "--output", required=True, help="npz")
    args = parser.parse_args()
    adata = load(args.cells)
    clock = time.perf_counter()
    result = run_scvi(args, adata)
    result |= {"seconds": time.perf_counter() - clock, "versions": {"scvi-tools": version("scvi-tools")}}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
