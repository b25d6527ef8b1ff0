"""Help is quick because nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scmap_cli import __version__
from scmap_cli.cli.app import VERBS

HEAVY = ("torch", "anndata", "numpy", "pandas", "scipy", "scanpy", "matplotlib", "h5py", "sklearn", "rich", "pydantic")
CALLS = [["-h"], ["--version"], *[[*verb.split(), "-h"] for verb in VERBS]]
CHECK = """
import sys
from scmap_cli.cli.app import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write(",".join(name for name in sys.argv[1].split(",") if name in sys.modules))
"""


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_nothing_heavy_is_imported(scmap, call):
    words = [sys.executable, "-c", CHECK, ",".join(HEAVY), *call]
    done = subprocess.run(words, env=scmap.environment(), text=True, capture_output=True, check=True, timeout=60)
    assert done.stdout
    assert done.stderr == ""


def test_the_version_is_one_line_on_stdout(scmap):
    for flag in ("--version", "-V"):
        result = scmap.process(flag)
        assert (result.out, result.err) == (f"scmap {__version__}\n", "")


def test_python_m_is_the_command(scmap):
    assert scmap.process("-h").out.startswith("Usage: scmap ")


@pytest.mark.parametrize("words", [[], ["train"], ["preprocess"]])
def test_without_a_verb_help_goes_to_stderr(scmap, words):
    result = scmap(*words, status=2)
    assert result.out == ""
    assert result.err.startswith("Usage: scmap")


def test_help_tells_the_exit_codes(scmap):
    text = scmap("-h").out
    for code in (0, 1, 2, 3, 4, 5, 6, 75, 130):
        assert f"\n    {code:>3}  " in text


def test_completion_script_on_request(scmap):
    result = scmap.process(env={"_SCMAP_COMPLETE": "source_bash"})
    assert "complete" in result.out
    words = {"COMP_WORDS": "scmap tr", "COMP_CWORD": "1", "_SCMAP_COMPLETE": "complete_bash"}
    assert scmap.process(env=words).out.split() == ["train"]
