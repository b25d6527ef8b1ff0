import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmap_cli.errors import InputError, UsageError
from scmap_cli.io.gmt import GeneSet, read_binary_matrix, read_gene_sets, read_gmt, read_program_tsv, unique_sets


def write(path, text):
    path.write_bytes(text.encode())
    return path


def as_dict(sets):
    return {one.name: one.genes for one in sets}


def test_the_description_is_no_gene_and_names_stay_whole(tmp_path):
    long_name = "REACTOME_" + "X" * 200
    path = write(tmp_path / "a.gmt", f"{long_name}\thttp://TP53\tA\tB\nS\t\tC\n")
    assert read_gmt(path) == [GeneSet(long_name, ("A", "B")), GeneSet("S", ("C",))]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_blank_lines_line_ends_spaces_and_trailing_tabs(tmp_path, newline):
    lines = ["", "S1\td\tA\tB\t\t", "   ", "S2\td\t C \tA", ""]
    path = write(tmp_path / "a.gmt", "\ufeff" + newline.join(lines))
    assert as_dict(read_gmt(path)) == {"S1": ("A", "B"), "S2": ("C", "A")}


def test_repeated_genes_collapse_and_repeated_names_are_kept_apart(tmp_path):
    path = write(tmp_path / "a.gmt", "S\td\tA\tA\tB\nS\td\tC\nS__2\td\tD\nS\td\tE\n")
    sets = read_gmt(path)
    assert as_dict(sets) == {"S": ("A", "B"), "S__3": ("C",), "S__2": ("D",), "S__4": ("E",)}
    assert [one.renamed for one in sets] == [False, True, False, True]


def test_empty_sets_are_kept(tmp_path):
    assert as_dict(read_gmt(write(tmp_path / "a.gmt", "S\td\nT\td\tA\n"))) == {"S": (), "T": ("A",)}


def test_gzip_is_told_by_content(tmp_path):
    (tmp_path / "a.gmt").write_bytes(gzip.compress(b"S\td\tA\n"))
    assert as_dict(read_gene_sets(tmp_path / "a.gmt")) == {"S": ("A",)}


def test_a_gzip_file_cut_short_is_an_input_error(tmp_path):
    whole = gzip.compress("".join(f"S{i}\td\tA{i}\n" for i in range(200)).encode())
    for size in (3, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.gmt").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_gmt(tmp_path / "a.gmt")


@pytest.mark.parametrize(
    ("reader", "text", "line"),
    [
        (read_gmt, "S\td\tA\nno tabs here\n", 2),
        (read_gmt, "S\td\tA\n\n\td\tB\n", 3),
        (read_gmt, "S\td\tA\nT\td\tB\0C\n", 2),
        (read_program_tsv, "P\tA\nP\n", 2),
        (read_program_tsv, "P\tA\nP\t\n", 2),
        (read_program_tsv, "P\tA\tB\n", 1),
        (read_program_tsv, "P\tA\nP\tA\tB\n", 2),
        (read_binary_matrix, "gene\tP\nA\t1\nB\t2\n", 3),
        (read_binary_matrix, "gene\tP\nA\t1\nB\t1\t0\n", 3),
        (read_binary_matrix, "gene\tP\n\t1\n", 2),
        (read_binary_matrix, "gene\t\nA\t1\n", 1),
    ],
)
def test_garbage_is_named_by_its_line(tmp_path, reader, text, line):
    with pytest.raises(InputError, match=f"line {line} "):
        reader(write(tmp_path / "a.txt", text))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00", b"\x89HDF\r\n\x1a\n" + b"\0" * 50])
@pytest.mark.parametrize("form", ["auto", "gmt", "tsv", "matrix"])
def test_no_gene_sets_at_all(tmp_path, content, form):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError):
        read_gene_sets(tmp_path / "a.txt", form)


def test_a_missing_file_and_an_unknown_form(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_gmt(tmp_path / "none.gmt")
    with pytest.raises(UsageError):
        read_gene_sets(write(tmp_path / "a.gmt", "S\td\tA\n"), "xml")


def test_two_columns_with_and_without_header(tmp_path):
    body = "P\tA\nQ\tB\nP\tC\nP\tA\n"
    expected = {"P": ("A", "C"), "Q": ("B",)}
    assert as_dict(read_program_tsv(write(tmp_path / "a.tsv", body))) == expected
    assert as_dict(read_program_tsv(write(tmp_path / "b.tsv", "Program\tGene\n" + body))) == expected
    turned = "gene\tscore\tset\n" + "".join(f"{g}\t1.5\t{p}\n" for p, g in (r.split("\t") for r in body.splitlines()))
    assert as_dict(read_program_tsv(write(tmp_path / "c.tsv", turned))) == expected


@pytest.mark.parametrize("corner", ["gene\t", ""])
def test_binary_matrix_with_and_without_corner(tmp_path, corner):
    path = write(tmp_path / "a.tsv", f"{corner}P\tQ\tR\nA\t1\t0\t0\nB\t1.0\t1\t0\nA\t0\t1\t0\n")
    assert as_dict(read_binary_matrix(path)) == {"P": ("A", "B"), "Q": ("B", "A"), "R": ()}


def test_the_layout_is_told_from_the_content(tmp_path):
    gmt = write(tmp_path / "a.txt", "S\td\tA\tB\nT\td\tA\n")
    table = write(tmp_path / "b.txt", "S\tA\nS\tB\nT\tA\n")
    matrix = write(tmp_path / "c.txt", "gene\tS\tT\nA\t1\t1\nB\t1\t0\n")
    named = write(tmp_path / "d.txt", "gene\tw\tprogram\nA\t2\tS\nB\t1\tS\nA\t1\tT\n")
    for path in (gmt, table, matrix, named):
        assert as_dict(read_gene_sets(path)) == {"S": ("A", "B"), "T": ("A",)}


@given(st.lists(st.sampled_from(["A", "B", "A__2", "A__3", "A__2__2"]), max_size=12))
def test_names_become_unique_and_first_comers_keep_theirs(names):
    sets = unique_sets(GeneSet(name, ()) for name in names)
    result = [one.name for one in sets]
    assert len(set(result)) == len(result)
    for at, name in enumerate(names):
        assert (result[at] == name) == (name not in names[:at])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_give_sets_or_an_input_error(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    for form in ("auto", "gmt", "tsv", "matrix"):
        try:
            sets = read_gene_sets(tmp_path / "a.txt", form)
        except InputError:
            continue
        assert sets
