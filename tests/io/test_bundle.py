"""Model directories: read back equal, readable for ever, and refused in one line naming the file when damaged."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scmap_cli.errors import InputError, WriteError
from scmap_cli.io import bundle
from scmap_cli.io.atomic import atomic_dir
from scmap_cli.io.npz import read_npz
from scmap_cli.stages.embed import embed

PACKAGE = Path(bundle.__file__).resolve().parents[1]
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "bundle-v1"
READ = (bundle.CONFIG, bundle.FEATURES, bundle.CATEGORIES, bundle.TENSORS)

CONFIG: dict[str, Any] = {
    "model": "expimap",
    "batch_key": "batch",
    "model_config": {"hidden": [2]},
    "structure": {"n_genes": 3},
}
TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7), "turned": np.eye(3)[::-1].T}


def write(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    parts: dict[str, Any] = {
        "config": CONFIG,
        "tensors": TENSORS,
        "features": np.array(["GENE1", "GENE2", "GENE3"]),
        "feature_means": np.array([0.1, 1 / 3, 1e-300]),
        "categories": {"condition": ["a", "é"], "latent": ["p"]},
        "history": [{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "train_loss": 1 / 3, "valid_loss": 1.0}],
        "metrics": {"epochs": 2},
        "split": [("c1", "train"), ("c2", "valid")],
    }
    bundle.write_bundle(folder, **(parts | changes))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m")


@pytest.fixture
def fixture(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE / "model", tmp_path / "model")


def expected() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
    return made


def cells(path: Path) -> Path:
    """The fixture's cells as h5ad."""
    known = expected()
    obs = pd.DataFrame({"batch": known["batch"]}, index=known["cells"])
    counts = sparse.csr_matrix(np.array(known["counts"], dtype=np.float32))
    anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=known["genes"])).write_h5ad(path)
    return path


def refused(work: Callable[[], object], *words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        work()
    assert caught.value.exit_code == 3
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_is_written_is_read_back(model: Path) -> None:
    loaded = bundle.load_bundle(model)
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        assert loaded.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded.tensors[name], array)
    assert loaded.features.tolist() == ["GENE1", "GENE2", "GENE3"]
    assert loaded.feature_means.tolist() == [0.1, 1 / 3, 1e-300]
    assert loaded.categories == {"condition": ["a", "é"], "latent": ["p"]}
    assert loaded.config.items() >= {**CONFIG, "schema_version": bundle.SCHEMA_VERSION}.items()
    history = bundle.read_history(model)
    assert history == [{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "train_loss": 1 / 3, "valid_loss": 1.0}]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, unique=True))
def test_any_feature_name_survives(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = write(
        tmp_path_factory.mktemp("m"), features=np.array(names, dtype=object), feature_means=np.zeros(len(names))
    )
    assert bundle.load_bundle(folder).features.tolist() == names


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", tensors=dict(reversed(TENSORS.items())))
    assert {p.name: p.read_bytes() for p in a.iterdir()} == {p.name: p.read_bytes() for p in b.iterdir()}


def test_files_are_as_public_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        folder = write(tmp_path / "m")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_a_full_disk_is_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match="no space left"), atomic_dir(tmp_path / "m") as tmp:
        write(tmp)
    assert list(tmp_path.iterdir()) == []


def test_version_1_embeds_as_on_the_day_it_was_made(tmp_path: Path) -> None:
    known = expected()
    embed(FIXTURE / "model", cells(tmp_path / "c.h5ad"), tmp_path / "e.npz", variance=True, device="cpu")
    _, arrays = read_npz(tmp_path / "e.npz", kind="embedding")
    assert arrays["names"].tolist() == known["programs"]
    np.testing.assert_allclose(arrays["embedding"], known["mean"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(arrays["variance"], known["variance"], rtol=1e-4, atol=1e-6)


def test_the_version_1_fixture_is_small_and_says_so() -> None:
    assert bundle.read_config(FIXTURE / "model")["schema_version"] == 1
    assert sum(path.stat().st_size for path in FIXTURE.rglob("*") if path.is_file()) < 40_000


def test_a_newer_version_is_refused_with_the_remedy(model: Path) -> None:
    config = json.loads((model / bundle.CONFIG).read_text())
    # A later schema may have renamed everything else.
    (model / bundle.CONFIG).write_text(json.dumps({"schema_version": 99, "kind": config["model"]}))
    error = refused(
        lambda: bundle.load_bundle(model), str(model), "schema_version 99", f"up to {bundle.SCHEMA_VERSION}"
    )
    assert error.hint == "upgrade scmap"


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.0, [1]])
def test_a_foreign_version_is_refused(model: Path, version: object) -> None:
    config = json.loads((model / bundle.CONFIG).read_text())
    (model / bundle.CONFIG).write_text(json.dumps(config | {"schema_version": version}))
    refused(lambda: bundle.load_bundle(model), bundle.CONFIG, "schema_version")


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_named(fixture: Path, name: str) -> None:
    (fixture / name).unlink()
    refused(lambda: bundle.load_bundle(fixture), str(fixture), name)


@pytest.mark.parametrize("name", READ)
def test_a_folder_in_a_files_place_is_named(fixture: Path, name: str) -> None:
    (fixture / name).unlink()
    (fixture / name).mkdir()
    refused(lambda: bundle.load_bundle(fixture), str(fixture), name)


@pytest.mark.parametrize("name", READ)
def test_a_file_cut_anywhere_is_named(fixture: Path, name: str) -> None:
    data = (fixture / name).read_bytes()
    # A JSON text without its last line break is still whole; the other files are held by their digests.
    end = len(data) - (name == bundle.CONFIG)
    for length in {0, 1, 7, 8, 9, end - 1, *np.linspace(0, end - 1, 60).astype(int).tolist()}:
        (fixture / name).write_bytes(data[:length])
        refused(lambda: bundle.load_bundle(fixture), name)


@pytest.mark.parametrize("name", READ)
def test_a_flipped_bit_is_found(fixture: Path, name: str) -> None:
    data = (fixture / name).read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 100):
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        (fixture / name).write_bytes(changed)
        refused(lambda: bundle.load_bundle(fixture), name if name != bundle.CONFIG else str(fixture))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "unheard-of"),
        ("model", 7),
        ("model_config", []),
        ("model_config", {"hidden": [3]}),
        ("structure", {"n_genes": "many"}),
        ("structure", None),
        ("batch_key", 3),
        ("features_digest", "sha256:0"),
        ("features_digest", None),
        ("digests", {}),
        ("digests", []),
    ],
)
def test_a_config_with_a_changed_value_is_refused(model: Path, key: str, value: object) -> None:
    config = json.loads((model / bundle.CONFIG).read_text())
    (model / bundle.CONFIG).write_text(json.dumps(config | {key: value}))
    refused(lambda: bundle.load_bundle(model), str(model / bundle.CONFIG))


def test_a_config_in_another_layout_is_the_same_config(model: Path) -> None:
    config = json.loads((model / bundle.CONFIG).read_text())
    (model / bundle.CONFIG).write_text(json.dumps(dict(reversed(config.items())), indent=1))
    assert bundle.load_bundle(model).config == config


def test_a_model_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", config=CONFIG | {"model": "unheard-of"})
    error = refused(lambda: bundle.load_bundle(folder), str(folder), "'unheard-of'")
    assert error.hint == "upgrade scmap"


@pytest.mark.parametrize("key", ["model", "model_config", "structure", "batch_key", "features_digest", "digests"])
def test_a_config_that_lacks_a_key_names_it(model: Path, key: str) -> None:
    config = json.loads((model / bundle.CONFIG).read_text())
    del config[key]
    (model / bundle.CONFIG).write_text(json.dumps(config))
    refused(lambda: bundle.load_bundle(model), bundle.CONFIG, key)


@pytest.mark.parametrize("text", ["[]", "null", "1", "{}", "[" * 100_000, "\xff", '{"schema_version": NaN}'])
def test_a_config_that_is_no_config_is_refused(model: Path, text: str) -> None:
    (model / bundle.CONFIG).write_bytes(text.encode("latin-1"))
    refused(lambda: bundle.load_bundle(model), bundle.CONFIG)


def test_features_in_another_order_are_refused_even_with_a_new_file_digest(model: Path) -> None:
    path = model / bundle.FEATURES
    head, first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, second, first, *rest]))
    refused(lambda: bundle.load_bundle(model), bundle.FEATURES)
    config = json.loads((model / bundle.CONFIG).read_text())
    config["digests"][bundle.FEATURES] = bundle._digest(path)
    config["digests"][bundle.CONFIG] = bundle._config_digest(config)
    (model / bundle.CONFIG).write_text(json.dumps(config))
    refused(lambda: bundle.load_bundle(model), bundle.FEATURES, "digest")


@pytest.mark.parametrize(
    "content", [None, b"epoch,train_loss\n1,abc\n", b"epoch,train_loss\n1\n", b"\xff\xfe", b"a\n1,2\n"]
)
def test_a_damaged_history_is_named(model: Path, content: bytes | None) -> None:
    (model / bundle.HISTORY).unlink()
    if content is not None:
        (model / bundle.HISTORY).write_bytes(content)
    refused(lambda: bundle.read_history(model), bundle.HISTORY)


def test_folders_that_are_no_models_say_what_they_are(tmp_path: Path) -> None:
    refused(lambda: bundle.read_config(tmp_path / "absent"), "absent", "not a model directory")
    (tmp_path / "file").write_text("")
    refused(lambda: bundle.read_config(tmp_path / "file"), "not a model directory")
    refused(lambda: bundle.read_config(tmp_path), "not a model directory")
    (tmp_path / bundle.CHECKPOINTS).mkdir()
    error = refused(lambda: bundle.read_config(tmp_path), "has not finished")
    assert "again" in str(error.hint)


def dangers(tree: ast.AST) -> set[str]:
    """What in a module could run code that a file holds."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").partition(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            found.add(f"{node.arg}={ast.unparse(node.value)}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(f"{node.func.id}()")
    pickles = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    calls = {"torch.load", "torch.save", "torch.jit.load", "np.load", "numpy.load", "pd.read_pickle", "np.save"}
    return found & {*pickles, *calls, "allow_pickle=True", "weights_only=False", "eval()", "exec()"}


def test_nothing_in_the_package_unpickles() -> None:
    wrong = {}
    for path in PACKAGE.rglob("*.py"):
        allowed = {"np.load", "numpy.load"} if path.name == "npz.py" else set()
        wrong[str(path.relative_to(PACKAGE))] = dangers(ast.parse(path.read_text(encoding="utf-8"))) - allowed
    assert len(wrong) > 50
    assert not {name: found for name, found in wrong.items() if found}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(p)",
        "np.load(p, allow_pickle=True)",
        "x(allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert dangers(ast.parse(text))
