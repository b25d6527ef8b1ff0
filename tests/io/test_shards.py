"""The corpus on disk: parts come back as they were written, and damage of any kind is found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.io.shards import MANIFEST, Cells, Corpus, open_corpus, write_manifest, write_part


def cells(n=40, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n)
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    gene = np.concatenate([np.sort(rng.choice(50, length, replace=False)) for length in lengths]).astype(np.uint16)
    count = rng.integers(1, 65535, len(gene)).astype(np.uint16)
    total = np.add.reduceat(count.astype(np.float32), edges[:-1])
    return Cells(gene, count, edges, total, rng.integers(2, size=n).astype(np.uint16), [f"zellé {i}" for i in range(n)])


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "c.zarr"
    path.mkdir()
    parts = [write_part(path, f"part-{i:05d}", cells(seed=i)) for i in range(2)]
    write_manifest(Corpus(path, np.array([f"g{i}" for i in range(50)]), ["a", "b"], parts, [{"verb": "x"}]))
    return open_corpus(path)


def test_what_is_written_is_read(corpus):
    assert (corpus.n, corpus.studies, corpus.history) == (80, ["a", "b"], [{"verb": "x"}])
    for number in range(2):
        found, expected = corpus.read(number, names=True), cells(seed=number)
        for key in ("gene", "count", "edges", "total", "study"):
            np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
        assert found.names == expected.names
    corpus.verify()


def test_it_is_a_zarr_group(corpus):
    import zarr

    group = zarr.open_group(corpus.path, mode="r")
    assert group["part-00000"]["gene"].dtype == np.uint16
    assert group.attrs["scmap_corpus"]["cells"] == 80


def test_equal_cells_give_equal_bytes(corpus, tmp_path):
    assert write_part(tmp_path, "part-00000", cells(seed=0)).digest == corpus.parts[0].digest
    assert write_part(tmp_path, "part-00001", cells(seed=0)).digest == corpus.parts[0].digest


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_part_cut_short_is_found(corpus, keep):
    file = corpus.path / "part-00001" / "count" / "c" / "0"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(InputError, match="part-00001"):
        corpus.verify()
    with pytest.raises(InputError, match="part-00001"):
        corpus.read(1)


def test_a_flipped_bit_is_found(corpus):
    file = max((corpus.path / "part-00000").rglob("c/0"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    with pytest.raises(InputError, match="changed"):
        corpus.verify()


def test_half_a_corpus_is_found(corpus):
    import shutil

    shutil.rmtree(corpus.path / "part-00001")
    with pytest.raises(InputError, match="missing"):
        open_corpus(corpus.path).verify()


def test_a_newer_schema_is_refused(corpus):
    manifest = json.loads((corpus.path / MANIFEST).read_text())
    manifest["attributes"]["scmap_corpus"]["schema_version"] = 2
    (corpus.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="schema_version 2"):
        open_corpus(corpus.path)


BARE = '{"attributes": {"scmap_corpus": {"schema_version": 1}}}'


@pytest.mark.parametrize("text", ["", "{}", '{"attributes": {}}', BARE])
def test_a_damaged_manifest_is_an_input_error(corpus, text):
    (corpus.path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match="damaged"):
        open_corpus(corpus.path)


def test_a_folder_that_is_no_corpus(tmp_path):
    with pytest.raises(InputError, match="no corpus"):
        open_corpus(tmp_path)
