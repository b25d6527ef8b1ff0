"""``scmap preprocess programs``: gene sets from text become a genes x programs mask for one data set.

The order of the expiMap paper: filter sets by the genes they share with the data (at least 13, which the released
code spells as "more than 12"), drop genes in no program and choose variable genes by ``scmap preprocess rna
--programs``, then run this stage again on the smaller data, which repeats the size filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from scmap_cli import keys
from scmap_cli.data.features import without_version
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs
from scmap_cli.io.gene_table import ENSEMBL
from scmap_cli.io.gmt import GeneSet, read_gene_sets, unique_sets
from scmap_cli.io.h5ad import check_names, read_h5ad, write_h5ad
from scmap_cli.io.programs import Programs, save_programs
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.qc import set_sizes
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log

CASES = ("auto", "exact", "upper")
"""How gene names are compared: ``auto`` ignores case only where exact spelling finds next to nothing."""

_NEXT_TO_NOTHING = 0.05


def build_programs(
    sets: Sequence[GeneSet], genes: Sequence[str] | np.ndarray, symbols: Sequence[str] | np.ndarray | None = None
) -> Programs:
    """Mask of gene sets over the genes of a data set, by one hash lookup a member.

    Parameters
    ----------
    sets
        Gene sets with unique names.
    genes
        (g,) names of the data's genes, in its order.
    symbols
        (g,) names to match the sets' members with, where they differ from ``genes``. Genes that share a symbol are all
        members.

    Returns
    -------
    Programs
        All sets, also those that share no gene with the data.
    """
    names = np.asarray(genes, dtype=str)
    rows_of: dict[str, list[int]] = {}
    for row, symbol in enumerate(names.tolist() if symbols is None else np.asarray(symbols, dtype=str).tolist()):
        rows_of.setdefault(symbol, []).append(row)
    indices: list[int] = []
    indptr = [0]
    for one in sets:
        members = {row for gene in one.genes for row in rows_of.get(gene, ())}
        indices.extend(sorted(members))
        indptr.append(len(indices))
    shape = (len(names), len(sets))
    pointers = np.array(indptr, dtype=np.int32)
    mask = csc_matrix((np.ones(len(indices), np.uint8), np.array(indices, np.int32), pointers), shape=shape)
    before = np.array([len(one.genes) for one in sets], dtype=np.int64)
    program_names = np.array([one.name for one in sets], dtype=str)
    return Programs(mask, names, program_names, before, np.diff(pointers).astype(np.int64))


def preprocess_programs(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    genes: Path | str,
    gene_column: str | None = None,
    form: str = "auto",
    case: str = "auto",
    min_genes: int = 13,
    max_genes: int | None = None,
    min_genes_before: int | None = None,
    max_genes_before: int | None = None,
    keep: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    varm_output: Path | str | None = None,
    plot: Path | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write ``programs.npz``: the sets of all inputs over the genes of one h5ad.

    Parameters
    ----------
    inputs
        Gene-set files.
    output
        The ``programs.npz``.
    genes
        h5ad whose genes, in its order, are the rows of the mask; its counts are not read.
    gene_column
        Column of ``var`` to match the sets' genes with; the mask's gene names stay the h5ad's own.
    form
        Layout of the inputs, see :func:`scmap_cli.io.gmt.read_gene_sets`.
    case
        ``exact``, ``upper`` (both sides upper-cased), or ``auto``.
    min_genes, max_genes
        Bounds, both inclusive, on the data's genes in a set.
    min_genes_before, max_genes_before
        Bounds, both inclusive, on all genes of a set.
    keep, drop
        Shell patterns on set names: keep those that match any of the first, drop those that match any of the second.
    varm_output
        Also write the h5ad with the mask in ``varm["scmap_programs"]`` and the names in ``uns``.
    plot
        Draw the sizes of the sets before and after.
    seed
        Recorded only; nothing here is random.
    force
        Replace existing outputs.
    dry_run
        Check and report, write nothing.

    Returns
    -------
    dict
        Counts of sets read, dropped by each rule and kept, and of genes matched.

    Raises
    ------
    InputError
        A file is unfit, no gene is shared, or no set is left.
    UsageError
        Options that cannot hold together.
    """
    _check_options(inputs, case, min_genes, max_genes, min_genes_before, max_genes_before)
    check_outputs(output, varm_output, figures=[plot], force=force)
    parameters = {
        "gene_column": gene_column,
        "form": form,
        "case": case,
        "min_genes": min_genes,
        "max_genes": max_genes,
        "min_genes_before": min_genes_before,
        "max_genes_before": max_genes_before,
        "keep": list(keep or ()),
        "drop": list(drop or ()),
    }
    sets = unique_sets(one for path in inputs for one in read_gene_sets(path, form))
    report: dict[str, Any] = {"sets_read": len(sets), "sets_renamed": sum(one.renamed for one in sets)}
    data_genes, symbols = _gene_names(genes, gene_column)

    chosen = [one for one in sets if _matches(one.name, keep, True) and not _matches(one.name, drop, False)]
    sized = [one for one in chosen if _within(len(one.genes), min_genes_before, max_genes_before)]
    sized, symbols, folded = _fold_case(sized, symbols, case)
    everything = build_programs(sized, data_genes, symbols)
    wide_enough = np.array([_within(int(size), min_genes, None) for size in everything.size_after], dtype=bool)
    narrow_enough = np.array([_within(int(size), None, max_genes) for size in everything.size_after], dtype=bool)
    kept = wide_enough & narrow_enough
    programs = _select(everything, np.flatnonzero(kept))

    known = set(symbols.tolist())
    distinct = {gene for one in sized for gene in one.genes}
    report |= {
        "dropped_by_name": len(sets) - len(chosen),
        "dropped_by_size_before": len(chosen) - len(sized),
        "dropped_below_min_genes": int((~wide_enough).sum()),
        "dropped_above_max_genes": int((wide_enough & ~narrow_enough).sum()),
        "sets_kept": len(programs.programs),
        "case": "upper" if folded else "exact",
        "set_genes": len(distinct),
        "set_genes_in_data": len(distinct & known),
        "set_genes_not_in_data": len(distinct - known),
        "data_genes": len(data_genes),
        "data_genes_in_any_set": int(everything.covered.sum()),
        "data_genes_in_kept_sets": int(programs.covered.sum()),
        "data_genes_in_kept_sets_share": round(float(programs.covered.mean()), 6),
    }
    _check_result(report, sized, symbols, everything, parameters)
    log.info(
        "programs: %d of %d sets kept; %d of %d genes (%.1f %%) are in at least one",
        report["sets_kept"],
        report["sets_read"],
        report["data_genes_in_kept_sets"],
        report["data_genes"],
        100 * report["data_genes_in_kept_sets_share"],
    )
    if dry_run:
        return report
    with provenance.run(
        "preprocess programs", inputs=[*inputs, genes], output=output, parameters=parameters, seed=seed
    ) as run:
        run.note(report=report)
        if varm_output is not None:
            _write_varm(genes, programs, varm_output, run, force)
        save_programs(output, programs, {"history": [run.record], "report": report}, force)
        if plot is not None:
            publish(plot, force, "the sizes", set_sizes, everything.size_before, everything.size_after, kept)
    return report


def _check_options(
    inputs: Sequence[Path | str], case: str, low: int, high: int | None, before_low: int | None, before_high: int | None
) -> None:
    if not inputs:
        raise UsageError("no gene-set file was given")
    if case not in CASES:
        raise UsageError(f"unknown case policy {case!r}", f"known ones: {', '.join(CASES)}")
    for name, least, most in (("genes", low, high), ("genes-before", before_low, before_high)):
        if (least is not None and least < 0) or (most is not None and most < max(least or 0, 1)):
            raise UsageError(f"--min-{name} {least} and --max-{name} {most} leave no size", "both bounds are inclusive")


def _gene_names(path: Path | str, column: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The h5ad's gene names, unique, and the names to match by."""
    adata = read_h5ad(path, backed=True, unique=False)
    try:
        names = adata.var_names.astype(str)
        if column is not None and column not in adata.var:
            raise InputError(
                f"{path} has no column {column!r} in var",
                f"its columns are: {', '.join(map(str, adata.var)) or 'none'}",
            )
        symbols = np.asarray(names if column is None else adata.var[column].astype(str), dtype=str)
    finally:
        adata.file.close()
    check_names(names, "gene", path)
    if len(names) == 0:
        raise InputError(f"{path} has no genes")
    return np.asarray(names, dtype=str), symbols


def _matches(name: str, patterns: Iterable[str] | None, default: bool) -> bool:
    """Whether a name fits any pattern; ``default`` where there are none."""
    patterns = list(patterns or ())
    return any(fnmatchcase(name, pattern) for pattern in patterns) if patterns else default


def _within(size: int, low: int | None, high: int | None) -> bool:
    return (low is None or size >= low) and (high is None or size <= high)


def _fold_case(sets: list[GeneSet], symbols: np.ndarray, case: str) -> tuple[list[GeneSet], np.ndarray, bool]:
    """Sets and symbols as they are to be compared, and whether case was folded."""
    if case == "exact":
        return sets, symbols, False
    folded = [GeneSet(one.name, tuple(dict.fromkeys(g.upper() for g in one.genes)), one.renamed) for one in sets]
    upper = np.char.upper(symbols)
    if case == "auto":
        exact_hits = len({gene for one in sets for gene in one.genes} & set(symbols.tolist()))
        folded_hits = len({gene for one in folded for gene in one.genes} & set(upper.tolist()))
        if exact_hits >= _NEXT_TO_NOTHING * folded_hits:
            return sets, symbols, False
        log.warning(
            "only %d gene names agree as spelled, %d when case is ignored: case is ignored (--case exact forbids it)",
            exact_hits,
            folded_hits,
        )
    return folded, upper, True


def _select(programs: Programs, columns: np.ndarray) -> Programs:
    return Programs(
        programs.mask[:, columns].tocsc(),
        programs.genes,
        programs.programs[columns],
        programs.size_before[columns],
        programs.size_after[columns],
    )


def _check_result(
    report: dict[str, Any], sets: list[GeneSet], symbols: np.ndarray, everything: Programs, parameters: dict[str, Any]
) -> None:
    if report["sets_kept"]:
        return
    if not sets:
        raise InputError(
            f"none of {report['sets_read']} gene sets is left: {report['dropped_by_name']} dropped by name, "
            f"{report['dropped_by_size_before']} by their number of genes",
            "loosen --keep, --drop, --min-genes-before or --max-genes-before",
        )
    if report["set_genes_in_data"] == 0:
        raise InputError(
            f"none of the {report['set_genes']} genes of {len(sets)} sets is among the {len(symbols)} genes of the data"
            f" (sets say {_examples(g for one in sets for g in one.genes)}; the data says {_examples(symbols)})",
            _name_hint(sets, symbols, parameters),
        )
    largest = int(everything.size_after.max())
    above = f", {report['dropped_above_max_genes']} more than {parameters['max_genes']}"
    raise InputError(
        f"no set is left: of {len(sets)}, {report['dropped_below_min_genes']} share fewer than "
        f"{parameters['min_genes']} genes with the data{'' if parameters['max_genes'] is None else above}; "
        f"the largest overlap is {largest}",
        "change --min-genes or --max-genes (both inclusive)",
    )


def _examples(names: Iterable[str]) -> str:
    found = []
    for name in names:
        found.append(str(name))
        if len(found) == 3:
            break
    return ", ".join(found) or "nothing"


def _name_hint(sets: list[GeneSet], symbols: np.ndarray, parameters: dict[str, Any]) -> str:
    set_genes = [gene for one in sets for gene in one.genes]
    if not set_genes:
        return "the sets hold no genes; check the file's layout with --form"
    data_ensembl = sum(bool(ENSEMBL.match(name)) for name in symbols) > len(symbols) / 2
    sets_ensembl = sum(bool(ENSEMBL.match(name)) for name in set_genes) > len(set_genes) / 2
    if set(without_version(np.asarray(set_genes))) & set(without_version(symbols)):
        return "names agree without the versions of Ensembl ids (the .17 of ENSG00000141510.17): leave these out"
    if data_ensembl and not sets_ensembl:
        return "the data's names look like Ensembl ids: name the column of var with symbols by --gene-column"
    if sets_ensembl and not data_ensembl:
        return "the sets' names look like Ensembl ids: name the column of var with ids by --gene-column"
    if parameters["case"] == "exact" and {g.upper() for g in set_genes} & set(np.char.upper(symbols).tolist()):
        return "names agree when case is ignored (mouse against human spelling?): use --case upper"
    return "check that both are of one species and one kind of name, or name another column by --gene-column"


def _write_varm(genes: Path | str, programs: Programs, output: Path | str, run: provenance.Run, force: bool) -> None:
    adata = read_h5ad(genes)
    adata.varm[keys.PROGRAMS_VARM] = programs.mask
    adata.uns[keys.PROGRAM_NAMES] = programs.programs.astype(object)
    run.stamp(adata.uns)
    write_h5ad(adata, output, force=force)
