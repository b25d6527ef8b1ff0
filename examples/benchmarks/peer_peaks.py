"""The peers' side for peaks: PeakVI and MAGIC, each run by the Python of an environment that has it.

    scvi-env/bin/pip install scvi-tools==1.4.2
    magic-env/bin/pip install magic-impute==3.0.0 anndata

magic-impute asks for an old pandas that it does not need: beside newer packages it installs with ``--no-deps``, and so
do graphtools, pygsp, scprep, tasklogger, deprecated, wrapt, decorator and future. The last line printed is one JSON
object.

``peakvi`` trains scvi-tools' PeakVI with its defaults, early stopping among them, and writes the cells with its
embedding in ``obsm["X_peakvi"]``. ``magic`` smooths square roots of normalised counts with the approximate solver and
writes an npz of the values, ``imputed``, and the names of ``cells`` and ``features``. Counts are normalised to the
median depth, so that the values are on the scale of the raw counts, and rules of raw shares apply to them.
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


def run_peakvi(args, adata):
    """PeakVI as its tutorial trains it; ``dimensions`` None leaves its own number."""
    import anndata
    import scvi

    obs = adata.obs.copy()
    scvi.settings.seed = args.seed
    scvi.model.PEAKVI.setup_anndata(adata, batch_key=args.batch_key)
    model = scvi.model.PEAKVI(adata, n_latent=args.dimensions)
    model.train(max_epochs=args.epochs or 500, accelerator=args.accelerator, enable_progress_bar=False)
    found = anndata.AnnData(obs=obs, obsm={"X_peakvi": model.get_latent_representation()})
    found.write_h5ad(args.output)
    return {"epochs": len(model.history["reconstruction_loss_train"]), "dimensions": found.obsm["X_peakvi"].shape[1]}


def run_magic(args, adata):
    """MAGIC's defaults but for the solver."""
    import magic
    import numpy as np
    import scprep

    roots = np.sqrt(scprep.normalize.library_size_normalize(adata.X.tocsr(), rescale="median"))
    operator = magic.MAGIC(solver="approximate", random_state=args.seed, n_jobs=1, verbose=0)
    values = np.asarray(operator.fit_transform(roots, genes="all_genes"), dtype=np.float32)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=values, **names)
    return {"steps": int(operator.t)}


def main():
    """Parse, run one job, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["peakvi", "magic"])
    parser.add_argument("cells", help="h5ad with raw counts in X")
    parser.add_argument("--batch-key", help="for peakvi")
    parser.add_argument("--dimensions", type=int, help="of peakvi; by default its own number")
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 is peakvi's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu", help="for peakvi")
    parser.add_argument("-o", "--output", required=True, help="h5ad (peakvi) or npz (magic)")
    args = parser.parse_args()
    adata = load(args.cells)
    clock = time.perf_counter()
    result = {"peakvi": run_peakvi, "magic": run_magic}[args.job](args, adata)
    package = {"peakvi": "scvi-tools", "magic": "magic-impute"}[args.job]
    result |= {"seconds": time.perf_counter() - clock, "versions": {package: version(package)}}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
