"""What is promised outside the code: versions, dependencies, the lock, the README's tables."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import scmap_cli
from scmap_cli.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

# import names that differ from the distribution's
DISTRIBUTION = {"sklearn": "scikit-learn", "umap": "umap-learn"}
# needed by a dependency for a feature we use, without an import of ours
UNIMPORTED = {"scikit-misc"}


def normal(requirement: str) -> str:
    """``Umap_learn>=0.5`` is ``umap-learn``."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def declared() -> set[str]:
    extras = PROJECT["project"]["optional-dependencies"]
    # MACS3 of the extra ``peaks`` is run as a program, in any version, and takes a compiler to install; ``scib`` is for
    # tests that skip without it, in any version; ``workflow`` is run as a program by `make test`.
    others = ("dev", "lint", "peaks", "scib", "test", "workflow")
    optional = [one for name, wanted in extras.items() if name not in others for one in wanted]
    return {normal(one) for one in [*PROJECT["project"]["dependencies"], *optional]}


def imported() -> set[str]:
    """Third-party distributions that the package imports anywhere."""
    found = set()
    for path in (ROOT / "scmap_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    found -= sys.stdlib_module_names | {"scmap_cli"}
    return {normal(DISTRIBUTION.get(name, name)) for name in found}


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading of the README."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_installed_version() -> None:
    try:
        installed = metadata.version("scmap-cli")
    except metadata.PackageNotFoundError:
        pytest.skip("scmap-cli is not installed, only importable")
    assert installed == scmap_cli.__version__


def test_citation_and_changelog_name_the_version() -> None:
    assert f"version: {scmap_cli.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{scmap_cli.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_typed() -> None:
    assert (Path(scmap_cli.__file__).parent / "py.typed").is_file()


def test_console_script_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["scmap"].partition(":")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_import_is_declared() -> None:
    assert imported() <= declared()


def test_every_dependency_is_used() -> None:
    assert declared() - imported() <= UNIMPORTED


def test_constraints_pin_every_requirement_and_nothing_else() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines), "no paths, no local suffixes"
    pinned = [normal(line) for line in lines]
    assert len(set(pinned)) == len(pinned)
    extras = PROJECT["project"]["optional-dependencies"]
    asked = declared() | {normal(one) for name in ("test", "lint", "workflow") for one in extras[name]}
    assert asked <= set(pinned)
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))], "no GPU packages"


def test_banned_calls_have_reasons() -> None:
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert all(len(entry["msg"]) > 20 for entry in banned.values())


def test_readme_lists_the_exit_codes() -> None:
    listed = {int(code): text.replace("`", "") for code, text in table("Exit codes")}
    assert listed == EXIT_CODES


@pytest.mark.parametrize("verb", [row[0].strip("`") for row in table("Verbs")])
def test_readme_verbs_exist(verb: str) -> None:
    if importlib.util.find_spec("scmap_cli.cli.app") is None:
        pytest.skip("scmap_cli.cli.app is not there yet")
    command = [sys.executable, "-m", "scmap_cli", *verb.split()[1:], "-h"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--seed" in done.stdout or verb == "scmap info"


def test_files_that_documents_name_exist() -> None:
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.md"))]
    named = re.findall(r"`((?:examples|tests)/[\w./-]+)`", "\n".join(texts))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
