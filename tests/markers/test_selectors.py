"""What holds for every selector: exactly k genes, planted markers, seeds, sparse as dense, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scmap_cli.errors import InputError, UsageError
from scmap_cli.markers import gumbel_vae, persist, smash
from scmap_cli.markers.base import marker_data, published_rows, rows_by_class, run_selector
from scmap_cli.registry import SELECTORS, Selector, get_selector
from scmap_cli.stages import marker_model

CLASSES = np.array(["A", "B", "C", "D"])
OURS = [name for name in SELECTORS if name.startswith("markermap")]
TRAINED = ("persist", "persist-unsupervised", "lassonet", "smash-dnn", "concrete-vae", "global-gumbel", *OURS)
QUICK = [name for name in SELECTORS if name not in TRAINED]
FOR_LABELS = [name for name, spec in SELECTORS.items() if spec.needs_labels]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few epochs: here it matters that the parts fit together, not how good the genes are."""
    monkeypatch.setattr(persist, "_GATE_EPOCHS", 2)
    monkeypatch.setattr(persist, "_MASK_EPOCHS", 3)
    monkeypatch.setattr(gumbel_vae, "_EPOCHS", 3)
    monkeypatch.setattr(gumbel_vae, "_PUBLISHED_EPOCHS", 2)
    monkeypatch.setattr(marker_model, "DEFAULTS", marker_model.DEFAULTS | {"epochs": 3})
    monkeypatch.setattr(marker_model, "PUBLISHED_TRAINING", marker_model.PUBLISHED_TRAINING | {"epochs": 3})


def pick(name, data, k=20, **more):
    return run_selector(SELECTORS[name], data, k, **more)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "lassonet"])
def test_exactly_k_distinct_genes_with_scores(planted, name):
    for k in (1, 3, 20):
        found = pick(name, planted.data, k)
        assert len(found.genes) == len(found.scores) == k
        assert len(set(found.genes.tolist())) == k
        assert found.genes.min() >= 0
        assert found.genes.max() < planted.data.n_genes
        assert np.isfinite(found.scores).all()
        assert found.classes is None or len(found.classes) == k


@pytest.mark.parametrize("name", ["smash", "rankcorr", "cosg", "t-test", "t-test-overestim-var"])
def test_planted_markers_are_found_and_speak_for_their_class(planted, name):
    found = pick(name, planted.data)
    assert set(found.genes) == set(range(20))
    assert all(CLASSES[gene // 5] == of for gene, of in zip(found.genes, found.classes, strict=True))


@pytest.mark.parametrize("name", ["wilcoxon", "wilcoxon-tie", "greedy-labels", "l1-logistic"])
def test_planted_markers_are_nearly_all_found(planted, name):
    found = pick(name, planted.data)
    right = [(gene, of) for gene, of in zip(found.genes, found.classes, strict=True) if gene < 20]
    assert len(right) >= 16
    assert all(CLASSES[gene // 5] == of for gene, of in right)


@pytest.mark.slow
def test_planted_markers_are_found_by_lassonet(planted):
    found = pick("lassonet", planted.data, 8)
    assert len(set(found.genes)) == 8
    assert sum(gene < 20 for gene in found.genes) >= 7


def test_networks_prefer_planted_markers(planted, monkeypatch):
    monkeypatch.undo()
    assert sum(gene < 20 for gene in pick("smash-dnn", planted.data).genes) >= 8
    monkeypatch.setattr(persist, "_MASK_EPOCHS", 150)
    # Few cells make few steps an epoch, so they are longer ones.
    monkeypatch.setattr(persist, "_LR", 1e-2)
    # The network of PERSIST sees only whether a gene is expressed, so markers are planted that are absent elsewhere.
    counts = planted.counts.copy()
    for code in range(4):
        counts[np.ix_(planted.labels != CLASSES[code], range(5 * code, 5 * code + 5))] = 0
    found = pick("persist", marker_data(counts, planted.labels), 10)
    assert sum(gene < 20 for gene in found.genes) >= 8


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "lassonet"])
def test_the_same_seed_gives_the_same_genes(planted, name):
    one, two = (pick(name, planted.data, 10, seed=4) for _ in range(2))
    assert one.genes.tolist() == two.genes.tolist()
    assert one.scores.tolist() == two.scores.tolist()


@pytest.mark.parametrize("name", ["random", "smash"])
def test_another_seed_gives_others(planted, name):
    assert pick(name, planted.data, 30, seed=1).genes.tolist() != pick(name, planted.data, 30, seed=2).genes.tolist()


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, sp.csr_array])
def test_sparse_input_gives_what_dense_input_gives(planted, name, form):
    sparse = marker_data(form(planted.counts.astype(np.float32)), planted.labels, held=planted.data.held)
    one, two = pick(name, planted.data, 10), pick(name, sparse, 10)
    assert one.genes.tolist() == two.genes.tolist()
    np.testing.assert_array_equal(one.scores, two.scores)


@pytest.mark.parametrize("name", [name for name, spec in SELECTORS.items() if spec.nested and name != "smash-dnn"])
@pytest.mark.parametrize("as_published", [False, True])
def test_nested_choices_begin_alike(planted, name, as_published):
    long = pick(name, planted.data, 30, as_published=as_published)
    for k in (1, 6, 29):
        short = pick(name, planted.data, k, as_published=as_published)
        assert short.genes.tolist() == long.first(k).genes.tolist()
        assert short.classes == long.first(k).classes


@pytest.mark.parametrize(
    "name", [name for name, spec in SELECTORS.items() if spec.published and name not in ("lassonet", "smash-dnn")]
)
def test_as_published_differs(planted, name):
    as_meant, as_published = (pick(name, planted.data, 60, as_published=flag) for flag in (False, True))
    assert as_meant.scores.tolist() != as_published.scores.tolist()
    assert as_meant.genes.tolist() != as_published.genes.tolist()


@pytest.mark.slow
def test_lassonet_as_published_goes_on_to_no_gene(monkeypatch, planted):
    small = planted.data.take_genes(np.arange(0, 24, 2))
    # The package looks for its first penalty for a minute; what matters here is where the path ends.
    monkeypatch.setattr("lassonet.model.LassoNet.lambda_start", lambda self, **options: 0.2)
    ends = {}
    from scmap_cli.markers import lassonet

    def noted(left_at, k):
        ends[len(ends)] = np.count_nonzero(left_at[-1][1])
        return real(left_at, k)

    real = lassonet._by_leaving
    monkeypatch.setattr(lassonet, "_by_leaving", noted)
    for as_published in (False, True):
        assert len(set(pick("lassonet", small, 4, as_published=as_published).genes)) == 4
    assert 0 < ends[0] <= 4
    assert ends[1] == 0


def test_smash_dnn_as_published_differs(planted, monkeypatch):
    monkeypatch.setattr(smash, "_EPOCHS", 3)
    monkeypatch.setattr(smash, "_DRAWS", 2)
    as_meant, as_published = (pick("smash-dnn", planted.data, 60, as_published=flag) for flag in (False, True))
    assert as_meant.scores.tolist() != as_published.scores.tolist()
    assert as_meant.genes.tolist() != as_published.genes.tolist()


def test_the_last_row_as_published_goes_by_p_value():
    data = marker_data(np.ones((4, 6)), ["A", "A", "B", "B"])
    scores_cg = np.array([[9.0, 5.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 8.0, 7.0, 0.0]])
    p_cg = np.full((2, 6), 0.5)
    p_cg[0, 1], p_cg[1, 4] = 1e-9, 1e-3
    assert published_rows(data, scores_cg, 3).genes.tolist() == [0, 3, 4]
    assert published_rows(data, scores_cg, 3, p_cg).genes.tolist() == [0, 3, 1]


def test_a_gene_speaks_for_a_class_that_has_it():
    rng = np.random.default_rng(0)
    codes = np.arange(240) % 4
    counts = rng.poisson(3.0, (240, 30))
    counts[codes == 0, 0] = 0
    counts[codes == 3, 0] += 1
    found = pick("rankcorr", marker_data(counts, CLASSES[codes]), 3)
    assert found.genes[0] == 0
    assert found.classes[0] == "D"


def test_without_a_published_difference_the_flag_changes_nothing(planted, caplog):
    with caplog.at_level("INFO", "scmap"):
        found = pick("hvg", planted.data, 10, as_published=True)
    assert found.genes.tolist() == pick("hvg", planted.data, 10).genes.tolist()
    assert "--as-published changes nothing" in caplog.text


@pytest.mark.parametrize("name", QUICK)
def test_forced_genes(planted, name):
    inside, outside = np.array([50, 7]), np.array([0, 1, 2, 3])
    found = pick(name, planted.data, 12, forced_in=inside, forced_out=outside)
    assert found.genes[:2].tolist() == [50, 7]
    assert len(set(found.genes.tolist())) == 12
    assert not set(found.genes) & set(outside)
    assert np.isinf(found.scores[:2]).all()
    assert found.classes is None or (found.classes[:2] == ("", "") and all(found.classes[2:]))


def test_forced_genes_alone(planted):
    assert pick("t-test", planted.data, 2, forced_in=np.array([3, 1])).genes.tolist() == [3, 1]


@pytest.mark.parametrize("name", QUICK)
def test_all_genes_can_be_chosen(planted, name):
    """Also those that are never found, which come last where anything can be said of them."""
    found = pick(name, planted.data, planted.data.n_genes)
    assert sorted(found.genes) == list(range(planted.data.n_genes))
    if name not in ("random", "hvg", "cosg"):
        assert not set(found.genes[:20]) & set(range(115, 120))


@pytest.mark.parametrize("name", QUICK)
def test_two_classes_of_two_cells(name):
    counts = np.array([[5, 0, 1, 2], [6, 0, 1, 0], [0, 4, 1, 1], [1, 7, 1, 0]])
    data = marker_data(counts, ["a", "a", "b", "b"])
    assert sorted(pick(name, data, 4).genes) == [0, 1, 2, 3]


def test_more_genes_than_there_are(planted):
    with pytest.raises(InputError, match="121 genes are wanted of 120"):
        pick("random", planted.data, 121)
    with pytest.raises(InputError, match="117 genes are wanted of 116"):
        pick("random", planted.data, 117, forced_out=np.arange(4))


@pytest.mark.parametrize("name", FOR_LABELS)
def test_labels_that_are_missing_or_do_not_serve(planted, name):
    with pytest.raises(InputError, match=rf"the method {name} needs labels"):
        pick(name, marker_data(planted.counts))
    with pytest.raises(InputError, match="all cells are of the class 'A'"):
        pick(name, marker_data(planted.counts, ["A"] * 240))
    lonely = planted.labels.astype(object)
    lonely[7] = "rare"
    with pytest.raises(InputError, match="'rare' has 1 cell") as caught:
        pick(name, marker_data(planted.counts, lonely))
    assert "--exclude-labels" in caught.value.hint


@pytest.mark.parametrize("name", [name for name in QUICK if name not in FOR_LABELS])
def test_methods_without_labels_do_not_look_at_them(planted, name):
    bare = marker_data(planted.counts, held=planted.data.held)
    assert pick(name, bare).genes.tolist() == pick(name, planted.data).genes.tolist()


def test_unknown_methods_and_absent_packages():
    with pytest.raises(UsageError, match="unknown method 'ttest'") as caught:
        get_selector("ttest")
    assert "t-test" in caught.value.hint
    absent = Selector("x", "", "no_such_package.module:f", package="no_such_package")
    with pytest.raises(UsageError, match="needs the package no_such_package"):
        absent.load()
    with pytest.raises(ModuleNotFoundError):
        Selector("x", "", "scmap_cli.markers.nowhere:f", package="cosg").load()


def test_a_selector_that_breaks_its_word_is_a_bug(planted, monkeypatch):
    spec = SELECTORS["random"]
    monkeypatch.setattr("scmap_cli.markers.chance.best", lambda scores, k: np.zeros(k, dtype=np.int64))
    with pytest.raises(RuntimeError, match="gave 1 genes, not 3"):
        run_selector(spec, planted.data, 3)


def test_classes_take_turns_and_ties_go_to_the_first_gene(planted):
    scores = np.array([[3.0, 3.0, 1.0, np.nan], [9.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]])
    found = rows_by_class(planted.data, scores, 4)
    # A takes gene 0 before B can; B and C take what is left, D its own; the largest score of the turn comes first.
    assert found.genes.tolist() == [3, 0, 1, 2]
    assert found.classes == ("D", "A", "B", "C")
    assert found.scores.tolist() == [5.0, 3.0, 2.0, 0.0]
