import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scmap_cli.data.features import align, apply
from scmap_cli.errors import InputError

NAMES = st.lists(st.sampled_from([f"G{i}" for i in range(12)]), unique=True, max_size=12)


@given(NAMES, NAMES.filter(len), st.integers(0, 2**32 - 1))
def test_columns_follow_their_names(query, reference, seed):
    dense = np.random.default_rng(seed).poisson(0.5, size=(4, len(query))).astype(np.float32)
    alignment = align(query, reference)
    result = apply(sparse.csr_matrix(dense), alignment)
    by_name = dict(zip(query, dense.T, strict=True))
    expected = np.stack([by_name.get(name, np.zeros(4)) for name in reference], axis=1)
    np.testing.assert_array_equal(result.toarray(), expected)
    assert result.dtype == np.float32
    assert result.has_sorted_indices
    assert alignment.matched == len(set(query) & set(reference))
    assert alignment.missing == len(set(reference) - set(query))
    assert alignment.extra == len(set(query) - set(reference))


def test_a_permuted_query_gives_the_same_matrix():
    reference = [f"G{i}" for i in range(50)]
    x = sparse.random(20, 50, density=0.2, format="csr", random_state=0)
    order = np.random.default_rng(0).permutation(50)
    permuted = apply(x[:, order].tocsr(), align(np.array(reference)[order], reference))
    np.testing.assert_array_equal(permuted.toarray(), x.toarray())
    assert apply(x, align(reference, reference)) is x


def test_input_is_not_changed_and_arrays_are_accepted():
    x = sparse.csr_array(np.array([[1, 2, 3], [0, 4, 0]]))
    before = x.toarray()
    result = apply(x, align(["c", "b", "a"], ["a", "c"]))
    np.testing.assert_array_equal(result.toarray(), [[3, 1], [0, 0]])
    np.testing.assert_array_equal(x.toarray(), before)


@pytest.mark.parametrize("whose", ["query", "reference"])
def test_repeated_names_are_an_error_that_names_three(whose):
    repeated = ["A", "A", "B", "B", "C", "C", "D", "D"]
    with pytest.raises(InputError, match=rf"4 feature names .* {whose}, such as A, B, C$"):
        align(*((repeated, ["A"]) if whose == "query" else (["A"], repeated)))


def test_versions_are_left_out_only_where_that_helps():
    reference = ["ENSG00000000001.5", "ENSG00000000002", "ENSG00000000003.1", "TP53.1"]
    query = ["ENSG00000000003.1", "ENSG00000000001.7", "ENSG00000000002.2", "TP53.2"]
    alignment = align(query, reference)
    assert alignment.index.tolist() == [1, 2, 0, -1]
    assert alignment.by_version == 2
    assert alignment.report()["missing_examples"] == ["TP53.1"]


def test_an_exact_name_wins_over_another_version():
    alignment = align(["ENSG00000000001.2", "ENSG00000000001.1"], ["ENSG00000000001.1"])
    assert alignment.index.tolist() == [1]
    assert (alignment.by_version, alignment.extra) == (0, 1)


def test_ambiguous_versions_stay_missing_and_are_counted():
    two = ["ENSG00000000001.1", "ENSG00000000001.2"]
    for query, reference in ((two, ["ENSG00000000001"]), (["ENSG00000000001"], two)):
        alignment = align(query, reference)
        assert alignment.matched == 0
        assert alignment.ambiguous == len(reference)


def test_the_copy_of_a_gene_on_y_is_another_gene():
    assert align(["ENSG00000182378.14_PAR_Y"], ["ENSG00000182378.14"]).matched == 0


def test_wrong_width_is_refused():
    with pytest.raises(InputError, match="3 columns but 2"):
        apply(sparse.csr_matrix((1, 3)), align(["a", "b"], ["a"]))
