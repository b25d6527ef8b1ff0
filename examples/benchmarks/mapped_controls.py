r"""Do mapped control cells mix with the reference? expiMap beside scVI surgery and Symphony, by the nine scIB scores.

    python examples/benchmarks/mapped_controls.py model --reference rna.h5ad --query query.h5ad --label-key cell_type \
        --only condition=ctrl --scarches-python scarches-env/bin/python --work-dir controls -o controls.json

The query's cells that fit ``--only`` (unperturbed ones, which ought to mix) are mapped as one batch. All methods get
the same counts of the model's genes; labels are used for scores only.

expimap   ``scmap map-query``, posterior means
scvi      trained on the reference with its defaults, then surgery as its documentation says (``peer_scarches.py``)
symphony  symphonypy on 20 components of scaled log1p CP10k with Harmony; left out where symphonypy is not installed
pca       50 components of both together, no correction

The scorer is ``scmap evaluate integration`` on ``--max-cells`` cells, all batches as they are. Finished steps in
``--work-dir`` are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata
import measure
import numpy as np
from measure import HERE, flags, measured, say
from scipy import sparse

from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.io.npz import read_npz

#: columns that scmap writes into a joined file
BATCH, ORIGIN = "scmap_batch", "scmap_origin"


def mapped(args: argparse.Namespace) -> anndata.AnnData:
    """Reference and mapped controls together, with the counts of the model's genes."""
    controls, joined = args.work_dir / "controls.h5ad", args.work_dir / "joined.h5ad"
    if not joined.exists():
        adata = anndata.read_h5ad(args.query)
        column, _, value = args.only.partition("=")
        kept = (adata.obs[column].astype(str) == value).to_numpy()
        if not kept.any():
            raise SystemExit(f"no cell of {args.query} has {args.only}")
        write_h5ad(adata[kept].copy(), controls, force=True)
        words = flags(o=args.work_dir / "mapped.h5ad", model_out=args.work_dir / "mapped_model", one_batch="query")
        words += flags(reference=args.reference, label_key=args.label_key, join=joined, seed=args.seed, force=True)
        words += flags(threads=args.threads, quiet=True) + args.map_options.split()
        done = measured([*measure.scmap_command(args.scmap), "map-query", args.model, controls, *words], args.threads)
        say(f"expimap: {done.seconds:.0f} s")
    return anndata.read_h5ad(joined)


def by_scvi(args: argparse.Namespace, joined: anndata.AnnData) -> np.ndarray:
    """ScVI surgery in the environment of the peers."""
    out, cells = args.work_dir / "scvi.npz", args.work_dir / "peer.h5ad"
    if not out.exists():
        columns = joined.obs[[BATCH, ORIGIN]].astype(str)
        counts = sparse.csr_matrix(joined.X, dtype=np.float32)
        anndata.AnnData(counts, obs=columns, var=joined.var[[]]).write_h5ad(cells)
        words = flags(o=out, batch_key=BATCH, origin_key=ORIGIN, seed=args.seed, threads=args.threads)
        command = [args.scarches_python, HERE / "peer_scarches.py", "scvi-surgery", cells, *words]
        say(f"scvi: {measured(command, args.threads).seconds:.0f} s")
    return np.asarray(read_npz(out, foreign=True)[1]["means"])


def by_symphony(args: argparse.Namespace, joined: anndata.AnnData) -> np.ndarray | None:
    """Symphony as its tutorial does, on the model's genes."""
    try:
        import symphonypy
    except ImportError:
        say("symphonypy is not installed")
        return None
    import scanpy

    known = (joined.obs[ORIGIN] == "reference").to_numpy()
    logs = log1p_cp10k(sparse.csr_matrix(joined.X))
    parts = [anndata.AnnData(logs[rows], obs=joined.obs[[BATCH]].astype(str)[rows]) for rows in (known, ~known)]
    for part in parts:
        part.var_names, part.uns["log1p"] = joined.var_names, {"base": None}
    reference, query = parts
    scanpy.pp.scale(reference, max_value=10)
    scanpy.pp.pca(reference, n_comps=20, zero_center=False, random_state=args.seed)
    symphonypy.pp.harmony_integrate(reference, key=BATCH, random_seed=args.seed)
    symphonypy.tl.map_embedding(query, reference, key=BATCH, use_genes_column=None)
    out = np.empty((joined.n_obs, 20), dtype=np.float32)
    out[known], out[~known] = reference.obsm["X_pca_harmony"], query.obsm["X_pca_harmony"]
    return out


def main() -> None:
    """Map by every method, score, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="reference model")
    parser.add_argument("--reference", type=Path, required=True, help="the cells it was trained on")
    parser.add_argument("--query", type=Path, required=True)
    parser.add_argument("--only", required=True, metavar="COLUMN=VALUE", help="cells of the query to map")
    parser.add_argument("--label-key", required=True)
    parser.add_argument("--max-cells", type=int, default=3000)
    parser.add_argument("--scarches-python", help="Python of the peers' environment; without it scVI is left out")
    parser.add_argument("--map-options", default="", help="more options for scmap map-query, in one string")
    measure.add_run_options(parser)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    joined = mapped(args)
    if args.scarches_python:
        joined.obsm["X_scvi"] = by_scvi(args, joined)
    aligned = by_symphony(args, joined)
    if aligned is not None:
        joined.obsm["X_symphony"] = aligned
    embeddings = [key for key in ("X_expimap", "X_scvi", "X_symphony") if key in joined.obsm]
    file, scores = args.work_dir / "scored.h5ad", args.work_dir / "scores.json"
    write_h5ad(joined, file, force=True)
    words = flags(o=scores, label_key=args.label_key, batch_key=BATCH, baseline="pca", max_cells=args.max_cells)
    words += flags(seed=args.seed, threads=args.threads, quiet=True, force=True)
    words += [word for key in embeddings for word in ("--embedding", key)]
    measured([*measure.scmap_command(args.scmap), "evaluate", "integration", file, *words], args.threads)
    results: list[dict[str, Any]] = json.loads(scores.read_text())["results"]
    order = list(results[0]["scores"])
    rows = []
    for found in results:
        told = [found["scores"][name] for name in order]
        rows.append([found["embedding"], *("-" if value is None else f"{value:.3f}" for value in told)])
    say("\n" + measure.table(["", *[name.replace("_", " ") for name in order]], rows))
    measure.write_json(
        args.output,
        {
            "benchmark": "mapped_controls",
            "machine": measure.machine(),
            "settings": measure.settings(args),
            "results": results,
            "versions": measure.versions("scmap-cli", "torch", "numpy", "anndata", "scanpy", "harmonypy", "symphonypy"),
        },
    )


if __name__ == "__main__":
    main()
