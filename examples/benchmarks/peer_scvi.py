"""The peer's side for reconstructions: scVI of scvi-tools, run by the Python of its own environment.

    scvi-env/bin/pip install scvi-tools==1.4.2

scVI is trained with its defaults on the counts of one h5ad; the cells of another are rebuilt from all their genes, as
the means of its distributions at the cells' own depth (``mean.h5ad``) and as one draw from them (``draw.h5ad``), which
is what the MarkerMap paper scored. The last line printed is one JSON object.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import anndata
    import numpy as np
    import scvi
    import torch

    torch.set_num_threads(args.threads)
    scvi.settings.seed = args.seed
    train, test = anndata.read_h5ad(args.train), anndata.read_h5ad(args.test)
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(train)
    start = time.perf_counter()
    model.train(max_epochs=args.epochs, enable_progress_bar=False)
    seconds = time.perf_counter() - start
    draw = model.posterior_predictive_sample(test, n_samples=1)
    draw = draw.todense() if hasattr(draw, "todense") else draw
    mean = model.get_normalized_expression(test, library_size="latent", return_numpy=True)
    for name, values in (("draw", draw), ("mean", mean)):
        values = np.asarray(values, dtype=np.float32).reshape(test.shape)
        anndata.AnnData(values, obs=test.obs, var=test.var).write_h5ad(args.output / f"{name}.h5ad")
    json.dump({"seconds": seconds, "versions": {name: version(name) for name in ("scvi-tools", "torch")}}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
