"""``preprocess atac``: fragments or read pairs to one h5ad of counts in peaks or bins, with QC and filters."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.data.counting import RULES, Rule
from scmap_cli.data.profiles import Profiler
from scmap_cli.data.qc_atac import cell_quality
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.bam import BamOptions, is_bam
from scmap_cli.io.bed import read_barcodes
from scmap_cli.io.genes import read_tss
from scmap_cli.io.h5ad import write_h5ad
from scmap_cli.keys import FRAGMENT_LENGTHS, TSS_PROFILE
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.qc import cell_quality as draw_quality
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.atac_inputs import Counts, HowToCount, cell_names, count_input, make_features, make_tables
from scmap_cli.stages.inputs import sample_names

_ENDINGS = r"(\.(fragments|tsv|bed|txt|bam|gz|bgz))+$"
_UNLISTED_MIN = 200
_SHORTEST_BIN = 100


@dataclass(frozen=True)
class _CellFilters:
    """Smallest and largest values of the cells kept, by option; None is off."""

    limits: dict[str, tuple[str, str, float | None]] = field(default_factory=dict)

    def apply(self, obs: pd.DataFrame) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Cells kept, and each step with its numbers."""
        kept, steps = np.ones(len(obs), bool), []
        for option, (column, side, value) in self.limits.items():
            if not value and (value is None or side == "min"):
                continue
            values = obs[column].to_numpy()
            before = int(kept.sum())
            kept = kept & (values >= value if side == "min" else values <= value)
            after = int(kept.sum())
            steps.append({"filter": option, "value": value, "axis": "cells", "before": before, "after": after})
            log.info("--%s %g: %d of %d cells kept", option, value, after, before)
            if after == 0:
                raise InputError(f"--{option} {value:g} leaves none of {before} cells", f"choose another --{option}")
        return kept, steps


def preprocess_atac(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    peaks: Path | str | None = None,
    bins: int | None = None,
    chrom_sizes: Path | str | None = None,
    count: Rule = "fragments",
    use_support: bool = False,
    barcodes: Sequence[Path | str] | None = None,
    sample: Sequence[str] | None = None,
    batch_key: str = "batch",
    max_bad_rows: int = 0,
    keep_chrom: Sequence[str] | None = None,
    drop_chrom: Sequence[str] | None = None,
    blacklist: Path | str | None = None,
    tss: Path | str | None = None,
    mito_chrom: Sequence[str] = ("chrM", "chrMT", "M", "MT"),
    min_fragments: int | None = None,
    max_fragments: int | None = None,
    min_frip: float | None = None,
    min_tss: float | None = None,
    min_promoter: float | None = None,
    max_promoter: float | None = None,
    max_nucleosome: float | None = None,
    max_mito: float | None = None,
    min_cells: int = 0,
    min_cell_share: float = 0.0,
    max_cell_share: float = 1.0,
    barcode_from: str = "CB",
    barcode_regex: str = "^([^:]+):",
    min_mapq: int = 30,
    keep_duplicates: bool = False,
    shift_start: int = 4,
    shift_end: int = -5,
    profiles: bool = False,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Count fragments of one or several inputs in peaks or bins.

    Parameters
    ----------
    inputs
        Fragment files (plain, gzip or BGZF) or BAM files, told apart by content.
    output
        The h5ad to write: ``X`` CSR int32 counts; ``obs`` with the columns of :mod:`scmap_cli.data.qc_atac`,
        ``total_counts`` and ``n_features``; ``var`` with ``chrom``, ``start``, ``end`` and ``n_cells``.
    peaks, bins
        A BED file, or the width of bins in bases that cover the chromosomes of ``chrom_sizes``; one of the two.
    chrom_sizes
        Chromosome lengths: a fragment that ends beyond its chromosome is then a bad row.
    count
        The rule, see :mod:`scmap_cli.data.counting`.
    use_support
        Count a fragment as often as its fifth column says; otherwise once.
    barcodes
        Files of the barcodes to keep, in that order: one for all inputs, or one for each.
    sample, batch_key
        One name for each input, by default the file names; written to ``obs[batch_key]`` when there are several inputs
        or ``sample`` is given. With several inputs a cell is named ``SAMPLE#BARCODE``.
    max_bad_rows
        Rows of each input that may be no fragments; they are counted and left out.
    keep_chrom, drop_chrom, blacklist
        Features kept: by shell patterns of chromosomes, and those that overlap no region of this BED file.
    tss
        Start sites (GTF or BED), for TSS enrichment and promoter ratio.
    mito_chrom
        Names of mitochondrial chromosomes.
    min_fragments, max_fragments, min_frip, min_tss, min_promoter, max_promoter, max_nucleosome, max_mito
        Cells kept, bounds included. Without ``barcodes``, ``min_fragments`` is 200 unless given.
    min_cells, min_cell_share, max_cell_share
        Features kept: open in so many of the cells kept, and in so large a share of them. The thesis on SAILER drops
        bins open in more than 90 % or less than 1 % of the cells.
    barcode_from, barcode_regex, min_mapq, keep_duplicates, shift_start, shift_end
        How read pairs of BAM files become fragments, see :class:`scmap_cli.io.bam.BamOptions`.
    profiles
        Also keep lengths of all fragments and, with ``tss``, their cuts around start sites, in ``uns`` by input.
    plot
        Draw the quality of the cells kept, by input.
    seed
        Kept in the record; nothing here is random.
    force, dry_run
        Replace an existing output; check the inputs and options and write nothing.

    Returns
    -------
    dict
        JSON values: what was read, counted, filtered and written.

    Raises
    ------
    UsageError, OutputExistsError
        Options contradict each other, or the output exists.
    InputError
        An input is unfit, or nothing is left of it.
    WriteError
        The output cannot be written.
    """
    paths = [Path(path) for path in inputs]
    if not paths:
        raise UsageError("no input given")
    _check_options(peaks, bins, chrom_sizes, count, batch_key, len(paths), barcodes)
    shares = {"min-frip": min_frip, "min-promoter": min_promoter, "max-promoter": max_promoter}
    shares |= {"min-cell-share": min_cell_share}
    _check_shares(shares | {"max-cell-share": max_cell_share}, max_mito)
    for option, value, needed in (
        ("min-frip", min_frip, peaks),
        ("min-tss", min_tss, tss),
        ("min-promoter", min_promoter, tss),
        ("max-promoter", max_promoter, tss),
    ):
        if value is not None and needed is None:
            raise UsageError(f"--{option} needs {'--peaks' if option == 'min-frip' else '--tss'}")
    if barcodes is None and min_fragments is None:
        min_fragments = _UNLISTED_MIN
    filters = _CellFilters(
        {
            "min-fragments": ("n_fragments", "min", min_fragments),
            "max-fragments": ("n_fragments", "max", max_fragments),
            "min-frip": ("frip", "min", min_frip),
            "min-tss": ("tss_enrichment", "min", min_tss),
            "min-promoter": ("promoter_ratio", "min", min_promoter),
            "max-promoter": ("promoter_ratio", "max", max_promoter),
            "max-nucleosome": ("nucleosome_signal", "max", max_nucleosome),
            "max-mito": ("pct_fragments_mt", "max", max_mito),
        }
    )
    bam = BamOptions(barcode_from, barcode_regex, min_mapq, keep_duplicates, shift_start, shift_end)
    _check_bam(bam)
    names = sample_names(paths, sample, _ENDINGS)
    check_outputs(output, figures=[plot], force=force)
    forms = ["bam" if is_bam(path) else "fragments" for path in paths]
    if "bam" not in forms and bam != BamOptions():
        log.warning("no input is a BAM file: options for reads, such as --min-mapq, change nothing")
    parameters = {
        "peaks": None if peaks is None else Path(peaks).name,
        "bins": bins,
        "chrom_sizes": None if chrom_sizes is None else Path(chrom_sizes).name,
        "count": count,
        "use_support": use_support,
        "barcodes": None if barcodes is None else [Path(path).name for path in barcodes],
        "sample": names if len(paths) > 1 or sample is not None else None,
        "batch_key": batch_key,
        "max_bad_rows": max_bad_rows,
        "keep_chrom": list(keep_chrom or []),
        "drop_chrom": list(drop_chrom or []),
        "blacklist": None if blacklist is None else Path(blacklist).name,
        "tss": None if tss is None else Path(tss).name,
        "mito_chrom": list(mito_chrom),
        **{option.replace("-", "_"): value for option, (_, _, value) in filters.limits.items()},
        "min_cells": min_cells,
        "min_cell_share": min_cell_share,
        "max_cell_share": max_cell_share,
        "profiles": profiles,
        **(vars(bam) if "bam" in forms else {}),
    }
    features, sizes = make_features(peaks, bins, chrom_sizes, keep_chrom, drop_chrom, blacklist)
    sites = None if tss is None else read_tss(tss)
    tables = make_tables(features, sites, mito_chrom)
    lists = [read_barcodes(path) for path in barcodes or ()]
    found = [
        {"path": str(path), "form": form, "sample": name} for path, form, name in zip(paths, forms, names, strict=True)
    ]
    if dry_run:
        log.info(
            "would count %s in %d %s by the rule %s, and write %s",
            ", ".join(f"{f['path']} ({f['form']})" for f in found),
            len(features),
            "peaks" if bins is None else "bins",
            count,
            output,
        )
        return {"dry_run": True, "output": str(output), "inputs": found, "parameters": parameters}

    others = [path for path in (peaks, chrom_sizes, blacklist, tss, *(barcodes or ())) if path is not None]
    with provenance.run(
        "preprocess atac", inputs=[*paths, *others], output=output, parameters=parameters, seed=seed
    ) as run:
        profiler = Profiler.around(sites) if profiles else None
        how = HowToCount(count, use_support, sizes, max_bad_rows, min_fragments or 0, bam, profiler)
        parts = []
        clock = time.perf_counter()
        for i, (path, form, name) in enumerate(zip(paths, forms, names, strict=True)):
            one = count_input(path, tables, how, lists[min(i, len(lists) - 1)] if lists else None)
            one.report = {"name": name, "form": form} | one.report
            parts.append(one)
        run.note(
            counting_seconds=round(time.perf_counter() - clock, 3),
            fragments=sum(one.report["fragments"] for one in parts),
        )
        summary: dict[str, Any] = {"output": str(output), "inputs": [one.report for one in parts]}
        adata = _assemble(parts, names, features, bins is None, tss is not None, batch_key, sample is not None)
        if not adata.X.nnz:
            raise InputError(
                f"none of the fragments of {adata.n_obs} cells counts in one of the {adata.n_vars} features",
                "give features of the same genome, with chromosomes named alike",
            )
        kept, summary["filters"] = filters.apply(adata.obs)
        adata = adata if kept.all() else adata[kept].copy()
        adata = _filter_features(adata, min_cells, min_cell_share, max_cell_share, summary["filters"])
        adata.obs["total_counts"] = np.asarray(adata.X.sum(axis=1)).ravel().astype(np.int64)
        adata.obs["n_features"] = np.diff(adata.X.indptr).astype(np.int32)
        empty = int((adata.obs["n_features"] == 0).sum())
        if empty:
            log.warning("%d cells have no counts in the features kept (--min-fragments drops cells)", empty)
        for slot, kind in ((FRAGMENT_LENGTHS, "lengths"), (TSS_PROFILE, "cuts")):
            found_by = {name: getattr(one.profile, kind, None) for name, one in zip(names, parts, strict=True)}
            if all(values is not None for values in found_by.values()):
                adata.uns[slot] = found_by
        run.stamp(adata.uns)
        write_h5ad(adata, output, force=force)
        summary |= {"cells": adata.n_obs, "features": adata.n_vars, "empty_cells": empty, "counts": int(adata.X.sum())}
        if plot is not None:
            publish(plot, force, "the quality of the cells", draw_quality, adata.obs, batch_key)
        log.info("%s: %d cells x %d features, %d counts", output, adata.n_obs, adata.n_vars, summary["counts"])
    return summary


def _check_options(
    peaks: Path | str | None,
    bins: int | None,
    chrom_sizes: Path | str | None,
    count: str,
    batch_key: str,
    n_inputs: int,
    barcodes: Sequence[Path | str] | None,
) -> None:
    if (peaks is None) == (bins is None):
        raise UsageError("give either --peaks or --bins", "--peaks FILE.bed, or --bins 5000 --chrom-sizes FILE")
    if bins is not None and chrom_sizes is None:
        raise UsageError("--bins needs --chrom-sizes", "give a file of chromosomes and their lengths")
    if bins is not None and bins < _SHORTEST_BIN:
        raise UsageError(f"--bins must be at least {_SHORTEST_BIN} bases, not {bins}")
    if count not in RULES:
        raise UsageError(f"--count must be one of {', '.join(RULES)}, not {count!r}")
    if not batch_key:
        raise UsageError("--batch-key is empty")
    if barcodes is not None and len(barcodes) not in (1, n_inputs):
        raise UsageError(
            f"{n_inputs} inputs but {len(barcodes)} files of barcodes", "give --barcodes once, or once for each input"
        )


def _check_shares(shares: dict[str, float | None], max_mito: float | None) -> None:
    for option, value in shares.items():
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"--{option} is a share between 0 and 1, not {value}")
    if max_mito is not None and not 0 <= max_mito <= 100:
        raise UsageError(f"--max-mito is a percentage, not {max_mito}")


def _check_bam(bam: BamOptions) -> None:
    if bam.barcode_from != "name" and len(bam.barcode_from) != 2:
        raise UsageError(f"--barcode-from takes a two-letter tag or name, not {bam.barcode_from!r}")
    try:
        groups = re.compile(bam.barcode_regex).groups
    except re.error as error:
        raise UsageError(f"--barcode-regex is no regular expression: {error}") from None
    if groups < 1:
        raise UsageError(f"--barcode-regex {bam.barcode_regex!r} has no group", "put the barcode in parentheses")


def _assemble(
    parts: list[Counts],
    names: list[str],
    features: pd.DataFrame,
    peaks: bool,
    tss: bool,
    batch_key: str,
    named: bool,
) -> anndata.AnnData:
    several = len(parts) > 1
    cells = [
        f"{name}#{cell}" if several else cell
        for name, one in zip(names, parts, strict=True)
        for cell in cell_names(one)
    ]
    obs = cell_quality(np.concatenate([one.sums for one in parts]), peaks, tss).set_axis(pd.Index(cells, dtype=object))
    if several or named:
        labels = np.repeat(names, [len(one.barcodes) for one in parts])
        batch = pd.Series(pd.Categorical(labels, categories=names), index=obs.index)
        obs.insert(0, batch_key, batch)
    matrix = parts[0].matrix if not several else sp.vstack([one.matrix for one in parts], format="csr")
    var = features.copy()
    places = zip(var["chrom"].tolist(), var["start"].tolist(), var["end"].tolist(), strict=True)
    var.index = pd.Index([f"{chrom}:{start}-{end}" for chrom, start, end in places], dtype=object)
    return anndata.AnnData(matrix, obs=obs, var=var)


def _filter_features(
    adata: anndata.AnnData, min_cells: int, min_share: float, max_share: float, steps: list[dict[str, Any]]
) -> anndata.AnnData:
    """Keep the features that enough and not too many cells have open."""
    found = np.bincount(adata.X.indices, minlength=adata.n_vars).astype(np.int32)
    adata.var["n_cells"] = found
    kept = np.ones(adata.n_vars, bool)
    for option, value, passed in (
        ("min-cells", min_cells, found >= min_cells),
        ("min-cell-share", min_share, found / adata.n_obs >= min_share),
        ("max-cell-share", max_share, found / adata.n_obs <= max_share),
    ):
        before = int(kept.sum())
        kept &= passed
        after = int(kept.sum())
        if value != (1 if option == "max-cell-share" else 0):
            steps.append({"filter": option, "value": value, "axis": "features", "before": before, "after": after})
            log.info("--%s %g: %d of %d features kept", option, value, after, before)
        if after == 0:
            raise InputError(f"--{option} {value:g} leaves none of {before} features", f"choose another --{option}")
    return adata if kept.all() else adata[:, kept].copy()
