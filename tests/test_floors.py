"""Imports go down the floors only, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "scmap_cli"

FLOORS = {
    "": 0,
    "errors": 0,
    "keys": 0,
    "config": 0,
    "registry": 0,
    "runtime": 1,
    "io": 1,
    "data": 2,
    "nn": 2,
    "models": 3,
    "markers": 3,
    "metrics": 3,
    "training": 4,
    "stages": 5,
    "plots": 5,
    "cli": 6,
    "__main__": 6,
}

# libraries that take longer to import than ``scmap -h`` may take to answer
HEAVY = {
    *("anndata", "cosg", "harmonypy", "igraph", "isal", "lassonet", "leidenalg", "llvmlite", "matplotlib", "numba"),
    *("pandas", "pynndescent", "pyranges", "pysam", "scanpy", "scipy", "seaborn", "sklearn", "torch", "umap", "zarr"),
}


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, where, and when it runs."""

    module: str
    target: str
    line: int
    at_import_time: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_of(module: str, node: ast.AST, at_import_time: bool = True) -> Iterator[Import]:
    """Every import below ``node`` but those for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, at_import_time)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: relative import"
            base = child.module or ""
            for alias in child.names:
                full = f"{base}.{alias.name}"
                yield Import(module, full if full in MODULES else base, child.lineno, at_import_time)
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from imports_of(module, ast.Module([other], []), at_import_time)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(module, child, at_import_time and not inside)


IMPORTS = [
    one for module, path in MODULES.items() for one in imports_of(module, ast.parse(path.read_text(encoding="utf-8")))
]


def room(module: str) -> str:
    """First part below the package: ``scmap_cli.io.npz`` is in ``io``."""
    return module.partition(".")[2].partition(".")[0]


def is_ours(target: str) -> bool:
    return target.partition(".")[0] == PACKAGE.name


def test_every_module_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= FLOORS.keys()


def test_imports_go_down() -> None:
    wrong = [one for one in IMPORTS if is_ours(one.target) and FLOORS[room(one.target)] > FLOORS[room(one.module)]]
    assert not wrong, "\n".join(map(str, wrong))


def test_training_knows_only_the_model_protocol() -> None:
    wrong = [
        one
        for one in IMPORTS
        if room(one.module) == "training" and room(one.target) == "models" and one.target != "scmap_cli.models.base"
    ]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize(
    ("rooms", "libraries"),
    [
        ({"", "errors", "keys", "config", "registry"}, {*HEAVY, "numpy", "h5py", "typer", "rich"}),
        ({"runtime"}, {"torch", "anndata"}),
        ({"io"}, {"torch", "safetensors.torch"}),
        ({"nn"}, {"anndata"}),
    ],
    ids=["floor 0", "runtime", "io", "nn"],
)
def test_rooms_without_a_library(rooms: set[str], libraries: set[str]) -> None:
    wrong = [
        one
        for one in IMPORTS
        if room(one.module) in rooms
        and any(one.target == library or one.target.startswith(f"{library}.") for library in libraries)
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_terminal_loads_nothing_heavy() -> None:
    """Neither the command-line modules nor anything they import at once touch a heavy library."""
    seen: set[str] = set()
    waiting = [module for module in MODULES if room(module) in ("cli", "__main__")]
    wrong = []
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for one in IMPORTS:
            if one.module != module or not one.at_import_time:
                continue
            if is_ours(one.target):
                # importing a module runs the packages above it
                parts = one.target.split(".")
                waiting.extend(".".join(parts[:end]) for end in range(1, len(parts) + 1))
            elif one.target.partition(".")[0] in HEAVY:
                wrong.append(one)
    assert not wrong, "\n".join(map(str, wrong))


def test_no_import_cycles() -> None:
    """Modules that need each other at import time only work in a lucky order."""
    below = {
        module: {one.target for one in IMPORTS if one.module == module and one.at_import_time and one.target in MODULES}
        for module in MODULES
    }
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(below[module] - {module}):
                walk(other, (*path, module))
            done.add(module)

    for module in below:
        walk(module, ())


def test_registry_holds_import_strings() -> None:
    from scmap_cli.registry import MODELS, SELECTORS

    for one in SELECTORS.values():
        module, _, attribute = one.target.partition(":")
        assert module in MODULES
        nodes = ast.parse(MODULES[module].read_text()).body
        names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        names |= {ast.unparse(target) for node in nodes if isinstance(node, ast.Assign) for target in node.targets}
        assert attribute in names
    for spec in MODELS.values():
        module, _, attribute = spec.target.partition(":")
        assert module in MODULES
        classes = {node.name for node in ast.parse(MODULES[module].read_text()).body if isinstance(node, ast.ClassDef)}
        assert attribute in classes
