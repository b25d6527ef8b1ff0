"""``scmap embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Posterior means of a trained model for every cell."
EPILOG = """\b
Example:
  scmap embed model rna.h5ad -o embedded.h5ad --umap --cluster leiden --plot umap.png

Pitfall: a cell's batch must be one that the model was trained with; a new batch needs a model of its own, it is not
guessed.
"""
_GRAPH = "Clusters and pictures"


def verb(
    ctx: typer.Context,
    model_dir: Annotated[
        Path | None, typer.Argument(metavar="MODEL_DIR", show_default=False, help="Folder that `scmap train` wrote.")
    ] = None,
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", show_default=False, help="Raw counts; genes are matched by name, never by place."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".h5ad: the input with the embedding added. .npz: the embedding alone. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    batch_key: o.BatchKey = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    min_overlap: o.MinOverlap = 0.5,
    missing: o.Missing = None,
    variance: Annotated[
        bool, typer.Option("--variance", help="Also write posterior variances.", rich_help_panel=o.DATA)
    ] = False,
    program_scores: Annotated[
        Path | None,
        typer.Option(
            "--program-scores",
            metavar="FILE.tsv",
            help="Also write scores by program, a row per cell, or per group with --groupby.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    groupby: Annotated[
        str | None,
        typer.Option(
            "--groupby",
            metavar="COLUMN",
            help="Column of obs, or clusters for those found here: means of --program-scores.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    umap: Annotated[
        bool, typer.Option("--umap", help="Also write a UMAP in two dimensions.", rich_help_panel=_GRAPH)
    ] = False,
    cluster_method: Annotated[
        Literal["leiden", "louvain"] | None,
        typer.Option("--cluster", show_default="none", help="Also cluster the cells.", rich_help_panel=_GRAPH),
    ] = None,
    resolution: Annotated[
        float,
        typer.Option(
            "--resolution",
            metavar="X",
            help="Resolution of --cluster; more gives more clusters.",
            rich_help_panel=_GRAPH,
        ),
    ] = 1.0,
    neighbors: Annotated[
        int,
        typer.Option(
            "--neighbors", metavar="N", help="Nearest neighbours for clusters and UMAP.", rich_help_panel=_GRAPH
        ),
    ] = 15,
    cluster_backend: o.ClusterBackend = "igraph",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the UMAP (implies --umap).", rich_help_panel=_GRAPH),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            "--color",
            metavar="COLUMN,...",
            show_default="clusters and batches",
            help="Columns of obs that colour the plot.",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Cells computed at once; lower it if memory runs out.",
            rich_help_panel=o.RUN,
        ),
    ] = 2048,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Posterior means of a trained model for every cell, with clusters, UMAP and program scores on request.

    An h5ad gets them in obsm X_MODEL; the model directory is all that is needed.
    """
    options = begin(ctx, needs=("model_dir", "input", "output"))
    from scmap_cli.stages.embed import embed

    embed(**options)
    finish(options, "program_scores", "plot")
