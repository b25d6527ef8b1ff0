"""What README and examples show is what the commands take: verbs, options, values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from scmap_cli import keys
from scmap_cli.cli.app import VERBS, app

ROOT = Path(__file__).resolve().parents[2]
TREE = typer.main.get_command(app)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "examples").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in DOCUMENTS}
README = TEXTS["README.md"]
SCRIPTS = sorted([*(ROOT / "examples").glob("*.sh"), ROOT / "examples" / "Snakefile"])


def commands(text: str) -> list[list[str]]:
    """Every command of scmap in shell text, as words; a pipe, a redirection or a condition ends it."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for start in re.finditer(r"(?:^|[\s(;|&])scmap (?=[a-z])", line):
            rest = re.split(r"\s(?:\||\|\||&&|&|>|>>|;|#)(?:\s|$)", line[start.end() :])[0]
            words = shlex.split(rest, comments=True)
            found.append(words)
    return found


def in_blocks(text: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S))


def leaf(words: list[str]):
    """The command of some words, and the words left for it."""
    tree = TREE
    while words and words[0] in getattr(tree, "commands", {}):
        tree, words = tree.commands[words[0]], words[1:]
    return tree, words


def check(words: list[str]) -> None:
    command, rest = leaf(words)
    assert not hasattr(command, "commands"), words
    # Values that a shell puts in are not known here; one stands for each.
    rest = ["1" if "$" in word and not word.startswith("-") else word for word in rest]
    rest = [word for word in rest if not word.startswith("{")]
    flags = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    for word in rest:
        if word.startswith("-") and len(word) > 1 and not re.fullmatch(r"-[0-9.]+", word):
            assert word.partition("=")[0] in flags, f"{word} of scmap {' '.join(words)}"


@pytest.mark.parametrize("words", commands(in_blocks("\n".join(TEXTS.values()))), ids=lambda words: " ".join(words[:3]))
def test_commands_of_the_documents_parse(words):
    check(words)
    command, rest = leaf(words)
    assert command.make_context("scmap", list(rest)).params


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_options_of_the_examples_exist(path):
    text = path.read_text()
    if path.name == "Snakefile":
        text = re.sub(r'"\n\s+"', "", text)
        text = "\n".join(re.findall(r'"(scmap [^"]*)"', text))
    found = [words for words in commands(text) if words[0] in {verb.split()[0] for verb in VERBS}]
    assert len(found) >= 1
    for words in found:
        check(words)


def test_the_readme_lists_every_verb_once():
    section = README.split("\n## Verbs\n", 1)[1].split("\n## ", 1)[0]
    listed = re.findall(r"^\| `scmap ([a-z -]+)` \|", section, flags=re.M)
    assert sorted(listed) == sorted(VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_examples_of_the_help_parse(verb):
    epilog = leaf(verb.split())[0].epilog or ""
    found = [words for words in commands(epilog) if words[0] in {name.split()[0] for name in VERBS}]
    assert any(words[: len(verb.split())] == verb.split() for words in found), epilog
    for words in found:
        check(words)
        command, rest = leaf(words)
        assert command.make_context("scmap", list(rest)).params


LISTED = set(re.findall(r'\["(\w+)"\]', TEXTS["examples/formats.md"]))
SLOTS = {key: value for key, value in vars(keys).items() if key.isupper() and isinstance(value, str)}


def test_every_slot_is_listed_and_what_is_listed_as_ours_is_a_slot():
    # read and never written
    names = set(SLOTS.values()) - {keys.COUNTS_LAYER}
    # of the models and baselines, one each
    names |= {keys.embedding_key(name) for name in ("expimap", "sailer", "sailerx", "markermap", "expresser", "lsi")}
    assert names <= LISTED, sorted(names - LISTED)
    ours = {name for name in LISTED if name.startswith("scmap_")}
    assert ours <= names, sorted(ours - names)


def test_every_slot_is_used():
    code = "\n".join(path.read_text() for path in (ROOT / "scmap_cli").rglob("*.py") if path.name != "keys.py")
    unused = [key for key in SLOTS if not re.search(rf"\b{key}\b", code)]
    assert not unused


@pytest.mark.parametrize("name", list(TEXTS))
def test_what_a_document_links_to_exists(name):
    for link in re.findall(r"\]\(([^)#]+)\)", TEXTS[name]):
        assert link.startswith("https://") or ((ROOT / name).parent / link).exists(), link


def test_the_readme_links_to_every_page():
    linked = set(re.findall(r"\]\(([^)#]+)\)", README))
    pages = {name for name in TEXTS if name != "README.md" and not name.startswith("examples/data/")}
    assert pages <= linked, sorted(pages - linked)
