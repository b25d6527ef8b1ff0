"""Cells of a corpus on disk as rows of tokens: parts are read whole, one after the other, cells shuffled in them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from scmap_cli.data.gather import take_rows
from scmap_cli.data.tokens import spans
from scmap_cli.io.shards import Cells, Corpus
from scmap_cli.runtime.memory import available_memory

# A stored entry takes two uint16.
_ENTRY = 4
# A batch may begin in one part and end in the next.
_FEWEST = 2


class CorpusRows:
    """The cells of a corpus by number.

    The builder has put a random sample of the blocks of all studies into each part, so that a shuffle of the parts and
    of the cells in each is close to a shuffle of all, and is read from the first to the last byte. A corpus that fits
    into a quarter of the memory at hand stays there once it is read; the order does not depend on that.

    Parameters
    ----------
    corpus
        An open corpus.
    processes
        How many on this machine read it, each for itself: they share that quarter.
    """

    def __init__(self, corpus: Corpus, processes: int = 1) -> None:
        self.corpus = corpus
        self.starts = np.cumsum([0, *(part.cells for part in corpus.parts)])
        self._held: OrderedDict[int, Cells] = OrderedDict()
        fits = corpus.entries * _ENTRY < available_memory() // (4 * processes)
        self._most = len(corpus.parts) if fits else _FEWEST

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _part(self, number: int) -> Cells:
        if number in self._held:
            self._held.move_to_end(number)
        else:
            while len(self._held) >= self._most:
                self._held.popitem(last=False)
            self._held[number] = self.corpus.read(number)
        return self._held[number]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`scmap_cli.data.tokens.Rows.read`."""
        part_n = np.searchsorted(self.starts, rows, side="right") - 1
        length_n = np.zeros(len(rows), dtype=np.int64)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for number in np.unique(part_n).tolist():
            where = np.flatnonzero(part_n == number)
            cells, own = self._part(number), rows[where] - self.starts[number]
            length_n[where] = cells.edges[own + 1] - cells.edges[own]
            size = int(length_n[where].sum())
            gene, count = np.empty(size, dtype=np.uint16), np.empty(size, dtype=np.uint16)
            take_rows(cells.edges, cells.gene, cells.count, own, gene, count)
            found.append((where, gene, count))
        if len(found) == 1:
            return found[0][1], found[0][2], length_n
        edges = np.concatenate([[0], np.cumsum(length_n)])
        gene_t, count_t = np.empty(edges[-1], dtype=np.uint16), np.empty(edges[-1], dtype=np.uint16)
        for where, gene, count in found:
            place = spans(edges[:-1][where], length_n[where])
            gene_t[place], count_t[place] = gene, count
        return gene_t, count_t, length_n

    def order(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Parts in a random order, and the rows of each in a random order."""
        part_n = np.searchsorted(self.starts, rows, side="right") - 1
        place = rng.permutation(len(self.corpus.parts))
        return rows[np.lexsort((rng.random(len(rows)), place[part_n]))]
