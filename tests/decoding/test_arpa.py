import gzip

import numpy as np
import pytest

from hf_asr.decoding.arpa import read_arpa
from hf_asr.decoding.ngram_table import build_table

ARPA = """A comment before the data.
\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-2.0\t<unk>\t-0.1
-0.5\ta\t-0.2
-0.6\tb\t-0.4

\\2-grams:
-0.2\t<s> a\t-0.25
-0.3\ta b
-0.7\tb </s>
-0.8\ta a

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


def written(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def read(path):
    """Both steps find damage."""
    return build_table(read_arpa(path))


def test_all_orders_are_read_with_their_lines(tmp_path):
    arpa = read_arpa(written(tmp_path / "a.arpa", ARPA))
    assert arpa.units == ["<s>", "</s>", "<unk>", "a", "b"]
    assert [ngrams.units.tolist() for ngrams in arpa.orders[1:]] == [[[0, 3], [3, 4], [4, 1], [3, 3]], [[0, 3, 4]]]
    assert arpa.orders[1].log10_probs.tolist() == [-0.2, -0.3, -0.7, -0.8]
    assert arpa.orders[1].log10_back_offs.tolist() == [-0.25, 0.0, 0.0, 0.0]
    lines = ARPA.splitlines()
    assert [lines[line - 1] for line in arpa.orders[1].lines] == lines[14:18]


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\t", " ")])
def test_line_ends_and_blanks_may_differ(change, tmp_path):
    expected = read_arpa(written(tmp_path / "a.arpa", ARPA))
    (tmp_path / "b.arpa").write_bytes(change(ARPA).encode())
    found = read_arpa(tmp_path / "b.arpa")
    assert found.units == expected.units
    for one, other in zip(found.orders, expected.orders, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_a_gzip_file_is_read_whatever_its_name(tmp_path):
    (tmp_path / "lm").write_bytes(gzip.compress(ARPA.encode()))
    assert read_arpa(tmp_path / "lm").units == ["<s>", "</s>", "<unk>", "a", "b"]


def test_a_file_is_read_in_slices(tmp_path, monkeypatch):
    expected = read_arpa(written(tmp_path / "a.arpa", ARPA))
    monkeypatch.setattr("hf_asr.decoding.arpa._SLICE", 20)
    found = read_arpa(tmp_path / "a.arpa")
    assert [ngrams.lines.tolist() for ngrams in found.orders] == [ngrams.lines.tolist() for ngrams in expected.orders]
    assert found.units == expected.units


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "line 1: not an ARPA file: no line is \\data\\"),
        ("\\3-grams:\n-0.1\t<s> a b\n\n\\end\\\n", "\\3-grams:\n-0.1\t<s>", "line 21: cut short: no line \\end\\"),
        ("\\end\\\n", "", "line 21: cut short: no line \\end\\"),
        ("ngram 2=4", "ngram 2=5", "line 14: 4 2-grams follow, but \\data\\ counts 5"),
        ("ngram 2=4", "ngram 2:4", "line 4: 'ngram 2=COUNT' is expected, not 'ngram 2:4'"),
        ("ngram 3=1\n", "", "line 19: \\end\\ is expected, not '\\\\3-grams:'"),
        ("\\2-grams:", "\\4-grams:", "line 14: \\2-grams: is expected, not '\\\\4-grams:'"),
        ("-0.3\ta b\n", "-0.3\ta b a c\n", "line 16: '-0.3\\ta b a c': a 2-gram has a log10 probability, 2 units and"),
        ("-0.3\ta b\n", "-0.3\ta\n", "line 16: '-0.3\\ta': a 2-gram has"),
        ("-0.3\ta b\n", "zero\ta b\n", "line 16: 'zero\\ta b': 'zero' is not a number"),
        ("-0.3\ta b\n", "nan\ta b\n", "line 16: 'nan\\ta b': 'nan' is not a number"),
        ("-0.3\ta b\n", "0.3\ta b\n", "line 16: '0.3\\ta b': a log10 probability is 0 or less"),
        ("-0.3\ta b\n", "-0.3\ta c\n", "line 16: '-0.3\\ta c': a unit of it is not a unigram of the file"),
        ("-0.3\ta b\n", "-0.3\ta a\n", "line 18: the n-gram occurs a second time"),
        ("-0.6\tb", "-0.6\ta", "line 12: '-0.6\\ta\\t-0.4': the unigram occurs a second time"),
        ("-0.1\t<s> a b", "-0.1\tb a b", "line 21: the n-gram without its last unit is missing"),
    ],
)
def test_damage_is_one_line_with_file_and_line(old, new, message, tmp_path):
    assert old in ARPA
    with pytest.raises(ValueError) as error:
        read(written(tmp_path / "a.arpa", ARPA.replace(old, new, 1)))
    assert str(error.value).startswith(f"{tmp_path / 'a.arpa'}, {message}") and "\n" not in str(error.value)


def test_a_file_that_is_cut_short_anywhere_is_an_error(tmp_path):
    data = ARPA.encode()
    for stop in range(len(data) - 2):
        (tmp_path / "a.arpa").write_bytes(data[:stop])
        with pytest.raises(ValueError, match="line [0-9]+: (cut short|not an ARPA file)"):
            read(tmp_path / "a.arpa")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"mmap lm http://kheafield.com/code format version 5\n\0", "line 1: a binary file of KenLM"),
        (gzip.compress(ARPA.encode())[:-20], "the gzip file is damaged or cut short"),
        (b"", "line 1: not an ARPA file"),
        (bytes(range(256)), "line 1: not an ARPA file"),
        (ARPA.encode().replace(b"\tb\t", b"\t\xff\t"), "line 12: .*: the unit is not in UTF-8"),
    ],
    ids=["kenlm", "gzip", "empty", "binary", "latin"],
)
def test_other_files_are_refused(data, message, tmp_path):
    (tmp_path / "a.arpa").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.arpa")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.arpa cannot be read: No such file"):
        read_arpa(tmp_path / "none.arpa")
