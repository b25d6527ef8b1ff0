"""Tables of marker genes as ``select-markers`` writes them, read back for an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.text import open_text
from scmap_cli.runtime.logs import log

COLUMNS = ("rank", "gene", "score", "class")
"""Columns of the table; with several splits ``split`` and ``seed`` stand before them."""


@dataclass(frozen=True, eq=False)
class MarkerTable:
    """Genes of a table of ``select-markers``: one list, or one a split with the seed of the splits."""

    path: Path
    genes: dict[int | None, list[str]]
    seed: int | None

    def of_split(self, number: int) -> list[str]:
        """The genes for a split."""
        return self.genes[None if self.seed is None else number]


def read_markers(path: Path) -> MarkerTable:
    """Read a table of ``select-markers``, or any TSV with a column ``gene``, best gene first.

    Raises
    ------
    InputError
        There is no such column, no gene, or a gene twice.
    """
    with open_text(path) as handle:
        rows = [line.rstrip("\r\n").split("\t") for line in handle if line.strip()]
    header = rows[0] if rows else []
    if "gene" not in header:
        raise InputError(f"{path} has no column 'gene'", "give a table of select-markers")
    genes: dict[int | None, list[str]] = {}
    seeds: set[int] = set()
    for number, row in enumerate(rows[1:], 2):
        try:
            fields = dict(zip(header, row, strict=True))
            split = int(fields["split"]) if "split" in fields else None
            if split is not None:
                seeds.add(int(fields["seed"]))
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}, line {number} is not of the header's form", "make the table again") from error
        if fields["gene"] in genes.setdefault(split, []):
            raise InputError(f"{path}, line {number}: the gene {fields['gene']!r} is there twice")
        genes[split].append(fields["gene"])
    if not genes:
        raise InputError(f"{path} holds no genes")
    if len(seeds) > 1:
        raise InputError(f"{path} mixes splits of the seeds {', '.join(map(str, sorted(seeds)))}")
    return MarkerTable(path, genes, seeds.pop() if seeds else None)


def check_table(table: MarkerTable, seed: int, splits: int, grid: Sequence[int]) -> None:
    """Refuse tables of other splits and shorter ones; warn of genes that may have been chosen by test cells."""
    fewest = min(map(len, table.genes.values()))
    if grid and grid[-1] > fewest:
        raise UsageError(f"{table.path} has {fewest} genes, {grid[-1]} are wanted", "lower -k or --k-grid")
    if table.seed is None:
        log.warning("%s: genes of no split; if they were chosen by all cells, the scores are too good", table.path)
    elif table.seed != seed:
        raise UsageError(f"{table.path} has splits of the seed {table.seed}", f"give --seed {table.seed}")
    elif len(table.genes) < splits:
        raise UsageError(f"{table.path} has {len(table.genes)} splits", f"give --splits {len(table.genes)}")
