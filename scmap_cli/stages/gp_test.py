"""``scmap gp-test``: which gene programs differ between groups of cells, by Bayes factors of their posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from scmap_cli.data.batches import CsrStore
from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.atomic import check_outputs, text_file, write_json, write_text
from scmap_cli.io.bundle import Bundle, load_bundle
from scmap_cli.metrics.bayes import EXACT_PAIRS, SAMPLED_PAIRS, BayesTest, bayes_factors
from scmap_cli.metrics.gene_sets import METHODS
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.nn.noise import mixed_seed
from scmap_cli.plots.canvas import publish
from scmap_cli.plots.draw import program_tests
from scmap_cli.registry import get_model
from scmap_cli.runtime import provenance
from scmap_cli.runtime.logs import log
from scmap_cli.stages.contrasts import Contrast, TestedCells, contrasts_of, described, line
from scmap_cli.stages.gp_evidence import GENE_COLUMNS, RELATION_COLUMNS, Expression, expression_of, joined
from scmap_cli.stages.gp_table import ProgramTable, tsv
from scmap_cli.stages.inputs import MISSING, aligned_counts, model_conditions, plain_records, text_column
from scmap_cli.training.device import memory_errors, resolve_device
from scmap_cli.training.infer import embed_cells, restore_model


def gp_test(
    model_dir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    groupby: str | None = None,
    group: Sequence[str] = (),
    against: str | None = None,
    within: str | None = None,
    threshold: float = 2.3,
    pairs: int = SAMPLED_PAIRS,
    exact_pairs: int = EXACT_PAIRS,
    gene_set_test: Sequence[str] = (),
    json_output: Path | None = None,
    overlap_output: Path | None = None,
    genes_output: Path | None = None,
    plot: Path | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    gene_column: str | None = None,
    min_overlap: float = 0.5,
    missing: str | None = None,
    batch_size: int = 2048,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Test every program of an expiMap model between groups of cells.

    Parameters
    ----------
    model_dir
        Trained or mapped model.
    inputs
        One or several files of counts, with conditions that the model knows.
    output
        TSV, a row a program and contrast, strongest first; ``-`` gives the text back under ``table``.
    groupby
        ``obs`` column of the groups. With several inputs and no column the files are the groups, by their names.
    group
        Groups to test, all by default.
    against
        The group to compare with; by default (or as ``rest``, where no group has that name) all other cells.
    within
        ``obs`` column: test within each of its levels.
    threshold
        |log Bayes factor| from which a program passes; 2.3 in the paper.
    pairs, exact_pairs
        As ``sampled_pairs`` and ``exact_pairs`` of :func:`~scmap_cli.metrics.bayes.bayes_factors`.
    gene_set_test
        Tests of :data:`~scmap_cli.metrics.gene_sets.METHODS` of the programs' members on the same cells, which know
        no model: columns ``<test>_rank``, ``_statistic``, ``_p`` and ``_fdr`` more.
    json_output
        Also write the results as JSON.
    overlap_output
        Also write :data:`~scmap_cli.stages.gp_evidence.RELATION_COLUMNS` of the passing programs, pair by pair.
    genes_output
        Also write :data:`~scmap_cli.stages.gp_evidence.GENE_COLUMNS` of the passing programs.
    plot
        Also draw the first contrast.
    batch_key, layer, gene_column, min_overlap, missing, batch_size, seed, device, force, dry_run
        As :func:`scmap_cli.stages.embed.embed`.

    Returns
    -------
    dict
        ``contrasts`` with their leading programs, ``skipped`` levels, and ``table`` (the TSV text) for ``-``.

    Raises
    ------
    UsageError, InputError, DeviceError, WriteError
        With exit codes 2, 3, 5 and 6.
    """
    model_dir, inputs = Path(model_dir), [Path(path) for path in inputs]
    to_file = text_file(output)
    _check(inputs, groupby, against, within, threshold, pairs, batch_size, min_overlap, missing, gene_set_test)
    check_outputs(to_file, json_output, overlap_output, genes_output, figures=[plot], force=force)
    where = resolve_device(device)
    parameters = {
        "groupby": groupby,
        "group": list(group),
        "against": against,
        "within": within,
        "threshold": threshold,
        "pairs": pairs,
        "exact_pairs": exact_pairs,
        "batch_key": batch_key,
        "layer": layer,
        "gene_column": gene_column,
        "missing": missing,
        "gene_set_test": list(gene_set_test),
    }
    with (
        provenance.run(
            "gp-test",
            inputs=[model_dir, *inputs],
            output=None if dry_run else to_file,
            parameters=plain_records(parameters),
            seed=seed,
        ) as run,
        memory_errors("--batch-size"),
    ):
        bundle = load_bundle(model_dir)
        kind = get_model(bundle.config["model"]).load()
        if not issubclass(kind, ExpiMap):
            raise InputError(
                f"{model_dir} holds a {bundle.config['model']} model, which has no gene programs",
                "test with a model of `scmap train expimap`",
            )
        network = cast(ExpiMap, restore_model(kind, bundle.config, bundle.tensors, where))
        wanted = bool(gene_set_test) or genes_output is not None
        columns = (groupby, within, batch_key, layer, gene_column)
        cells, stores, expression = _read(bundle, inputs, *columns, min_overlap, missing, wanted)
        contrasts, skipped = contrasts_of(cells, group, against, within, groupby or "file")
        for contrast in contrasts:
            log.info("%s", line(contrast))
        result: dict[str, Any] = {
            "contrasts": [described(contrast) for contrast in contrasts],
            "skipped": skipped,
            "settings": plain_records(parameters) | {"seed": seed},
        }
        if dry_run:
            return result
        embedded = [embed_cells(network, store.to(where), batch_size) for store in stores]
        mean_nz, var_nz = (np.concatenate(part) for part in zip(*embedded, strict=True))
        cells = TestedCells(mean_nz, var_nz, cells.group_n, cells.within_n)
        table = ProgramTable(
            bundle,
            network.decoder_weights().cpu().numpy(),
            network.membership().cpu().numpy(),
            threshold,
            gene_set_test,
            expression,
            pairs=overlap_output is not None,
            genes=genes_output is not None,
        )
        tests = []
        for number, contrast in enumerate(contrasts):
            tests.append(_test(cells, contrast, table.active, pairs, exact_pairs, mixed_seed(seed, "pairs", number)))
            result["contrasts"][number] |= table.add(contrast, tests[-1], cells)
        text = table.text()
        if to_file is None:
            result["table"] = text
        else:
            write_text(to_file, text, force)
        for path, header, rows in (
            (overlap_output, RELATION_COLUMNS, table.relations),
            (genes_output, GENE_COLUMNS, table.gene_rows),
        ):
            if path is not None and rows is not None:
                write_text(path, tsv(header, rows), force)
        result["history"] = [run.record]
        if json_output is not None:
            listed = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
            write_json(json_output, {k: v for k, v in result.items() if k != "table"} | {"tests": listed}, force)
        if plot is not None:
            _draw(plot, contrasts[0], tests[0], cells, table, threshold, force)
    return result


def _check(
    inputs: Sequence[Path],
    groupby: str | None,
    against: str | None,
    within: str | None,
    threshold: float,
    pairs: int,
    batch_size: int,
    min_overlap: float,
    missing: str | None,
    gene_set_test: Sequence[str],
) -> None:
    unknown = [name for name in gene_set_test if name not in METHODS]
    if unknown:
        raise UsageError(f"unknown gene-set test {unknown[0]!r}", f"choose among {', '.join(METHODS)}")
    if groupby is None and len(inputs) < 2:
        raise UsageError("nothing to compare", "give --groupby COLUMN, or two files")
    if within is not None and within == groupby:
        raise UsageError(f"--within is the column of --groupby, {within!r}", "give another column")
    if not threshold >= 0:
        raise UsageError(f"--threshold {threshold} must not be negative")
    if pairs < 2:
        raise UsageError(f"--pairs {pairs} must be at least 2")
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} must be at least 1")
    if not 0 <= min_overlap <= 1:
        raise UsageError(f"--min-overlap {min_overlap} is not in [0, 1]")
    if missing is not None and missing not in MISSING:
        raise UsageError(f"--missing is {missing!r}", f"choose one of {', '.join(MISSING)}")
    if against == "":
        raise UsageError("--against is empty", "name a group, or leave it out for all other cells")


def _read(
    bundle: Bundle,
    inputs: Sequence[Path],
    groupby: str | None,
    within: str | None,
    batch_key: str | None,
    layer: str | None,
    gene_column: str | None,
    min_overlap: float,
    missing: str | None,
    wanted: bool,
) -> tuple[TestedCells, list[CsrStore], Expression | None]:
    """Cells by group, their counts for the model, and their expression where it is wanted."""
    names = [path.stem for path in inputs]
    if groupby is None and len(set(names)) < len(names):
        raise UsageError("two files have the same name", "rename one, or give --groupby COLUMN")
    as_is = bundle.config["model_config"].get("input_scale") == "as-is"
    stores, groups, levels, parts = [], [], [], []
    for path, name in zip(inputs, names, strict=True):
        data, counts, _ = aligned_counts(
            bundle, path, layer=layer, gene_column=gene_column, min_overlap=min_overlap, missing=missing
        )
        _, codes = model_conditions(bundle, data, batch_key, path)
        stores.append(CsrStore(counts, codes))
        if wanted:
            parts.append(expression_of(bundle, data, counts, codes, as_is))
        obs = data.adata.obs
        groups.append(text_column(obs, groupby, path) if groupby else np.full(len(obs), name))
        levels.append(text_column(obs, within, path) if within else np.full(len(obs), ""))
    nothing = np.zeros((0, 0), np.float32)
    cells = TestedCells(nothing, nothing, np.concatenate(groups), np.concatenate(levels))
    return cells, stores, joined(parts) if parts else None


def _test(
    cells: TestedCells, contrast: Contrast, active_z: np.ndarray, pairs: int, exact_pairs: int, seed: int
) -> BayesTest:
    left, right = contrast.left_n, contrast.right_n
    return bayes_factors(
        cells.mean_nz[left][:, active_z],
        cells.var_nz[left][:, active_z],
        cells.mean_nz[right][:, active_z],
        cells.var_nz[right][:, active_z],
        sampled_pairs=pairs,
        exact_pairs=exact_pairs,
        seed=seed,
    )


def _draw(
    path: Path,
    contrast: Contrast,
    test: BayesTest,
    cells: TestedCells,
    table: ProgramTable,
    threshold: float,
    force: bool,
) -> None:
    used = np.flatnonzero(table.active)
    order = np.argsort(-np.abs(test.log_bf), kind="stable")
    names = [table.names[used[i]] for i in order]
    top = [used[i] for i in order[:6]]
    sign = np.where(table.sign == 0, 1, table.sign)
    directed = test.log_bf * sign[used]
    sides = {
        contrast.group: cells.mean_nz[contrast.left_n][:, top] * sign[top],
        contrast.against: cells.mean_nz[contrast.right_n][:, top] * sign[top],
    }
    publish(path, force, "the tests", program_tests, directed[order], names, sides, threshold, line(contrast))
