"""One flag, one meaning: the whole command tree is walked and compared with itself and with the stages."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from importlib import import_module

import pytest
import typer

from scmap_cli.cli import options
from scmap_cli.cli.app import VERBS, app
from scmap_cli.cli.settings import key_of

#: stage function of each verb, and the parameters whose names differ or that only the terminal or the stage knows
STAGES = {
    "preprocess atac": "scmap_cli.stages.preprocess_atac:preprocess_atac",
    "preprocess peaks": "scmap_cli.stages.preprocess_peaks:preprocess_peaks",
    "preprocess rna": "scmap_cli.stages.preprocess_rna:preprocess_rna",
    "preprocess multiome": "scmap_cli.stages.preprocess_multiome:preprocess_multiome",
    "preprocess programs": "scmap_cli.stages.preprocess_programs:preprocess_programs",
    "preprocess gene-scores": "scmap_cli.stages.preprocess_gene_scores:preprocess_gene_scores",
    "preprocess motifs": "scmap_cli.stages.preprocess_motifs:preprocess_motifs",
    "preprocess corpus": "scmap_cli.stages.preprocess_corpus:preprocess_corpus",
    "simulate rna": "scmap_cli.stages.simulate:simulate_rna",
    "simulate atac": "scmap_cli.stages.simulate_atac:simulate_atac",
    "train expimap": "scmap_cli.stages.train_expimap:train_expimap",
    "train sailer": "scmap_cli.stages.train_sailer:train_sailer",
    "train sailerx": "scmap_cli.stages.train_sailerx:train_sailerx",
    "train expresser": "scmap_cli.stages.train_expresser:train_expresser",
    "train markermap": "scmap_cli.stages.train_markermap:train_markermap",
    "embed": "scmap_cli.stages.embed:embed",
    "impute": "scmap_cli.stages.impute:impute",
    "map-query": "scmap_cli.stages.map_query:map_query",
    "gp-test": "scmap_cli.stages.gp_test:gp_test",
    "select-markers": "scmap_cli.stages.select_markers:select_markers",
    "evaluate clustering": "scmap_cli.stages.evaluate_clustering:evaluate_clustering",
    "evaluate integration": "scmap_cli.stages.evaluate_integration:evaluate_integration",
    "evaluate invariance": "scmap_cli.stages.evaluate_invariance:evaluate_invariance",
    "evaluate imputation": "scmap_cli.stages.evaluate_imputation:evaluate_imputation",
    "evaluate markers": "scmap_cli.stages.evaluate_markers:evaluate_markers",
    "evaluate genes": "scmap_cli.stages.evaluate_genes:evaluate_genes",
    "evaluate reconstruction": "scmap_cli.stages.evaluate_reconstruction:evaluate_reconstruction",
    "report": "scmap_cli.stages.report:report",
    "info": "scmap_cli.stages.info:info",
}
#: further stages of a verb that does one of several things
ALSO = {
    "embed": ("scmap_cli.stages.embed_baseline:embed_baseline", "scmap_cli.stages.embed_genes:embed_genes"),
    "evaluate imputation": ("scmap_cli.stages.evaluate_withheld:evaluate_withheld",),
}
#: what chooses between the stages of such a verb
CHOOSES = {"embed": {"genes"}}
#: --compare chooses what a verb of evaluate does; the stage that scores does not know it
PROCESS = {"threads", "quiet", "verbose", "config", "print_config", "compare"}
EVERY_VERB = ["--force", "--threads", "--quiet", "--verbose", "--dry-run", "--help"]
TRAIN = ("train sailer", "train sailerx", "train markermap", "train expimap", "train expresser")
USE_A_DEVICE = (*TRAIN, "embed", "impute", "map-query", "gp-test", "select-markers", "evaluate imputation")
USE_A_DEVICE += ("evaluate markers", "evaluate reconstruction")
EVERY_RUN = ["--seed", "--config", "--print-config"]
CHOICES_DIFFER = ("--preset",)
SAME_MEANING = [*EVERY_VERB, *EVERY_RUN, "--device", "--layer", "--gene-column", "--cluster-backend"]


def leaves(command=None, path=()):
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, child in inner.items():
        yield from leaves(child, (*path, name))


LEAVES = dict(leaves())


def all_options(command):
    context = typer.Context(command, **command.context_settings)
    found = [p for p in command.params if p.param_type_name == "option"]
    return [*found, command.get_help_option(context)]


def parameters(verb):
    return {p.name: p for p in LEAVES[verb].params}


def test_the_tree_holds_exactly_the_declared_verbs():
    assert set(LEAVES) == set(VERBS) == set(STAGES)


@pytest.mark.parametrize("verb", LEAVES)
def test_every_verb_has_the_shared_flags(verb):
    flags = {flag for p in all_options(LEAVES[verb]) for flag in p.opts}
    assert flags.issuperset({*EVERY_VERB, "-h", "-t", "-q", "-v", "-o", "--output"})
    if verb != "info":
        assert flags.issuperset(EVERY_RUN)
    assert ("--device" in flags) == (verb in USE_A_DEVICE)


@pytest.mark.parametrize("verb", LEAVES)
def test_flags_are_hyphenated_and_explained(verb):
    for p in all_options(LEAVES[verb]):
        for flag in (*p.opts, *p.secondary_opts):
            assert re.fullmatch(r"--[a-z][a-z0-9]*(-[a-z0-9]+)*|-[a-zA-Z]", flag), flag
        assert p.help, p.opts
        assert p.help.endswith(".") or "." in p.help, p.help


def test_the_same_flag_means_the_same_everywhere():
    seen: dict[str, tuple[str, tuple]] = {}
    for verb, command in LEAVES.items():
        for p in all_options(command):
            for flag in p.opts:
                form = str(p.type_descriptor.annotation).removesuffix(" | None")
                # What can be chosen differs by verb; that a name is chosen does not.
                form = "Literal" if flag in CHOICES_DIFFER and "Literal" in form else form
                kind = (p.multiple, bool(p.is_flag), form)
                if flag in ("-k", "--baseline") or (flag, verb) == ("--genes", "embed"):
                    # What a verb counts: neighbours of several graphs, or genes. One baseline made, or several scored.
                    # What is embedded: genes, not cells.
                    continue
                meaning = (tuple(p.opts), *kind)
                if flag in SAME_MEANING:
                    meaning = (*meaning, p.help, p.default)
                other, before = seen.setdefault(flag, (verb, meaning))
                assert meaning == before, f"{flag} of {verb} and {other}"


@pytest.mark.parametrize("verb", LEAVES)
def test_parameters_are_those_of_the_stage(verb):
    stage = {}
    for target in (*ALSO.get(verb, ()), STAGES[verb]):
        module, name = target.split(":")
        stage |= inspect.signature(getattr(import_module(module), name)).parameters
    ours = parameters(verb)
    names = set(ours) - PROCESS - CHOOSES.get(verb, set())
    if verb in (*TRAIN, "map-query"):
        own = {n for n, p in ours.items() if getattr(p, "rich_help_panel", None) in (options.MODEL, options.TRAINING)}
        names = (names - own) | {"model_options", "train_options"}
    assert names == set(stage)
    for name in names & set(ours):
        default = stage[name].default
        if default is inspect.Parameter.empty or default is None or default == ():
            continue
        shown = ours[name].default
        if name == "k" and isinstance(shown, str):
            shown = options.integers(shown, "-k")
        if name == "thresholds":
            shown = options.floats(shown, "--thresholds")
        if name == "pair_splits":
            shown = options.names(shown)
        if isinstance(ours[name].show_default, str):
            assert ours[name].show_default == ", ".join(default)
        else:
            assert shown == default or str(shown) == str(default), name


@pytest.mark.parametrize("verb", TRAIN)
def test_defaults_of_training_are_those_of_the_configs(verb):
    from scmap_cli.config import PretrainConfig, TrainConfig
    from scmap_cli.models.expimap import ExpiMapConfig
    from scmap_cli.models.expresser import ExpresserConfig
    from scmap_cli.models.markermap import MarkerMapConfig
    from scmap_cli.models.sailer import SailerConfig
    from scmap_cli.models.sailerx import SailerXConfig
    from scmap_cli.stages import marker_model, train_expresser, train_sailer, train_sailerx

    model, training, changed = {
        "train expimap": (ExpiMapConfig, TrainConfig, {}),
        "train sailer": (SailerConfig, TrainConfig, train_sailer.DEFAULTS),
        "train sailerx": (SailerXConfig, TrainConfig, train_sailerx.DEFAULTS),
        "train markermap": (MarkerMapConfig, TrainConfig, marker_model.DEFAULTS | {"batch_size": None}),
        "train expresser": (ExpresserConfig, PretrainConfig, train_expresser.DEFAULTS),
    }[verb]
    for panel, config, other in ((options.MODEL, model, {}), (options.TRAINING, training, changed)):
        ours = LEAVES[verb].params
        declared = {key_of(p): p.default for p in ours if getattr(p, "rich_help_panel", None) == panel}
        real = {field.name: field.default for field in dataclasses.fields(config)} | other
        if isinstance(declared.get("hidden"), str):
            declared |= {"hidden": options.integers(declared["hidden"], "--hidden")}
        assert declared == real


def test_defaults_of_mapping_are_those_of_the_stage():
    from scmap_cli.config import TrainConfig, build
    from scmap_cli.models.expimap import ExpiMapConfig
    from scmap_cli.stages.map_query import LEARNING_TRAIN, QUERY_MODEL, QUERY_TRAIN

    real = dataclasses.asdict(build(ExpiMapConfig, QUERY_MODEL, where="")) | dataclasses.asdict(
        build(TrainConfig, QUERY_TRAIN, where="")
    )
    ours = [p for p in LEAVES["map-query"].params if p.rich_help_panel in (options.MODEL, options.TRAINING)]
    assert len(ours) > 10
    told = {key_of(p): p.show_default for p in ours if isinstance(p.show_default, str)}
    assert told == {name: f"{real[name]}; with programs to learn {LEARNING_TRAIN[name]}" for name in ("lr", "patience")}
    assert {key_of(p): p.default for p in ours} == {
        key_of(p): None if key_of(p) in told else real[key_of(p)] for p in ours
    }


def test_defaults_of_the_simulation_are_those_of_its_presets():
    from scmap_cli.data.simulation import PRESETS

    ours = parameters("simulate rna")
    for name, value in PRESETS["default"].items():
        tiny = PRESETS["tiny"][name]
        shown = f"{value}" if tiny == value else f"{value}; tiny: {tiny}"
        assert ours[name].show_default == (shown if value is not None else "even")


def test_choices_are_those_of_the_code():
    from scmap_cli.data.alignment import WEIGHTS
    from scmap_cli.data.counting import RULES
    from scmap_cli.data.decomposition import TFIDF
    from scmap_cli.data.hvg import FLAVORS
    from scmap_cli.data.simulation import PRESETS
    from scmap_cli.data.simulation_atac import PRESETS as ATAC_PRESETS
    from scmap_cli.data.simulation_atac import RARE_IN
    from scmap_cli.io.gmt import FORMS
    from scmap_cli.metrics.graph import BACKENDS, METHODS
    from scmap_cli.metrics.invariance import ESTIMATORS
    from scmap_cli.models.expresser import BINNINGS
    from scmap_cli.models.expresser import PRESETS as EXPRESSER_PRESETS
    from scmap_cli.nn.distributions import LINKS
    from scmap_cli.stages.carried_labels import SPACES
    from scmap_cli.stages.embeddings import BASELINES
    from scmap_cli.stages.evaluate_reconstruction import REBUILT, SCALES
    from scmap_cli.stages.gene_filter import GENE_FILTERS, LOG_BASES
    from scmap_cli.stages.inputs import MISSING
    from scmap_cli.stages.preprocess_motifs import FREQUENCIES
    from scmap_cli.stages.preprocess_programs import CASES

    expected = {
        ("preprocess atac", "count"): RULES,
        ("preprocess rna", "hvg_flavor"): FLAVORS,
        ("preprocess rna", "gene_filter"): GENE_FILTERS,
        ("preprocess rna", "log_base"): LOG_BASES,
        ("preprocess motifs", "base_frequencies"): FREQUENCIES,
        ("preprocess programs", "form"): FORMS,
        ("preprocess programs", "case"): CASES,
        ("simulate rna", "preset"): PRESETS,
        ("simulate atac", "preset"): ATAC_PRESETS,
        ("simulate atac", "rare_in"): RARE_IN,
        ("train expimap", "mean"): LINKS,
        ("train sailerx", "depth_weights"): WEIGHTS,
        ("train expresser", "preset"): EXPRESSER_PRESETS,
        ("train expresser", "binning"): BINNINGS,
        ("embed", "cluster_method"): METHODS,
        ("embed", "cluster_backend"): BACKENDS,
        ("embed", "missing"): MISSING,
        ("embed", "baseline"): BASELINES,
        ("embed", "tfidf"): TFIDF,
        ("map-query", "space"): SPACES,
        ("evaluate clustering", "cluster_method"): METHODS,
        ("evaluate clustering", "leiden_backend"): BACKENDS,
        ("evaluate integration", "cluster_method"): METHODS,
        ("evaluate integration", "leiden_backend"): BACKENDS,
        ("evaluate invariance", "batch_estimator"): ESTIMATORS,
        ("evaluate reconstruction", "scale"): SCALES,
        ("evaluate reconstruction", "reconstruction_values"): REBUILT,
    }
    for (verb, name), choices in expected.items():
        assert set(parameters(verb)[name].type_descriptor.choices) == set(choices), (verb, name)


@pytest.mark.parametrize("verb", LEAVES)
def test_help_ends_with_an_example_that_parses_and_a_pitfall(scmap, verb):
    text = scmap(*verb.split(), "-h").out
    example, pitfall = text.split("Example:\n")[1].split("Pitfall: ")
    assert pitfall.strip()
    assert text == scmap(*verb.split(), "--help").out
    for line in example.replace("\\\n", " ").strip().splitlines():
        words = shlex.split(line.split("|")[0])
        assert words[: 1 + len(verb.split())] == ["scmap", *verb.split()]
        context = LEAVES[verb].make_context(verb, words[1 + len(verb.split()) :])
        assert context.params["output"] is not None


@pytest.mark.parametrize("verb", LEAVES)
def test_help_shows_every_option(scmap, verb):
    text = scmap(*verb.split(), "-h").out
    for p in all_options(LEAVES[verb]):
        assert all(flag in text for flag in p.opts)
        if p.default not in (None, False, ()) and not p.is_flag:
            assert f"default: {p.default}" in " ".join(text.split()), p.name
