"""The peer's side for expression: scVI, run by the Python of an environment that has it.

    scvi-env/bin/pip install scvi-tools==1.4.2

``impute`` takes the file that ``scmap evaluate imputation --observed-output`` writes, trains scVI with its defaults on
the counts that are left in it, and writes an npz of ``imputed``, log1p of the expected counts per 10,000, with the
names of ``cells`` and ``features``: what ``scmap evaluate imputation --withhold`` scores. scVI is not told that a
withheld gene is expressed, so its errors are mostly those of predicting zeros.

``rebuild`` trains on the counts of one h5ad; the cells of another (``--test``) are rebuilt from all their genes, as the
means of its distributions at the cells' own depth (``mean.h5ad``) and as one draw from them (``draw.h5ad``), which is
what the MarkerMap paper scored; both into the folder of ``-o``. The last line printed is one JSON object.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path


def load(path):
    """Counts, ``obs`` and ``var`` alone: an older anndata cannot read all that a newer one writes."""
    import anndata
    import h5py
    from anndata.experimental import read_elem

    with h5py.File(path) as file:
        adata = anndata.AnnData(*(read_elem(file[name]) for name in ("X", "obs", "var")))
    adata.X = adata.X.tocsr()
    return adata


def trained(args, adata):
    """scVI as its tutorial trains it, and the seconds that took."""
    import scvi
    import torch

    torch.set_num_threads(args.threads)
    scvi.settings.seed = args.seed
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    clock = time.perf_counter()
    model.train(max_epochs=args.epochs or None, accelerator=args.accelerator, enable_progress_bar=False)
    return model, time.perf_counter() - clock


def impute(args, adata, model):
    """Expected values of the cells trained on."""
    import numpy as np

    values = model.get_normalized_expression(library_size=1e4, return_numpy=True)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=np.log1p(values).astype(np.float32), **names)


def rebuild(args, adata, model):
    """Means and a draw for cells not trained on."""
    import anndata
    import numpy as np

    test = load(args.test)
    draw = model.posterior_predictive_sample(test, n_samples=1)
    draw = draw.todense() if hasattr(draw, "todense") else draw
    mean = model.get_normalized_expression(test, library_size="latent", return_numpy=True)
    for name, values in (("draw", draw), ("mean", mean)):
        values = np.asarray(values, dtype=np.float32).reshape(test.shape)
        anndata.AnnData(values, obs=test.obs, var=test.var).write_h5ad(args.output / f"{name}.h5ad")


def main():
    """Parse, train, write, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["impute", "rebuild"])
    parser.add_argument("cells", help="h5ad with counts in X, which are trained on")
    parser.add_argument("--test", help="h5ad with counts in X, for rebuild")
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 is scVI's own number")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="npz (impute) or folder (rebuild)")
    args = parser.parse_args()
    adata = load(args.cells)
    model, seconds = trained(args, adata)
    {"impute": impute, "rebuild": rebuild}[args.job](args, adata, model)
    result = {"epochs": len(model.history["reconstruction_loss_train"]), "seconds": seconds}
    result |= {"versions": {name: version(name) for name in ("scvi-tools", "torch")}}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
