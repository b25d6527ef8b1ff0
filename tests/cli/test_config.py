"""Config files: default < file < flag, and what is printed can be read back."""

from __future__ import annotations

import re
import tomllib

import pytest

from scmap_cli.cli.app import VERBS

RUNS = [verb for verb in VERBS if verb != "info"]


def write(scmap, text, name="run.toml"):
    (scmap.folder / name).write_text(text)
    return name


def printed(scmap, *words):
    return tomllib.loads(scmap(*words, "--print-config").out)


def test_file_beats_default_and_flag_beats_file(scmap):
    name = write(scmap, "[train]\nepochs = 7\nbatch-size = 64\n[model]\nhidden = [8, 4]\n[data]\nbatch_key = 'donor'\n")
    found = printed(scmap, "train", "expimap", "--config", name, "--epochs", "9")
    assert (found["train"]["epochs"], found["train"]["batch_size"], found["train"]["lr"]) == (9, 64, 0.001)
    assert found["model"]["hidden"] == [8, 4]
    assert found["data"]["batch_key"] == "donor"


def test_only_what_was_given_reaches_the_configs(scmap, monkeypatch):
    seen = {}
    monkeypatch.setattr("scmap_cli.stages.train_expimap.train_expimap", lambda **options: seen.update(options))
    name = write(
        scmap, "[train]\nepochs = 7\nseed = 3\n[model]\nhidden = [8, 4]\n[data]\ninput = 'a.h5ad'\noutput = 'm'\n"
    )
    scmap("train", "expimap", "--config", name, "--kl-weight", "0.1")
    assert seen["model_options"] == {"hidden": [8, 4], "kl_weight": 0.1}
    assert seen["train_options"] == {"epochs": 7}
    assert (str(seen["input"]), str(seen["output"]), seen["seed"]) == ("a.h5ad", "m", 3)
    assert "epochs" not in seen
    assert "programs" not in seen


def test_a_misspelt_section_of_the_settings_of_a_model(scmap):
    name = write(scmap, "[modle]\nwidth = 8\n")
    said = scmap("select-markers", "a.h5ad", "-o", "m.tsv", "--model-config", name, status=2).err
    assert "unknown section [modle]" in said
    assert "did you mean 'model'?" in said


def test_a_key_above_all_sections(scmap):
    (scmap.folder / "bare.toml").write_text("epochs = 3\n")
    said = scmap("train", "expimap", "a.h5ad", "-o", "m", "--config", "bare.toml", status=2).err
    assert "'epochs' in bare.toml stands in no section" in said


@pytest.mark.parametrize("verb", RUNS)
def test_what_is_printed_reads_back(scmap, verb):
    first = scmap(*verb.split(), "--print-config", "-t", "3", "--seed", "5").out
    second = scmap(*verb.split(), "--config", write(scmap, first), "--print-config").out
    assert first == second
    assert "seed = 5" in first


def test_a_full_set_of_values_reads_back(scmap):
    words = [
        *("preprocess", "rna", "a b.h5ad", 'c"d.h5ad', "-o", "out.h5ad", "--sample", "x", "--sample", "y"),
        *(
            "--max-mito",
            "12.5",
            "--make-unique",
            "--mito-prefix",
            "mt-",
            "--layer",
            "r\u00e4w",
            "--min-counts",
            "1e-05",
        ),
    ]
    first = scmap(*words, "--print-config").out
    assert tomllib.loads(first)["preprocess-rna"]["inputs"] == ["a b.h5ad", 'c"d.h5ad']
    assert scmap("preprocess", "rna", "--config", write(scmap, first), "--print-config").out == first


@pytest.mark.parametrize("verb", RUNS)
def test_every_option_of_a_run_is_in_the_file(scmap, verb):
    text = scmap(*verb.split(), "--print-config").out
    help_text = scmap(*verb.split(), "-h").out
    of_a_call = {"help", "force", "dry_run", "quiet", "verbose", "config", "print_config"}
    keys = {flag.replace("-", "_") for flag in re.findall(r"^  (?:-[a-z], )?--([a-z0-9-]+)", help_text, re.MULTILINE)}
    assert keys > of_a_call
    for key in keys - of_a_call:
        assert f"\n{key} = " in text or f"\n# {key} is not set" in text, key


def test_a_config_file_alone_runs_a_verb(scmap):
    name = write(scmap, "[simulate-rna]\noutput = 'out.h5ad'\npreset = 'tiny'\nn-cells = 50\nseed = 4\n")
    scmap("simulate", "rna", "--config", name)
    scmap("simulate", "rna", "-o", "same.h5ad", "--preset", "tiny", "--n-cells", 50, "--seed", 4)
    files = scmap.files()
    assert files["out.h5ad"] == files["same.h5ad"]


def test_print_config_writes_nothing_else(scmap):
    result = scmap("simulate", "rna", "-o", "out.h5ad", "--print-config")
    assert result.err == ""
    assert scmap.files() == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nepoch = 3\n", "'epochs'"),
        ("[train]\nkl_weight = 3\n", "[model]"),
        ("[trian]\nepochs = 3\n", "'train'"),
        ("[data]\ndry_run = true\n", "dry_run"),
        ("[data]\nforce = true\n", "force"),
        ("epochs = 3\n", "epochs"),
        ("train = 3\n", "section"),
        ("[train]\nepochs = true\n", "epochs"),
        ("[train]\nepochs = [1, 2]\n", "epochs"),
        ("[train]\nepochs = 'many'\n", "--epochs"),
        ("[model]\nmembership = 'firm'\n", "firm"),
        ("[model]\nhidden = ['a']\n", "--hidden"),
    ],
)
def test_an_unfit_file_is_2_and_says_where(scmap, text, expected):
    result = scmap("train", "expimap", "a.h5ad", "-o", "m", "--config", write(scmap, text), status=2)
    assert expected in result.err
    assert len(result.err.splitlines()) <= 2


def test_a_flag_in_a_file_must_be_true_or_false(scmap):
    name = write(scmap, "[preprocess-rna]\nnormalize = 1\n")
    assert "true or false" in scmap("preprocess", "rna", "--config", name, status=2).err


def test_a_file_that_is_not_toml_is_3(scmap):
    assert "TOML" in scmap("simulate", "rna", "--config", write(scmap, "[train\n"), status=3).err


def test_sections_of_other_verbs_are_passed_over(scmap):
    name = write(scmap, "[train]\nepochs = 3\n[simulate-rna]\nseed = 7\n[preprocess-rna]\nhvg = 5\n")
    assert printed(scmap, "simulate", "rna", "--config", name)["simulate-rna"]["seed"] == 7
    assert printed(scmap, "train", "expimap", "--config", name)["train"]["epochs"] == 3
