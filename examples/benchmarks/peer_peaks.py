"""The peers' side for peaks: models of scvi-tools, MAGIC and scOpen, each run by a Python that has it.

    scvi-env/bin/pip install scvi-tools==1.4.2
    magic-env/bin/pip install magic-impute==3.0.0 anndata
    scopen-env/bin/pip install "numpy<2" "scikit-learn<1.4" "anndata<0.11" tables kneed matplotlib
    pip download scopen==1.0.1 --no-deps && tar xzf scOpen-1.0.1.tar.gz
    cp -r scOpen-1.0.1/scopen scopen-env/lib/python3.11/site-packages

magic-impute asks for an old pandas that it does not need: beside newer packages it installs with ``--no-deps``, and
so do graphtools, pygsp, scprep, tasklogger, deprecated, wrapt, decorator and future. scOpen's one compiled function
does not build for Python 3.11; it was taken from scikit-learn, whose own stands in for it. The last line printed is
one JSON object.

``peakvi``, ``scvi`` and ``multivi`` train these models of scvi-tools with their defaults, early stopping among them
where it is one, and write the cells with the embedding in ``obsm["X_peakvi"]`` and so on. MultiVI takes peaks, and by
``--rna`` the genes of all or some of these cells. As in its tutorial a cell's modality is the batch, whose mixing is
trained for; ``--batch-key`` is a covariate.

``magic`` smooths square roots of normalised counts with the approximate solver and writes an npz of the values,
``imputed``, and the names of ``cells`` and ``features``. Counts are normalised to the median depth, so that the
values are on the scale of the raw counts, and rules of raw shares apply to them. ``--graph-key`` names an embedding
in ``obsm`` whose neighbours make the graph, as of the cells' RNA; by default it is made of the counts themselves.

``scopen`` writes such an npz too: as scOpen's command does with its defaults, the product of the 30 factors of a
non-negative factorisation of TF-IDF weights of open peaks.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version


def load(path, key=None):
    """Counts, ``obs``, ``var`` and an entry of ``obsm``: an older anndata cannot read all that a newer one writes."""
    import anndata
    import h5py
    from anndata.experimental import read_elem

    with h5py.File(path) as file:
        made = anndata.AnnData(*(read_elem(file[name]) for name in ("X", "obs", "var")))
        if key is not None:
            made.obsm[key] = read_elem(file[f"obsm/{key}"])
    return made


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


def run_scvi(args, adata):
    """scVI on all genes, as its tutorial trains it."""
    import anndata
    import scvi

    obs = adata.obs.copy()
    scvi.settings.seed = args.seed
    scvi.model.SCVI.setup_anndata(adata, batch_key=args.batch_key)
    model = scvi.model.SCVI(adata, n_latent=args.dimensions or 10)
    model.train(max_epochs=args.epochs or None, accelerator=args.accelerator, enable_progress_bar=False)
    found = anndata.AnnData(obs=obs, obsm={"X_scvi": model.get_latent_representation()})
    found.write_h5ad(args.output)
    return {"epochs": len(model.history["elbo_train"]), "dimensions": found.obsm["X_scvi"].shape[1]}


def run_multivi(args, adata):
    """MultiVI as its tutorial trains it, on cells some of which have no count of a gene."""
    import anndata
    import mudata
    import scipy.sparse as sp
    import scvi

    rna, obs = load(args.rna), adata.obs.copy()
    place = rna.obs_names.get_indexer(adata.obs_names)
    has = place >= 0
    chosen = sp.csr_matrix((has[has], (has.nonzero()[0], place[has])), shape=(len(has), rna.n_obs), dtype="float32")
    genes = anndata.AnnData(sp.csr_matrix(chosen @ rna.X), obs=obs[[]], var=rna.var[[]])
    both = mudata.MuData({"rna": genes, "atac": anndata.AnnData(adata.X.tocsr(), obs=obs[[]], var=adata.var[[]])})
    both.obs["modality"] = ["paired" if one else "accessibility" for one in has]
    covariates = None
    if args.batch_key:
        both.obs["of_batch"] = obs[args.batch_key].astype(str).to_numpy()
        covariates = ["of_batch"]
    scvi.settings.seed = args.seed
    scvi.model.MULTIVI.setup_mudata(
        both,
        batch_key="modality",
        categorical_covariate_keys=covariates,
        modalities={"rna_layer": "rna", "atac_layer": "atac"},
    )
    model = scvi.model.MULTIVI(both, n_latent=args.dimensions)
    model.train(max_epochs=args.epochs or 500, accelerator=args.accelerator, enable_progress_bar=False)
    found = anndata.AnnData(obs=obs, obsm={"X_multivi": model.get_latent_representation()})
    found.write_h5ad(args.output)
    return {"epochs": len(model.history["reconstruction_loss_train"]), "dimensions": found.obsm["X_multivi"].shape[1]}


def run_magic(args, adata):
    """MAGIC's defaults but for the solver, and a graph of an embedding where one is named."""
    import graphtools
    import magic
    import numpy as np
    import scprep

    roots = np.sqrt(scprep.normalize.library_size_normalize(adata.X.tocsr(), rescale="median"))
    operator = magic.MAGIC(solver="approximate", random_state=args.seed, n_jobs=1, verbose=0)
    graph, components = None, operator.n_pca
    if args.graph_key:
        # The settings of the graph that MAGIC makes itself.
        how = {"knn": operator.knn, "knn_max": 3 * operator.knn, "decay": operator.decay, "thresh": 1e-4}
        emb = np.asarray(adata.obsm[args.graph_key], dtype=np.float64)
        graph = graphtools.Graph(emb, n_pca=None, n_jobs=1, verbose=0, random_state=args.seed, **how)
    operator.fit(roots, graph=graph)
    # A graph that is given sets this to its own; the values are smoothed in as many components as without one.
    operator.n_pca = components
    values = np.asarray(operator.transform(roots, genes="all_genes"), dtype=np.float32)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=values, **names)
    return {"steps": int(operator.t)}


def run_scopen(args, adata):
    """The command's steps on a matrix at hand: it reads text files alone."""
    import numpy as np
    from sklearn.decomposition import _cdnmf_fast

    sys.modules["cdnmf_fast"] = _cdnmf_fast
    from scopen.Main import run_nmf, tf_idf_transform

    open_pn = adata.X.T.tocsr().astype(np.float64)
    open_pn.data[:] = 1
    # Components, regularisation, iterations, messages, seed and start: as the command has them, but for the seed.
    w_pk, h_kn, error = run_nmf((tf_idf_transform(open_pn), 30, 1.0, 500, 0, args.seed, "nndsvd"))
    values = (h_kn.T @ w_pk.T).astype(np.float32)
    names = {"cells": adata.obs_names.to_numpy().astype(str), "features": adata.var_names.to_numpy().astype(str)}
    np.savez(args.output, imputed=values, **names)
    return {"error": float(error)}


JOBS = {"peakvi": run_peakvi, "scvi": run_scvi, "multivi": run_multivi, "magic": run_magic, "scopen": run_scopen}


def main():
    """Parse, run one job, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=list(JOBS))
    parser.add_argument("cells", help="h5ad with raw counts in X")
    parser.add_argument("--rna", help="for multivi: h5ad with counts of genes")
    parser.add_argument("--graph-key", help="for magic: key of obsm whose neighbours make the graph")
    parser.add_argument("--batch-key", help="for models")
    parser.add_argument("--dimensions", type=int, help="of a model; by default its own number")
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 is the model's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu", help="for models")
    parser.add_argument("-o", "--output", required=True, help="h5ad (models) or npz (magic)")
    args = parser.parse_args()
    adata = load(args.cells, args.graph_key)
    clock = time.perf_counter()
    result = JOBS[args.job](args, adata)
    result["seconds"] = time.perf_counter() - clock
    # scOpen is a copied folder, of which no version is known to Python.
    if args.job == "scopen":
        from scopen.__version__ import __version__

        result["versions"] = {"scopen": __version__}
    else:
        package = "magic-impute" if args.job == "magic" else "scvi-tools"
        result["versions"] = {package: version(package)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
