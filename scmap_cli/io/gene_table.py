"""Tables of genes: identifiers, symbols and biotypes, which bring studies together that name genes differently."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from scmap_cli.errors import InputError
from scmap_cli.io.text import open_text

ENSEMBL = re.compile(r"ENS[A-Z]*\d{6,}")
"""How identifiers of Ensembl begin, with or without a version."""

_IDS = ("gene_id", "ensembl_gene_id", "ensembl_id", "ensembl", "gene_ids", "id")
_SYMBOLS = ("gene_name", "symbol", "gene_symbol", "hgnc_symbol", "name", "gene")
_BIOTYPES = ("gene_type", "gene_biotype", "biotype", "type")
_SHOWN = "a header with gene_id, gene_name and gene_type (or symbol, biotype), one gene a line, separated by tabs"


@dataclass(frozen=True)
class GeneTable:
    """Names of genes.

    Attributes
    ----------
    canonical
        For every identifier and symbol the gene's name in a corpus: its symbol, or the identifier where the table has
        no symbols. Symbols of several genes are not in it.
    dropped_biotype, dropped_repeated
        Genes left out for their biotype, and for a symbol that is not theirs alone.
    """

    canonical: dict[str, str]
    dropped_biotype: int
    dropped_repeated: int

    def name(self, given: str, unknown: str = "") -> str:
        """The gene's name in a corpus, whatever the version of an identifier; ``unknown`` if the table lacks it."""
        return self.canonical.get(given, self.canonical.get(stem(given), unknown))


def read_gene_table(path: Path | str, biotype: str | None = None) -> GeneTable:
    """Read a TSV (plain or gzip) of genes; ``biotype`` keeps one kind, such as ``protein_coding``.

    Raises
    ------
    InputError
        The table has no header with known columns, or no gene is left.
    """
    with open_text(path) as handle:
        rows = [line.rstrip("\r\n").split("\t") for line in handle if line.strip() and not line.startswith("##")]
    header = [name.strip().lstrip("#").lower() for name in rows[0]] if rows else []
    place = {
        key: next((header.index(name) for name in names if name in header), -1)
        for key, names in (("id", _IDS), ("symbol", _SYMBOLS), ("biotype", _BIOTYPES))
    }
    if place["id"] < 0 and place["symbol"] < 0:
        raise InputError(f"{path} names no column of gene identifiers or symbols", f"give {_SHOWN}")
    if biotype is not None and place["biotype"] < 0:
        raise InputError(f"{path} has no column of biotypes, by which to keep {biotype}", f"give {_SHOWN}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} fields, {len(header)} expected from the header")
    kept = [row for row in rows[1:] if biotype is None or row[place["biotype"]].strip() == biotype]
    genes = [tuple(row[place[key]].strip() if place[key] >= 0 else "" for key in ("id", "symbol")) for row in kept]
    # A version is no part of an identifier's name; X and Y copies of a gene share theirs.
    pairs = sorted({(stem(gene), symbol) for gene, symbol in genes if gene or symbol})
    repeated = {symbol for symbol, count in Counter(symbol for _, symbol in pairs if symbol).items() if count > 1}
    single = [(gene, symbol) for gene, symbol in pairs if symbol not in repeated]
    canonical: dict[str, str] = {}
    for gene, symbol in single:
        canonical |= {name: symbol or gene for name in (gene, symbol) if name}
    if not canonical:
        raise InputError(f"{path} holds no gene{f' of biotype {biotype}' if biotype else ''}", f"give {_SHOWN}")
    return GeneTable(canonical, len(rows) - 1 - len(kept), len(pairs) - len(single))


def stem(name: str) -> str:
    """An Ensembl identifier without its version; any other name as it is."""
    head, dot, tail = name.rpartition(".")
    return head if dot and tail.isdigit() and name.startswith("ENS") else name
