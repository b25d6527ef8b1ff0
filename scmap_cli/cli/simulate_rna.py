"""``scmap simulate rna``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish

SUMMARY = "Negative-binomial counts with a known truth."
EPILOG = """\b
Example:
  scmap simulate rna -o data.h5ad --n-cells 5000 --programs-output programs.npz --seed 1

Pitfall: the columns and matrices of the truth (true_activity, true_weights, depth) are in the same file as the counts;
leave them out of whatever a method under test may see.
"""
_SIZE = "Sizes"
_NOISE = "Depth and noise"


def verb(
    ctx: typer.Context,
    output: o.H5adOutput = None,
    programs_output: Annotated[
        Path | None,
        typer.Option(
            "--programs-output", metavar="FILE.npz", help="Also write the planted programs.", rich_help_panel=o.DATA
        ),
    ] = None,
    gmt_output: Annotated[
        Path | None,
        typer.Option(
            "--gmt-output",
            metavar="FILE.gmt",
            help="Also write the planted programs as gene sets.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    preset: Annotated[
        Literal["default", "tiny"], typer.Option("--preset", help="Values to start from.", rich_help_panel=_SIZE)
    ] = "default",
    n_cells: Annotated[
        int | None,
        typer.Option("--n-cells", metavar="N", show_default="2000; tiny: 300", help="Cells.", rich_help_panel=_SIZE),
    ] = None,
    n_genes: Annotated[
        int | None,
        typer.Option("--n-genes", metavar="N", show_default="1000; tiny: 200", help="Genes.", rich_help_panel=_SIZE),
    ] = None,
    n_programs: Annotated[
        int | None,
        typer.Option(
            "--n-programs", metavar="N", show_default="40; tiny: 12", help="Gene programs.", rich_help_panel=_SIZE
        ),
    ] = None,
    n_types: Annotated[
        int | None,
        typer.Option("--n-types", metavar="N", show_default="6; tiny: 3", help="Cell types.", rich_help_panel=_SIZE),
    ] = None,
    n_batches: Annotated[
        int | None,
        typer.Option("--n-batches", metavar="N", show_default="3; tiny: 2", help="Batches.", rich_help_panel=_SIZE),
    ] = None,
    genes_per_program: Annotated[
        int | None,
        typer.Option(
            "--genes-per-program",
            metavar="N",
            show_default="25; tiny: 15",
            help="Genes of each program.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    active_per_type: Annotated[
        int | None,
        typer.Option(
            "--active-per-type",
            metavar="N",
            show_default="5; tiny: 3",
            help="Programs active in each cell type.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    noise_genes: Annotated[
        int | None,
        typer.Option(
            "--noise-genes",
            metavar="N",
            show_default="200; tiny: 40",
            help="Genes kept out of all programs, at least.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap",
            metavar="SHARE",
            show_default="0.2",
            help="Share of each program's genes that it borrows from others.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    rare_type_share: Annotated[
        float | None,
        typer.Option(
            "--rare-type-share",
            metavar="SHARE",
            show_default="even",
            help="Share of cells in the last type.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    stimulated: Annotated[
        float | None,
        typer.Option(
            "--stimulated",
            metavar="SHARE",
            show_default="0.0",
            help="Share of cells of each type whose condition is stim.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    stim_programs: Annotated[
        int | None,
        typer.Option(
            "--stim-programs",
            metavar="N",
            show_default="3; tiny: 2",
            help="Programs that the stimulus turns on.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    depth_mean: Annotated[
        float | None,
        typer.Option(
            "--depth-mean",
            metavar="COUNTS",
            show_default="3000.0; tiny: 1000.0",
            help="Median library size.",
            rich_help_panel=_NOISE,
        ),
    ] = None,
    depth_sigma: Annotated[
        float | None,
        typer.Option(
            "--depth-sigma",
            metavar="SD",
            show_default="0.4; tiny: 0.3",
            help="Standard deviation of the log library size.",
            rich_help_panel=_NOISE,
        ),
    ] = None,
    batch_shift: Annotated[
        float | None,
        typer.Option(
            "--batch-shift",
            metavar="SD",
            show_default="0.3",
            help="Standard deviation of a batch's log-fold shift of each gene.",
            rich_help_panel=_NOISE,
        ),
    ] = None,
    dispersion: Annotated[
        float | None,
        typer.Option(
            "--dispersion",
            metavar="X",
            show_default="0.2",
            help="Variance is mean + X mean^2; 0 is Poisson.",
            rich_help_panel=_NOISE,
        ),
    ] = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    config: o.Config = None,
    print_config: o.PrintConfig = False,
) -> None:
    """Negative-binomial counts from programs x cell types x batches, with the truth kept in the file."""
    options = begin(ctx, needs=("output",))
    from scmap_cli.stages.simulate import simulate_rna

    simulate_rna(**options)
    finish(options, "output", "programs_output", "gmt_output")
