"""``scmap simulate atac``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from scmap_cli.cli import options as o
from scmap_cli.cli.session import begin, finish, refuse

SUMMARY = "scATAC counts drawn from bulk profiles, with a known truth."
EPILOG = """\b
Example:
  scmap simulate atac -o sim1.h5ad --preset sim1 --bulk bulk.tsv.gz --types B,CD4,CD8,Mono,NK --seed 1

Pitfall: the truth (cell_type, depth, rho, scmap_bulk, scmap_bulk_open) is in the same file as the counts; leave it out
of whatever a method under test may see.
"""
_PROFILES, _SIZE, _DEPTH = "Bulk profiles", "Cells", "Depth and noise"
_PRESET = "by --preset"


def verb(
    ctx: typer.Context,
    output: o.H5adOutput = None,
    fragments: Annotated[
        Path | None,
        typer.Option(
            "--fragments",
            metavar="FILE.tsv.gz",
            help="Also write sorted, bgzipped fragments; counting them on the peaks gives the matrix.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    bulk: Annotated[
        Path | None,
        typer.Option(
            "--bulk",
            metavar="TSV",
            show_default="generated",
            help="Table of signal, peaks chrom:start-end in rows and types in columns, plain or gzip.",
            rich_help_panel=_PROFILES,
        ),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(
            "--types",
            metavar="NAME,...",
            show_default="the first ones",
            help="Columns of --bulk to take; rare types come last.",
            rich_help_panel=_PROFILES,
        ),
    ] = None,
    open_above: Annotated[
        float,
        typer.Option(
            "--open-above",
            metavar="X",
            help="Signal of --bulk above which a peak is open in the binary profile.",
            rich_help_panel=_PROFILES,
        ),
    ] = 0.0,
    n_peaks: Annotated[
        int | None,
        typer.Option(
            "--n-peaks",
            metavar="N",
            show_default="all of --bulk, or by --preset",
            help="Peaks: a random sample of those of --bulk, or so many generated ones.",
            rich_help_panel=_PROFILES,
        ),
    ] = None,
    open_share: Annotated[
        float,
        typer.Option(
            "--open-share",
            metavar="SHARE",
            help="Share of peaks open in a type, if generated.",
            rich_help_panel=_PROFILES,
        ),
    ] = 0.4,
    preset: Annotated[
        Literal["default", "tiny", "sim1", "sim2", "sim3"],
        typer.Option("--preset", help="Values to start from.", rich_help_panel=_SIZE),
    ] = "default",
    n_cells: Annotated[
        int | None,
        typer.Option(
            "--n-cells", metavar="N", show_default=_PRESET, help="Cells of all batches.", rich_help_panel=_SIZE
        ),
    ] = None,
    n_types: Annotated[
        int | None,
        typer.Option(
            "--n-types", metavar="N", show_default=_PRESET, help="Cell types, the rare ones too.", rich_help_panel=_SIZE
        ),
    ] = None,
    n_batches: Annotated[
        int | None,
        typer.Option("--n-batches", metavar="N", show_default=_PRESET, help="Batches.", rich_help_panel=_SIZE),
    ] = None,
    rare_types: Annotated[
        int | None,
        typer.Option(
            "--rare-types",
            metavar="N",
            show_default=_PRESET,
            help="How many of the types, the last ones, are rare.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    rare_cells: Annotated[
        int | None,
        typer.Option(
            "--rare-cells", metavar="N", show_default=_PRESET, help="Cells of each rare type.", rich_help_panel=_SIZE
        ),
    ] = None,
    rare_in: Annotated[
        Literal["all", "one"] | None,
        typer.Option(
            "--rare-in",
            show_default=_PRESET,
            help="Rare types occur in all batches, or in one each by turns.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    mu: Annotated[
        str | None,
        typer.Option(
            "--mu",
            metavar=o.NUMBERS,
            show_default=_PRESET,
            help="Median fragments a cell, in peaks or not; one number, or one a batch.",
            rich_help_panel=_DEPTH,
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        typer.Option(
            "--sigma",
            metavar=o.NUMBERS,
            show_default=_PRESET,
            help="Standard deviation of the log fragments a cell; one number, or one a batch.",
            rich_help_panel=_DEPTH,
        ),
    ] = None,
    rho: Annotated[
        str | None,
        typer.Option(
            "--rho",
            metavar=o.NUMBERS,
            show_default=_PRESET,
            help="Share of the fragments that lie in peaks; one number, or one a batch.",
            rich_help_panel=_DEPTH,
        ),
    ] = None,
    min_depth: Annotated[
        int | None,
        typer.Option(
            "--min-depth",
            metavar="N",
            show_default=_PRESET,
            help="Cells of fewer fragments get so many.",
            rich_help_panel=_DEPTH,
        ),
    ] = None,
    max_depth: Annotated[
        int | None,
        typer.Option(
            "--max-depth",
            metavar="N",
            show_default=_PRESET,
            help="Cells of more fragments get so many.",
            rich_help_panel=_DEPTH,
        ),
    ] = None,
    bulk_noise: Annotated[
        float | None,
        typer.Option(
            "--bulk-noise",
            metavar="SHARE",
            show_default=_PRESET,
            help="Share of a profile's weight spread over all peaks, as reads of a bulk library are.",
            rich_help_panel=_DEPTH,
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
    """Counts of scATAC drawn from bulk profiles by the model of SCAN-ATAC-Sim, with the truth kept in the file.

    A share rho of a cell's log-normal depth falls into peaks by the profile of its type, over two alleles; counts are
    0, 1 or 2. Presets: default, 2,000 cells x 20,000 peaks, mu 3000, sigma 0.5, rho 0.7; tiny, 300 x 1,500; sim1, sim2
    and sim3 of the SAILER thesis: 10,000 cells of 5 types, one rare, mu 5000; 10,000 of 9 types, mu 3000; 20,000 of 6
    types in two batches, two rare, mu 2500 and 5000, rho 0.4 and 0.5. All three have sigma 1.5, and else rho 0.4.
    """
    if bulk is None:
        refuse(ctx, ("open_above",), "needs --bulk")
    else:
        refuse(ctx, ("open_share",), "is of generated profiles, not of --bulk")
    options = begin(ctx, needs=("output",))
    if types is not None:
        options["types"] = o.names(types)
    for name, text in (("mu", mu), ("sigma", sigma), ("rho", rho)):
        if text is not None:
            options[name] = o.floats(text, f"--{name}")
    from scmap_cli.stages.simulate_atac import simulate_atac

    simulate_atac(**options)
    finish(options, "output", "fragments")
