"""The peer's side: scArches expiMap and scVI, run by the Python of their own environment.

    python3 -m venv scarches-env
    scarches-env/bin/pip install torch==2.13.0
    scarches-env/bin/pip install scarches==0.6.1 'anndata<0.12' 'zarr<3' 'pandas>=2,<3'

The pins are needed: scArches 0.6.1 imports names that newer anndata and zarr no longer have. The benchmarks call this
file with ``--scarches-python scarches-env/bin/python``; the last line it prints is one JSON object.

``time`` trains expiMap and clocks each epoch, with and without its validation pass. ``expimap`` trains it the way its
tutorial does (KL weight 0.5 annealed over 100 epochs, group lasso 0.7, no weight decay, early stopping on the
validation loss) and writes posterior means and one posterior sample, which is what its ``get_latent`` returns unless
told otherwise. ``scvi`` and ``scvi-linear`` (LinearSCVI, LDVAE) train with their own defaults and write posterior
means. ``scvi-surgery`` trains scVI on the cells that ``--origin-key`` calls "reference" with the settings that its
documentation has for surgery, maps the others with their own weights alone (200 epochs, no weight decay), and writes
posterior means of all.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version


def load(args):
    """Cells with the mask in ``varm["I"]``, X float32, CSR or dense as asked; string columns as plain objects."""
    import anndata
    import numpy as np
    from scipy import sparse

    adata = anndata.read_h5ad(args.cells)
    if args.input == "dense" and sparse.issparse(adata.X):
        adata.X = adata.X.toarray()
    if args.input == "csr":
        adata.X = sparse.csr_matrix(adata.X)
    if adata.X.dtype != np.float32:
        adata.X = adata.X.astype(np.float32)
    adata.obs[args.batch_key] = adata.obs[args.batch_key].astype(str).astype("category")
    return adata


def add_mask(adata, path):
    """Put the mask (genes x programs) on the cells' genes by name; genes in no program stay, all zero."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:  # noqa: TID251  scmap is not in this environment
        mask, genes, programs = stored["mask"], stored["genes"], stored["programs"]
    row = {gene: index for index, gene in enumerate(genes)}
    aligned = np.zeros((adata.n_vars, mask.shape[1]), dtype=np.int32)
    for target, gene in enumerate(adata.var_names):
        if gene in row:
            aligned[target] = mask[row[gene]]
    adata.varm["I"] = aligned
    adata.uns["terms"] = [str(name) for name in programs]


def build(adata, args):
    """Build an untrained expiMap, seeded here because the package seeds only after it has drawn the weights."""
    import numpy as np
    import scarches
    import torch

    torch.manual_seed(args.seed)  # noqa: TID251  the package draws from the global state
    np.random.seed(args.seed)  # noqa: TID251
    return scarches.models.EXPIMAP(
        adata=adata,
        condition_key=args.batch_key,
        hidden_layer_sizes=[args.hidden] * 3,
        recon_loss="nb",
        mask_key="I",
        soft_mask=False,
    )


def common_options(args):
    """Options of ``train`` in both jobs."""
    return {
        "batch_size": args.batch_size,
        "alpha": 0.7,
        "alpha_kl": 0.5,
        "alpha_epoch_anneal": 100,
        "weight_decay": 0.0,
        "seed": args.seed,
    }


def run_time(args):
    """Clock every epoch; nothing of the training itself is changed."""
    from scarches.trainers import expiMapTrainer

    marks = []

    class Clocked(expiMapTrainer):
        def on_epoch_begin(self, lr, eps):
            marks.append([time.perf_counter()])
            super().on_epoch_begin(lr, eps)

        def on_epoch_end(self):
            marks[-1].append(time.perf_counter())
            super().on_epoch_end()
            marks[-1].append(time.perf_counter())

    import scarches.models.expimap.expimap_model as module

    module.expiMapTrainer = Clocked
    adata = load(args)
    add_mask(adata, args.mask)
    model = build(adata, args)
    # no early stopping: every run does the same number of epochs; no progress printing: it only costs the peer time
    model.train(n_epochs=args.epochs, use_early_stopping=False, monitor=False, **common_options(args))
    trainer = model.trainer
    return {
        "cells_per_epoch": len(trainer.train_data),
        "valid_cells": len(trainer.valid_data),
        "parameters": sum(p.numel() for p in model.model.parameters() if p.requires_grad),
        "train_seconds": [train - begin for begin, train, _ in marks],
        "epoch_seconds": [end - begin for begin, _, end in marks],
        "train_loss": [float(value) for value in trainer.logs["epoch_loss"]],
    }


def run_expimap(args):
    """Train as in the tutorial and write ``means`` and ``sample``, active programs only (their own choice too)."""
    import numpy as np

    args.input = "dense"
    adata = load(args)
    add_mask(adata, args.mask)
    model = build(adata, args)
    stopping = {
        "early_stopping_metric": "val_unweighted_loss",
        "threshold": 0,
        "patience": 50,
        "reduce_lr": True,
        "lr_patience": 13,
        "lr_factor": 0.1,
    }
    clock = time.perf_counter()
    model.train(
        n_epochs=args.epochs,
        use_early_stopping=not args.no_early_stopping,
        early_stopping_kwargs=stopping,
        monitor=False,
        **common_options(args),
    )
    seconds = time.perf_counter() - clock
    # a boolean for each program
    active = np.asarray(model.nonzero_terms()).ravel()
    means = model.get_latent(mean=True)
    sample = model.get_latent(mean=False)
    np.savez(
        args.output,
        means=means[:, active],
        sample=sample[:, active],
        all_means=means,
        active=np.asarray(adata.uns["terms"])[active],
    )
    return {
        "seconds": seconds,
        "epochs": model.trainer.epoch + 1,
        "active": int(active.sum()),
        "programs": means.shape[1],
    }


def run_scvi(args):
    """Train scVI or LinearSCVI with its defaults (10 dimensions, its own number of epochs) on the same counts."""
    import numpy as np
    import scvi

    args.input = "csr"
    adata = load(args)
    scvi.settings.seed = args.seed
    kind = scvi.model.LinearSCVI if args.job == "scvi-linear" else scvi.model.SCVI
    kind.setup_anndata(adata, batch_key=args.batch_key)
    model = kind(adata)
    clock = time.perf_counter()
    model.train(max_epochs=args.epochs or None, accelerator=args.accelerator, enable_progress_bar=False)
    seconds = time.perf_counter() - clock
    np.savez(args.output, means=model.get_latent_representation())
    return {"seconds": seconds, "epochs": len(model.history["elbo_train"])}


def run_scvi_surgery(args):
    """Reference by scVI, the other cells by surgery; ``means`` of all cells in their order."""
    import numpy as np
    import scvi

    args.input = "csr"
    adata = load(args)
    known = (adata.obs[args.origin_key].astype(str) == "reference").to_numpy()
    reference, query = adata[known].copy(), adata[~known].copy()
    scvi.settings.seed = args.seed
    scvi.model.SCVI.setup_anndata(reference, batch_key=args.batch_key)
    # both layer norms and the covariates: what scvi-tools' tutorial of surgery and the expiMap paper set
    options = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "n_layers": 2}
    model = scvi.model.SCVI(reference, dropout_rate=0.2, **options)
    training = {"accelerator": args.accelerator, "enable_progress_bar": False}
    clock = time.perf_counter()
    model.train(max_epochs=args.epochs or None, **training)
    scvi.model.SCVI.prepare_query_anndata(query, model)
    mapped = scvi.model.SCVI.load_query_data(query, model)
    mapped.train(max_epochs=args.epochs or 200, plan_kwargs={"weight_decay": 0.0}, **training)
    seconds = time.perf_counter() - clock
    means = np.empty((adata.n_obs, model.module.n_latent), dtype=np.float32)
    means[known] = model.get_latent_representation()
    means[~known] = mapped.get_latent_representation(query)
    np.savez(args.output, means=means)
    return {"seconds": seconds, "epochs": len(model.history["elbo_train"])}


def main():
    """Parse, run one job, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["time", "expimap", "scvi", "scvi-linear", "scvi-surgery"])
    parser.add_argument("cells", help="h5ad with raw counts in X")
    parser.add_argument("--mask", help="npz with mask (genes x programs), genes, programs; not for scVI")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--origin-key", default="scmap_origin", help="column that tells reference from query")
    parser.add_argument("--input", choices=["dense", "csr"], default="dense", help="form of X in training (time only)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the three hidden layers")
    parser.add_argument("--epochs", type=int, default=0, help="0: 400 for expimap, 6 for time, scVI's own for its jobs")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's own number")
    parser.add_argument("--accelerator", default="cpu", help="for scVI")
    parser.add_argument("--no-early-stopping", action="store_true", help="expimap: run all epochs")
    parser.add_argument("-o", "--output", help="npz to write (all but time)")
    args = parser.parse_args()
    if not args.job.startswith("scvi") and not args.mask:
        parser.error("--mask is needed")
    if args.job != "time" and not args.output:
        parser.error("--output is needed")
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    args.epochs = args.epochs or {"expimap": 400, "time": 6}.get(args.job, 0)
    scvi_jobs = {"scvi": run_scvi, "scvi-linear": run_scvi, "scvi-surgery": run_scvi_surgery}
    jobs = {"time": run_time, "expimap": run_expimap, **scvi_jobs}
    result = jobs[args.job](args)
    names = ("scArches", "scvi-tools", "torch", "numpy", "anndata")
    result |= {"threads": torch.get_num_threads(), "versions": {name: version(name) for name in names}}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
