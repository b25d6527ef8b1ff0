"""``scmap preprocess corpus``: many h5ad to one shuffled store of expressed genes, a part at a time.

Blocks of rows of all inputs are shuffled; every part of the store takes the next few dozen blocks, shuffles their cells
and is written. Memory holds one part, whatever the number of cells, and a part is a function of the inputs, the options
and the seed, so that a build that was stopped goes on after its last whole part.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.data.gather import recode, take_rows
from scmap_cli.data.vocabulary import Vocabulary, make_vocabulary
from scmap_cli.errors import InputError, OutputExistsError, UsageError
from scmap_cli.io import shards
from scmap_cli.io.atomic import check_output
from scmap_cli.io.bundle import read_features
from scmap_cli.io.gene_table import read_gene_table
from scmap_cli.io.h5ad_rows import CountRows
from scmap_cli.io.text import read_names
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log, progress
from scmap_cli.stages.corpus_build import Tally, begin, note, publish
from scmap_cli.stages.inputs import plain_records, sample_names

_MOST_STUDIES = 1 << 16


@dataclass(frozen=True)
class _Study:
    """An open input: its rows, the place of its genes in the list, and its cells' studies by code."""

    rows: CountRows
    code_q: np.ndarray
    study_n: np.ndarray


def preprocess_corpus(
    inputs: Sequence[Path],
    output: Path,
    *,
    genes: Path | None = None,
    gene_table: Path | None = None,
    biotype: str | None = None,
    study: Sequence[str] | None = None,
    study_key: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    min_genes: int = 2,
    min_overlap: float = 0.3,
    mixed_genomes: bool = False,
    append: bool = False,
    part_cells: int = 16384,
    block_cells: int = 512,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Build a corpus, or add studies to one.

    Parameters
    ----------
    inputs
        h5ad files of raw counts, in any order; they stay on disk.
    output
        The corpus folder; until it is whole, its parts are in a hidden folder beside it.
    genes
        Gene list, one name a line, or a model directory, whose order is kept; by default the sorted union of the
        inputs' genes.
    gene_table
        TSV of identifiers, symbols and biotypes: brings Ensembl identifiers and symbols together, drops other genes.
    biotype
        Keep the genes of this biotype of the table.
    study, study_key
        A name for each input (its file name by default), or the ``obs`` column with the studies.
    layer, gene_column
        Where the counts and gene names are, when not in the usual places.
    min_genes
        Cells with fewer expressed genes of the list are left out.
    min_overlap
        Smallest share of genes an input must have in common with the list, or with the other inputs.
    mixed_genomes
        Take inputs whose ``var["genome"]`` differ from each other or from those of the corpus they are added to.
    append
        Add the inputs to an existing corpus as new studies; its gene list stays, its parts are not touched.
    part_cells, block_cells
        Cells of a part, and of the blocks that are shuffled.
    seed
        Seed of the shuffle.
    force, dry_run
        Replace an existing corpus; check inputs and options and write nothing.

    Returns
    -------
    dict
        Cells, genes, entries, studies and parts of the corpus.

    Raises
    ------
    UsageError, OutputExistsError, InputError, WriteError
        With exit codes 2, 2, 3 and 6.
    """
    given, output = [Path(path) for path in inputs], Path(output)
    _check_options(given, output, genes, gene_table, biotype, study, study_key, min_overlap, append, force)
    for flag, value in (("--min-genes", min_genes), ("--part-cells", part_cells), ("--block-cells", block_cells)):
        if value < 1:
            raise UsageError(f"{flag} {value} must be at least 1")
    labels = sample_names(given, None, r"\.h5ad$") if study is None else list(study)
    # In the order of their names, so that the order on the command line does not show in the corpus.
    named = sorted(zip(given, labels, strict=True), key=lambda pair: (pair[0].name, str(pair[0])))
    inputs, labels = [path for path, _ in named], [label for _, label in named]
    base = shards.open_corpus(output) if append else None
    parameters = {
        "genes": genes, "gene_table": gene_table, "biotype": biotype, "study": list(study or []),
        "study_key": study_key, "layer": layer, "gene_column": gene_column, "min_genes": min_genes,
        "min_overlap": min_overlap, "append": append, "part_cells": part_cells, "block_cells": block_cells,
    }  # fmt: skip
    extra = [path for path in (genes, gene_table) if path is not None]
    with (
        provenance.run(
            "preprocess corpus",
            inputs=[*inputs, *extra],
            output=None if dry_run else output,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        ExitStack() as stack,
    ):
        opened = [stack.enter_context(CountRows(path, layer, gene_column)) for path in inputs]
        genomes = _genomes(opened, base, mixed_genomes)
        table = read_gene_table(gene_table, biotype) if gene_table is not None else None
        listed = base.genes.tolist() if base is not None else _listed(genes)
        known = make_vocabulary(
            [str(path) for path in inputs], [rows.genes for rows in opened], listed, table, min_overlap
        )
        if len(known.genes) > shards.MOST_GENES:
            raise InputError(
                f"{len(known.genes)} genes; a corpus holds {shards.MOST_GENES}", "give a list with --genes"
            )
        studies, names = _studies(opened, known, labels, study_key, base)
        for number, (rows, path) in enumerate(zip(opened, inputs, strict=True)):
            log.info(
                "%s: %d cells, counts from %s, %d of %d genes in the list of %d",
                path, rows.n, rows.source, known.matched(number), len(rows.genes), len(known.genes),
            )  # fmt: skip
            if known.repeated[number]:
                told = "%s: %d genes are left out, whose names occur more than once: see --gene-column"
                log.warning(told, path, known.repeated[number])
        plan = _blocks([one.rows.n for one in studies], block_cells, part_cells, seed, base)
        summary = {
            "cells": sum(rows.n for rows in opened) + (base.n if base else 0),
            "genes": len(known.genes),
            "studies": len(names),
            "parts": len(plan) + (len(base.parts) if base else 0),
        }
        if dry_run:
            return summary
        work, done, tally = begin(output, run.record, known.genes, base)
        first = len(base.parts) if base is not None else 0
        with progress("parts", len(plan)) as bar:
            bar.done = len(done)
            for number in range(len(done), len(plan)):
                cells = _gather(studies, plan[number], min_genes, np.random.default_rng([seed, first, number]), tally)
                done.append(shards.write_part(work, f"part-{first + number:05d}", cells))
                note(work, run.record, known.genes, base, done, tally)
                bar.advance(1)
        if not any(part.cells for part in done):
            raise InputError(f"no cell has {min_genes} genes of the list", "lower --min-genes, or look at --genes")
        corpus = shards.Corpus(
            output,
            known.genes,
            names,
            [*(base.parts if base else []), *done],
            [*(base.history if base else []), run.record],
            genomes,
        )
        publish(corpus, work, force, base)
        if tally.saturated:
            log.warning("%d counts above %d are stored as that", tally.saturated, shards.LARGEST_COUNT)
        if tally.empty:
            log.info("%d cells with fewer than %d genes of the list are left out", tally.empty, min_genes)
        summary |= {"cells": corpus.n, "entries": corpus.entries}
        run.note(saturated_counts=tally.saturated, cells_left_out=tally.empty)
        log.info(
            "%s: %d cells x %d genes, %d entries, %d studies in %d parts",
            output, corpus.n, len(known.genes), corpus.entries, len(names), len(corpus.parts),
        )  # fmt: skip
    return summary


def _check_options(
    inputs: Sequence[Path],
    output: Path,
    genes: Path | None,
    gene_table: Path | None,
    biotype: str | None,
    study: Sequence[str] | None,
    study_key: str | None,
    min_overlap: float,
    append: bool,
    force: bool,
) -> None:
    if not inputs:
        raise UsageError("no input was given")
    if study is not None and study_key is not None:
        raise UsageError("--study and --study-key both name the studies", "give one of them")
    if study is not None and len(study) != len(inputs):
        raise UsageError(f"{len(inputs)} inputs but {len(study)} studies", "give --study one name for each input")
    if biotype is not None and gene_table is None:
        raise UsageError("--biotype needs --gene-table")
    if append and genes is not None:
        raise UsageError("--append keeps the corpus's gene list", "leave out --genes")
    if append and force:
        raise UsageError("--append adds to a corpus and --force replaces it", "give one of them")
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"--min-overlap {min_overlap} is not in [0, 1]")
    if output.exists() and not append:
        if not force:
            raise OutputExistsError(f"{output} already exists", "give --append, or --force to replace it")
        if not shards.is_corpus(output):
            raise OutputExistsError(f"{output} exists and is no corpus", "choose another output")
    check_output(output, force=True)


def _listed(genes: Path | None) -> list[str] | None:
    if genes is None:
        return None
    return [str(name) for name in read_features(genes)[0]] if genes.is_dir() else read_names(genes)


def _genomes(opened: Sequence[CountRows], base: shards.Corpus | None, mixed: bool) -> list[str]:
    """Sorted, what the inputs and the corpus say they are counted on; more than one only if that is asked for."""
    told = {rows.genome: rows.path for rows in opened if rows.genome}
    if base is not None:
        told |= dict.fromkeys(base.genomes, base.path)
    if len(told) > 1 and not mixed:
        what = ", ".join(f"{path.name} is of {genome}" for genome, path in sorted(told.items()))
        raise InputError(
            f"the inputs are counted on different genomes: {what}",
            "build one corpus of each, or give --mixed-genomes if the names of genes agree",
        )
    return sorted(told)


def _studies(
    opened: Sequence[CountRows],
    known: Vocabulary,
    labels: Sequence[str],
    key: str | None,
    base: shards.Corpus | None,
) -> tuple[list[_Study], list[str]]:
    names = list(base.studies) if base is not None else []
    columns: list[tuple[list[str], np.ndarray]] = []
    for rows, label in zip(opened, labels, strict=True):
        if key is None:
            columns.append(([label], np.zeros(rows.n, dtype=np.uint16)))
        else:
            found = rows.labels(key)
            columns.append(([str(name) for name in found.categories], found.codes.astype(np.int64)))
    new = {name for own, _ in columns for name in own}
    if base is not None and not new.isdisjoint(names):
        raise InputError(
            f"{base.path} has a study {min(new & set(names))!r} already",
            "leave out files whose cells it holds, or name new cells apart with --study or --study-key",
        )
    names += sorted(new)
    if len(names) > _MOST_STUDIES:
        raise InputError(f"{len(names)} studies; a corpus holds {_MOST_STUDIES}", "choose a coarser --study-key")
    place = pd.Index(names)
    made = [
        _Study(rows, code_q, place.get_indexer(pd.Index(own)).astype(np.uint16)[codes])
        for rows, code_q, (own, codes) in zip(opened, known.codes, columns, strict=True)
    ]
    return made, names


def _blocks(
    sizes: Sequence[int], block: int, part: int, seed: int, base: shards.Corpus | None
) -> list[list[tuple[int, int, int]]]:
    """The blocks (input, first row, end) of every part, shuffled over all inputs."""
    blocks = [(i, start, min(start + block, n)) for i, n in enumerate(sizes) for start in range(0, n, block)]
    order = np.random.default_rng([seed, len(base.parts) if base is not None else 0]).permutation(len(blocks))
    each = max(1, part // block)
    return [[blocks[j] for j in order[start : start + each]] for start in range(0, len(blocks), each)]


def _gather(
    studies: Sequence[_Study],
    blocks: Sequence[tuple[int, int, int]],
    min_genes: int,
    rng: np.random.Generator,
    tally: Tally,
) -> shards.Cells:
    """The cells of some blocks in a random order, their genes as codes of the list."""
    genes, counts, sums, owners, names, rising = [], [], [], [], [], True
    # In the order of the files, which disks like; the cells are shuffled after.
    for number, start, stop in sorted(blocks):
        one = studies[number]
        column, value, length = one.rows.read(start, stop)
        gene, count = np.empty(len(column), dtype=np.uint16), np.empty(len(column), dtype=np.uint16)
        told = np.zeros((2, stop - start), dtype=np.int64)
        most = shards.LARGEST_COUNT
        written, cut, in_order = recode(column, value, length, one.code_q, most, gene, count, told)
        tally.saturated += cut
        rising = rising and in_order
        genes.append(gene[:written])
        counts.append(count[:written])
        sums.append(told)
        owners.append(one.study_n[start:stop])
        names += one.rows.cells(start, stop)
    length_n, total_n = np.concatenate(sums, axis=1)
    edges = np.concatenate([[0], np.cumsum(length_n)])
    gene_m, count_m = np.concatenate(genes), np.concatenate(counts)
    if not rising:
        # Genes rise within a cell whatever their order in the file, so that this order does not show.
        table = sparse.csr_matrix((count_m, gene_m.astype(np.int32), edges), shape=(len(length_n), shards.MOST_GENES))
        table.sort_indices()
        if not table.has_canonical_format:
            raise InputError("a cell has a gene twice", "make the file again with `scmap preprocess rna`")
        gene_m, count_m = table.indices.astype(np.uint16), table.data
    rows = rng.permutation(np.flatnonzero(length_n >= min_genes))
    tally.empty += len(length_n) - len(rows)
    own_edges = np.concatenate([[0], np.cumsum(length_n[rows])]).astype(np.int64)
    gene_t, count_t = np.empty(own_edges[-1], dtype=np.uint16), np.empty(own_edges[-1], dtype=np.uint16)
    take_rows(edges, gene_m, count_m, rows, gene_t, count_t)
    return shards.Cells(
        gene=gene_t,
        count=count_t,
        edges=own_edges,
        total=total_n[rows].astype(np.float32),
        study=np.concatenate(owners)[rows],
        names=[names[row].replace("\n", " ") for row in rows],
    )
