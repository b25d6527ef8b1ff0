"""Cells of a corpus by number: whatever stays in memory, the same cells come, and processes share the memory."""

from __future__ import annotations

import numpy as np
import pytest

from scmap_cli.data import corpus as module
from scmap_cli.data.corpus import CorpusRows
from scmap_cli.io.shards import Cells, Corpus, open_corpus, write_manifest, write_part


def part(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, 20)
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    gene = np.concatenate([np.sort(rng.choice(9, length, replace=False)) for length in lengths]).astype(np.uint16)
    count = rng.integers(1, 9, len(gene)).astype(np.uint16)
    total = np.add.reduceat(count.astype(np.float32), edges[:-1])
    return Cells(gene, count, edges, total, np.zeros(20, dtype=np.uint16), [f"{seed}-{i}" for i in range(20)])


@pytest.fixture
def corpus(tmp_path):
    parts = [write_part(tmp_path, f"part-{i:05d}", part(i)) for i in range(4)]
    write_manifest(Corpus(tmp_path, np.array([f"g{i}" for i in range(9)]), ["a"], parts))
    return open_corpus(tmp_path)


def test_a_corpus_that_does_not_stay_gives_the_same_cells(corpus, monkeypatch):
    held = CorpusRows(corpus)
    monkeypatch.setattr(module, "available_memory", lambda: 0)
    read = CorpusRows(corpus)
    rows = np.random.default_rng(0).permutation(80)
    for left, right in zip(held.read(rows), read.read(rows), strict=True):
        np.testing.assert_array_equal(left, right)
    assert (len(held._held), len(read._held)) == (4, 2)
    np.testing.assert_array_equal(
        held.order(rows, np.random.default_rng(1)), read.order(rows, np.random.default_rng(1))
    )


def test_processes_of_a_machine_share_its_memory(corpus, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: 4 * 4 * corpus.entries + 4)
    for processes, parts in ((1, 4), (2, 2)):
        rows = CorpusRows(corpus, processes)
        rows.read(np.arange(80))
        assert len(rows._held) == parts
