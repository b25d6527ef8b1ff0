"""``scmap embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish, refuse
from scmap_cli.errors import UsageError

SUMMARY = "Posterior means of a trained model, or a linear baseline, for every cell."
EPILOG = """\b
Example:
  scmap embed model rna.h5ad -o embedded.h5ad --umap --cluster leiden --plot umap.png
  scmap embed expresser-model --genes -o genes.tsv

Pitfall: the encoder of an expimap model is told batches, so cells of a new batch are mapped (`scmap map-query`), not
embedded. Those of sailer and sailerx are not told: cells of a new batch are embedded as they are, with a warning.
"""
_GRAPH, _BASELINE = "Clusters and pictures", "Baselines"
# What only one of the two does.
_OF_MODELS = (
    "min_overlap",
    "missing",
    "reference_key",
    "ignore_rna",
    "variance",
    "program_scores",
    "groupby",
    "batch_size",
    "device",
)
_OF_BASELINES = ("components", "drop_first", "tfidf", "binary", "input_scale")
# What --genes has no use for.
_OF_CELLS = (
    *("batch_key", "missing", "reference_key", "ignore_rna", "variance", "program_scores", "groupby", "umap", "tsne"),
    *("cluster_method", "resolution", "neighbors", "cluster_backend", "plot", "color"),
)


_OF_LSI = ("drop_first", "tfidf", "binary")
# What --genes has a use for only with the cells of INPUT.
_OF_GENES_IN_CELLS = ("layer", "gene_column", "min_overlap", "batch_size")


def verb(
    ctx: typer.Context,
    model_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL_DIR]", show_default=False, help="Folder that `scmap train` wrote; none with --baseline."
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            show_default=False,
            help="Raw counts; genes are matched by name, never by place. Not for --genes of an expresser model alone.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".h5ad: the input with the embedding added. .npz: the embedding alone; --genes: also .tsv. Required.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    baseline: Annotated[
        Literal["lsi", "pca", "lsi-harmony"] | None,
        typer.Option(
            "--baseline",
            show_default="none",
            help="Without a model: TF-IDF and SVD, PCA of log counts, or the first with Harmony on --batch-key.",
            rich_help_panel=_BASELINE,
        ),
    ] = None,
    components: Annotated[
        int,
        typer.Option("--components", metavar="N", help="Dimensions of the baseline.", rich_help_panel=_BASELINE),
    ] = 30,
    drop_first: Annotated[
        bool,
        typer.Option(
            "--drop-first/--keep-first",
            help="Leave out the first component of LSI, which mostly follows depth; one more is computed.",
            rich_help_panel=_BASELINE,
        ),
    ] = True,
    tfidf: Annotated[
        Literal["log-tfidf", "logtf-logidf"],
        typer.Option(
            "--tfidf",
            help="log(1 + 1e4 TF IDF), or log(1 + 1e4 TF) log(1 + IDF).",
            rich_help_panel=_BASELINE,
        ),
    ] = "log-tfidf",
    binary: Annotated[
        bool, typer.Option("--binary", help="Take counts above 0 as 1 before LSI.", rich_help_panel=_BASELINE)
    ] = False,
    input_scale: Annotated[
        Literal["counts", "as-is"],
        typer.Option(
            "--input-scale",
            help="as-is: PCA of the values as they are, such as imputed ones.",
            rich_help_panel=_BASELINE,
        ),
    ] = "counts",
    genes: Annotated[
        bool,
        typer.Option(
            "--genes",
            help="Of an expresser model, embed genes: its table, or with INPUT the mean of their vectors in the cells.",
            rich_help_panel=o.DATA,
        ),
    ] = False,
    batch_key: o.BatchKey = None,
    layer: o.Layer = None,
    gene_column: o.GeneColumn = None,
    min_overlap: o.MinOverlap = 0.5,
    missing: o.Missing = None,
    reference_key: o.ReferenceKey = None,
    ignore_rna: o.IgnoreRna = False,
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
    tsne: Annotated[
        bool, typer.Option("--tsne", help="Also write a t-SNE in two dimensions.", rich_help_panel=_GRAPH)
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
            metavar="NAME,...",
            show_default="clusters and batches",
            help="What colours the plot: columns of obs, programs, genes or peaks.",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    batch_size: o.CellsAtOnce = 2048,
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
    """Posterior means of a trained model for every cell, with clusters, UMAP, t-SNE and program scores on request.

    An h5ad gets them in obsm X_MODEL; the model directory is all that is needed. With --baseline a linear method takes
    the place of the model (scmap embed --baseline lsi atac.h5ad -o lsi.h5ad): X_lsi, X_pca or X_lsi_harmony.
    """
    if genes:
        refuse(ctx, ("baseline", *_OF_BASELINES, *_OF_CELLS), "is for cells, not for --genes")
        if input is None:
            refuse(ctx, _OF_GENES_IN_CELLS, "is about the cells of INPUT, which is not given")
        options = begin(ctx, needs=("model_dir", "output"))
        from scmap_cli.stages.embed_genes import embed_genes

        left = {"genes", "baseline", *_OF_BASELINES, *_OF_CELLS}
        embed_genes(**{name: value for name, value in options.items() if name not in left})
        finish(options)
        return
    if plot is None:
        refuse(ctx, ("color",), "needs --plot")
    if cluster_method is None:
        refuse(ctx, ("resolution", "cluster_backend"), "needs --cluster")
        if not umap and plot is None:
            refuse(ctx, ("neighbors",), "needs --cluster or --umap")
    elif cluster_method == "louvain":
        refuse(ctx, ("cluster_backend",), "is of --cluster leiden")
    if baseline is None:
        if program_scores is None:
            refuse(ctx, ("groupby",), "needs --program-scores")
        refuse(ctx, _OF_BASELINES, "needs --baseline")
        options = begin(ctx, needs=("model_dir", "output"))
        if input is None:
            raise UsageError("missing argument INPUT", "give MODEL_DIR and INPUT; or INPUT alone with --baseline pca")
        from scmap_cli.stages.embed import embed

        embed(**{name: value for name, value in options.items() if name not in ("genes", *_OF_BASELINES)})
    else:
        if input is not None:
            raise UsageError("--baseline takes no MODEL_DIR", "give the input alone")
        refuse(ctx, _OF_MODELS, "is for models, not for --baseline")
        if baseline == "pca":
            refuse(ctx, _OF_LSI, "is of LSI, not of --baseline pca")
        if baseline != "lsi-harmony" and (plot is None or color is not None):
            refuse(ctx, ("batch_key",), "is for --baseline lsi-harmony, or to colour a --plot")
        ctx.params |= {"model_dir": None, "input": model_dir}
        options = begin(ctx, needs=("input", "output"))
        from scmap_cli.stages.embed_baseline import embed_baseline

        embed_baseline(**{name: value for name, value in options.items() if name not in ("genes", *_OF_MODELS)})
    finish(options, "program_scores", "plot")
