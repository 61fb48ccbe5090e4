import gzip
import itertools
import math
import random

import pytest
import torch

from hf_asr.decoding.arpa import read_arpa
from hf_asr.decoding.ngram_table import build_table, perplexity
from hf_asr.decoding.ngram_training import choose_units, split_units, train_ngrams

SENTENCES = ["the cat sat on the mat", "the cat is sad", "a sad cat sat", "that is the best mat", "it is the best cat"]


def read_text(path) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def test_units_of_a_text():
    assert split_units("打开 wifi 吧", units="characters") == [*"打开▁wifi▁吧"]
    assert split_units("打开wifi吧 <s> it's", units="words") == ["打", "开", "wifi", "吧", "it's"]


@pytest.mark.parametrize(
    ("texts", "units"),
    [(["the cat sat"], "words"), (["今天天气很好", "打开空调"], "characters"), (["ねこがすき"], "characters")],
)
def test_units_are_chosen_by_the_spaces(texts, units):
    assert choose_units(texts) == units


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_probabilities_after_any_context_sum_to_one(order, tmp_path):
    generator = random.Random(0)
    units = [f"unit{i}" for i in range(60)]
    sentences = [generator.choices(units, k=generator.randint(1, 9)) for _ in range(200)]
    train_ngrams(sentences, tmp_path / "lm.arpa.gz", order=order)
    arpa = read_arpa(tmp_path / "lm.arpa.gz")
    table = build_table(arpa)
    places = torch.tensor([place for place, unit in enumerate(arpa.units) if unit != "<s>"])
    contexts = torch.arange(table.longest)[:, None]
    log_probs, _ = table.extend(contexts.expand(-1, len(places)), places.expand(len(contexts), -1))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(len(contexts)), atol=1e-4, rtol=0)


def test_a_round_trip_has_the_perplexity_by_hand(tmp_path):
    sentences = [sentence.split() for sentence in SENTENCES]
    ngrams = train_ngrams(sentences, tmp_path / "lm.arpa.gz", order=2)
    text = read_text(tmp_path / "lm.arpa.gz")
    assert text.startswith("\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(ngrams, 1)))
    assert not list(tmp_path.glob("*.partial*"))
    probs, back_offs = {}, {}
    for line in text.splitlines():
        if "\t" in line:
            prob, ngram, *back_off = line.split("\t")
            probs[tuple(ngram.split())], back_offs[tuple(ngram.split())] = float(prob), float(*back_off or [0])
    total, known = 0.0, 0
    held_out = [["the", "cat", "sat"], ["a", "dog", "is", "sad"], [], ["best"]]
    for sentence in held_out:
        for before, unit in itertools.pairwise(["<s>", *sentence, "</s>"]):
            if (unit,) not in probs:
                continue
            known += 1
            backed_off = back_offs.get((before,), 0) + probs[unit,]
            total += probs.get((before, unit), backed_off)
    found = perplexity(read_arpa(tmp_path / "lm.arpa.gz"), held_out)
    assert found.value == pytest.approx(10 ** (-total / known), rel=1e-5)
    assert (found.units, found.unknown) == (8, 1)


def test_the_perplexity_of_a_uniform_model_is_its_number_of_units(tmp_path):
    lines = ["\\data\\", "ngram 1=5", "", "\\1-grams:", "-99\t<s>"]
    lines += [f"{math.log10(0.25):.7f}\t{unit}" for unit in ("</s>", "a", "b", "c")]
    (tmp_path / "lm.arpa").write_text("\n".join([*lines, "", "\\end\\", ""]))
    assert perplexity(read_arpa(tmp_path / "lm.arpa"), [["a", "c", "b"], ["b"]]).value == pytest.approx(4, rel=1e-5)


def test_ngrams_that_never_occur_twice_keep_a_probability(tmp_path):
    """Kneser-Ney's discount would be 1, and kaldingram would write 1e-99."""
    train_ngrams([["a", "b", "c"]], tmp_path / "lm.arpa.gz", order=3)
    probs = [line.split("\t")[0] for line in read_text(tmp_path / "lm.arpa.gz").splitlines() if "\t" in line]
    assert sum(float(prob) < -50 for prob in probs) == 1  # <s>


def test_training_is_reproducible(tmp_path):
    for name in ("one", "two"):
        train_ngrams([sentence.split() for sentence in SENTENCES], tmp_path / f"{name}.arpa.gz", order=3)
    assert (tmp_path / "one.arpa.gz").read_bytes() == (tmp_path / "two.arpa.gz").read_bytes()


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [([["a"]], 1, "order must be 2 or more, not 1"), ([[], []], 3, "there is nothing to train on")],
)
def test_nothing_to_train_is_an_error(sentences, order, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_ngrams(sentences, tmp_path / "lm.arpa.gz", order=order)
    assert not list(tmp_path.iterdir())
