"""The scores of language models equal a back-off in plain Python (Katz 1987), for units of all kinds."""

import dataclasses
import itertools
import json
import math
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ParakeetTokenizer, Wav2Vec2CTCTokenizer

from hf_asr import ConformerTokenizer
from hf_asr.decoding.language_model import TokenLanguageModel, WordLanguageModel, read_language_model
from hf_asr.families import as_conformer_tokenizer
from hf_asr.scoring.metrics import split_words

ENGLISH = ["the cat sat on the mat", "a cat's tale is a sad one", "that mat is the best one", "the best cat is at home"]
MANDARIN = ["把空调调到二十六度", "今天天气很好", "打开空调"]
WEIGHT, BONUS = 0.7, 0.4


class Reference:
    """Back-off over a dict of n-grams."""

    def __init__(self, ngrams: dict[tuple[str, ...], tuple[float, float]]):
        self.ngrams = ngrams
        self.order = max(map(len, ngrams))
        self.floor = min(prob for ngram, (prob, _) in ngrams.items() if len(ngram) == 1 and prob > -99) - 1

    def log10(self, history: tuple[str, ...], unit: str) -> float:
        unit = unit if (unit,) in self.ngrams else "<unk>"
        history = tuple(unit if (unit,) in self.ngrams else "<unk>" for unit in history)
        history = history[max(0, len(history) - self.order + 1) :]
        if (*history, unit) in self.ngrams:
            return self.ngrams[*history, unit][0]
        if not history:
            return self.floor  # no <unk> in the model
        return self.ngrams.get(history, (0, 0))[1] + self.log10(history[1:], unit)

    def score(self, units: list[str]) -> float:
        """The fused score of whole sentences."""
        units = ["<s>", *units, "</s>"]
        log10 = sum(self.log10(tuple(units[:place]), units[place]) for place in range(1, len(units)))
        return WEIGHT * math.log(10) * log10 + BONUS * (len(units) - 2)

    def write(self, path) -> str:
        orders = [[ngram for ngram in self.ngrams if len(ngram) == n + 1] for n in range(self.order)]
        lines = ["\\data\\", *(f"ngram {n}={len(ngrams)}" for n, ngrams in enumerate(orders, 1))]
        for n, ngrams in enumerate(orders, 1):
            lines += ["", f"\\{n}-grams:"]
            for ngram in ngrams:
                prob, back_off = self.ngrams[ngram]
                lines.append(f"{prob:.6f}\t{' '.join(ngram)}" + (f"\t{back_off:.6f}" if n < self.order else ""))
        path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
        return str(path)


def random_model(units, *, order: int, seed: int = 0, has_unknown: bool = True, size: int = 200) -> Reference:
    """Random n-grams with their contexts; some lack shorter n-grams, as after pruning."""
    generator = random.Random(seed)
    units = sorted({*units})
    special = ["<s>", "</s>"] + ["<unk>"] * has_unknown
    ngrams = {(unit,): (-99.0 if unit == "<s>" else -3 * generator.random(), 0.0) for unit in [*special, *units]}
    for _ in range(size):
        length = generator.randint(2, order) if order > 1 else 1
        ngram = tuple(generator.choices(units, k=length))
        ngram = ("<s>",) * (generator.random() < 0.2) + ngram[:-1] + (ngram[-1],)
        ngram = ngram[:order] if generator.random() < 0.8 or order == 1 else (*ngram[: order - 1], "</s>")
        for stop in range(2, len(ngram) + 1):
            ngrams.setdefault(ngram[:stop], (-2 * generator.random(), 0.0))
    rounded = {
        ngram: (round(prob, 6), round(generator.random() - 0.8, 6) if len(ngram) < order else 0.0)
        for ngram, (prob, _) in ngrams.items()
    }
    return Reference(rounded)


def read(reference: Reference, tokenizer, tmp_path):
    return read_language_model(reference.write(tmp_path / "lm.arpa"), tokenizer, weight=WEIGHT, bonus=BONUS)


def scores_of(scorer, tokens: list[int]) -> list[float]:
    """What each token and the end of the recording add."""
    state, scores = scorer.start()[None], []
    for token in tokens:
        added, states = scorer.step(state, torch.tensor([[token]]))
        scores.append(added.item())
        state = states[:, 0]
    return [*scores, scorer.finish(state).item()]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> dict[str, ConformerTokenizer]:
    folder = tmp_path_factory.mktemp("wav2vec2")
    letters = sorted(set("".join(ENGLISH)) - {" "})
    names = ["<pad>", "<s>", "</s>", "<unk>", "|", *(letter.upper() for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(names)}))
    pieces = {token: i for i, token in enumerate(["<unk>", "▁", *letters, "▁t", "▁th", "▁the", "at", "▁c", "▁cat"])}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("a", "t"), ("▁", "c"), ("▁c", "at")]
    backend = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace("▁")
    parakeet = ParakeetTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    return {
        "characters": ConformerTokenizer.from_texts(ENGLISH, text_normalization="en"),
        "mixed": ConformerTokenizer.from_texts(ENGLISH + MANDARIN, text_normalization="zh-en"),
        "mandarin": ConformerTokenizer.from_texts(MANDARIN, text_normalization="zh"),
        "pieces": ConformerTokenizer.from_texts(
            ENGLISH + MANDARIN, kind="bpe", vocab_size=80, text_normalization="zh-en"
        ),
        "wav2vec2": as_conformer_tokenizer(
            Wav2Vec2CTCTokenizer(str(folder / "vocab.json")), blank_id=0, text_normalization="en"
        ),
        "parakeet": as_conformer_tokenizer(
            parakeet, blank_id=parakeet.convert_tokens_to_ids("<pad>"), text_normalization="en"
        ),
    }


def random_tokens(tokenizer, generator: random.Random) -> list[int]:
    """Texts with known and unknown words, doubled spaces, and any other tokens."""
    if generator.random() < 0.5:
        return generator.choices(range(len(tokenizer)), k=generator.randint(0, 15))
    words = " ".join(ENGLISH + MANDARIN).split()
    tokens = tokenizer(" ".join(generator.choices(words, k=generator.randint(1, 8))))["input_ids"]
    space = tokenizer.convert_tokens_to_ids("▁")
    return tokens + [space, space] * (space != tokenizer.unk_token_id) * generator.randint(0, 1) + tokens


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("has_unknown", [True, False])
@pytest.mark.parametrize("name", ["characters", "mandarin", "pieces", "wav2vec2", "parakeet"])
def test_tokens_have_the_scores_of_back_off(name, order, has_unknown, vocabularies, tmp_path):
    tokenizer = vocabularies[name]
    silent = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    known = [token for token in sorted(tokenizer.get_vocab()) if token not in tokenizer.all_special_tokens]
    reference = random_model(known[:3] + known[4:], order=order, has_unknown=has_unknown)
    scorer = read(reference, tokenizer, tmp_path)
    assert isinstance(scorer, TokenLanguageModel)
    generator = random.Random(1)
    for _ in range(10):
        tokens = random_tokens(tokenizer, generator)
        names = tokenizer.convert_ids_to_tokens(tokens)
        history, expected = ["<s>"], []
        for token, unit in zip(tokens, names, strict=True):
            if token in silent or unit == "▁" and ("▁",) not in reference.ngrams:
                expected.append(0.0)
                continue
            expected.append(WEIGHT * math.log(10) * reference.log10(tuple(history), unit) + BONUS)
            history.append(unit)
        expected.append(WEIGHT * math.log(10) * reference.log10(tuple(history), "</s>"))
        assert scores_of(scorer, tokens) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("has_unknown", [True, False])
@pytest.mark.parametrize("name", ["characters", "mixed", "pieces", "wav2vec2", "parakeet"])
def test_words_have_the_scores_of_back_off(name, order, has_unknown, vocabularies, tmp_path):
    tokenizer = vocabularies[name]
    words = split_words(" ".join(ENGLISH[:3] + MANDARIN[:2])).split()
    reference = random_model(words, order=order, has_unknown=has_unknown)
    scorer = read(reference, tokenizer, tmp_path)
    assert isinstance(scorer, WordLanguageModel)
    generator = random.Random(1)
    for _ in range(20):
        tokens = random_tokens(tokenizer, generator)
        text = tokenizer.decode(tokens, group_tokens=False).replace(tokenizer.unk_token, "\ufffd")
        assert sum(scores_of(scorer, tokens)) == pytest.approx(reference.score(split_words(text).split()), abs=1e-4)


def test_a_word_is_scored_when_it_ends(vocabularies, tmp_path):
    tokenizer = vocabularies["mixed"]
    reference = random_model(["the", "cat", "空", "sat"], order=2)
    scores = scores_of(read(reference, tokenizer, tmp_path), tokenizer("the cat空")["input_ids"])
    ends = {3, 7}  # the space; the Han character, which ends the word before it and is a word itself
    assert [place for place, score in enumerate(scores) if score] == [*sorted(ends), len(scores) - 1]


@pytest.mark.parametrize("name", ["characters", "mixed"])
def test_a_batch_has_the_scores_of_its_hypotheses(name, vocabularies, tmp_path):
    """Any states, any tokens: the same values alone and together."""
    tokenizer = vocabularies[name]
    words = split_words(" ".join(ENGLISH + MANDARIN)).split()
    units = words if name == "mixed" else sorted(tokenizer.get_vocab())[3:]
    scorer = read(random_model(units, order=3, size=2000), tokenizer, tmp_path)
    states = scorer.start().expand(8, -1)
    for _ in range(10):
        tokens = torch.randint(len(tokenizer), (8, 5))
        scores, after = scorer.step(states, tokens)
        assert scores.shape == (8, 5) and scores.dtype == torch.float32
        assert after.shape == (8, 5, len(scorer.start())) and after.dtype == torch.int64
        for m, k in itertools.product(range(8), range(5)):
            one, state = scorer.step(states[m : m + 1], tokens[m : m + 1, k : k + 1])
            torch.testing.assert_close(one[0, 0], scores[m, k])
            assert torch.equal(state[0, 0], after[m, k])
        states = after[torch.arange(8), torch.randint(5, (8,))]
    ends = scorer.finish(states)
    assert ends.shape == (8,) and ends.dtype == torch.float32


@pytest.mark.parametrize("order", [2, 3, 5])
def test_scores_equal_those_of_kenlm(order, vocabularies, tmp_path):
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from flashlight.lib.text.dictionary import Dictionary

    tokenizer = vocabularies["mandarin"]
    characters = [token for token in sorted(tokenizer.get_vocab()) if len(token) == 1]
    reference = random_model(characters[1:], order=order, size=100)
    for ngram in list(reference.ngrams):  # KenLM changes the weights of models that lack a shorter n-gram
        for start in range(1, len(ngram)):
            reference.ngrams.setdefault(ngram[start:], (-1.25, -0.5))
    scorer = read(reference, tokenizer, tmp_path)
    dictionary = Dictionary([*characters, "unknown"])
    theirs = kenlm.KenLM(str(tmp_path / "lm.arpa"), dictionary)
    generator = random.Random(0)
    for _ in range(20):
        text = generator.choices(characters, k=20)
        state, expected = theirs.start(False), []
        for character in text:
            state, log10 = theirs.score(state, dictionary.get_index(character))
            expected.append(WEIGHT * math.log(10) * log10 + BONUS)
        expected.append(WEIGHT * math.log(10) * theirs.finish(state)[1])
        tokens = tokenizer.convert_tokens_to_ids(text)
        assert scores_of(scorer, tokens) == pytest.approx(expected, abs=1e-4)


def test_a_space_that_the_language_model_lacks_adds_nothing(vocabularies, tmp_path):
    tokenizer = ConformerTokenizer.from_texts(["空调 打开"], text_normalization="none")
    reference = random_model("空调打开", order=2)
    scorer = read(reference, tokenizer, tmp_path)
    with_space, without = (tokenizer(text)["input_ids"] for text in ("空调 打开", "空调打开"))
    assert scores_of(scorer, with_space)[2] == 0
    assert sum(scores_of(scorer, with_space)) == pytest.approx(sum(scores_of(scorer, without)), abs=1e-5)


@pytest.mark.parametrize("space", ["▁", "<space>", "|"])
def test_names_of_the_space(space, vocabularies, tmp_path):
    reference = random_model([*"abcdehilmnost'", space], order=2)
    scorer = read(reference, vocabularies["characters"], tmp_path)
    tokens = vocabularies["characters"]("a cat")["input_ids"]
    assert sum(scores_of(scorer, tokens)) == pytest.approx(reference.score(["a", space, *"cat"]), abs=1e-4)


def test_a_foreign_word_is_one_unknown_unit_for_a_language_model_of_han_characters(vocabularies, tmp_path):
    tokenizer = vocabularies["mixed"]
    reference = random_model("把空调调到二十六度今天", order=3)
    tokens = tokenizer("把 cat 空调")["input_ids"]
    expected = reference.score(["把", "cat", "空", "调"])
    assert sum(scores_of(read(reference, tokenizer, tmp_path), tokens)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["characters", "wav2vec2"])
def test_units_are_normalised_as_transcripts(name, vocabularies, tmp_path):
    tokenizer = vocabularies[name]
    reference = random_model(["THE", "Cat's", "MAT,", "mat", "home"], order=2)
    tokens = tokenizer("the cat's mat")["input_ids"]
    expected = reference.score(["THE", "Cat's", "mat"])  # `mat` needs no normalisation, so it precedes MAT
    assert sum(scores_of(read(reference, tokenizer, tmp_path), tokens)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "units", "message"),
    [
        ("characters", ["привет", "мир", "как"], "no unit in common with the vocabulary"),
        ("mandarin", [*"абвг"], "no unit in common with the vocabulary"),
        ("pieces", [*"aceh"], "its units are letters, and the vocabulary has longer pieces"),
        ("pieces", ["▁mat", "ters", "▁bes", "▁hom", "▁son", "▁dat"], "most are no tokens of this vocabulary"),
        ("mandarin", ["空调", "今天", "天气", "很"], "words of several Han characters"),
    ],
)
def test_a_language_model_of_another_vocabulary_is_refused(name, units, message, vocabularies, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        read(random_model(units, order=2), vocabularies[name], tmp_path)
    assert str(error.value).startswith(str(tmp_path / "lm.arpa"))


@pytest.mark.parametrize("units", [[*"abcdehilmnost"], ["the", "cat", "sat"]])
def test_other_weights_and_devices_are_copies(units, vocabularies, tmp_path):
    tokenizer = vocabularies["characters"]
    scorer = read(random_model(units, order=2), tokenizer, tmp_path)
    tokens = tokenizer("the cat")["input_ids"]
    plain, double = (dataclasses.replace(scorer, weight=weight, bonus=0.0) for weight in (1, 2))
    assert scores_of(double, tokens) == pytest.approx([2 * score for score in scores_of(plain, tokens)], abs=1e-5)
    meta = torch.device("meta")
    assert [one.on(meta).weight for one in (scorer, plain, double)] == [WEIGHT, 1, 2]
    assert scorer.on(meta) is scorer.on(meta) and scorer.on(meta).table.keys.device == meta
    assert scorer.on(torch.device("cpu")) is scorer


@pytest.mark.parametrize("units", [[*"abcdehilmnost"], ["the", "cat", "sat"]])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_by_default_a_language_model_without_information_changes_no_score(units, weight, vocabularies, tmp_path):
    """All units are equally probable, which is the entropy at its largest: without a bonus, the shortest text wins."""
    tokenizer = vocabularies["characters"]
    log10_prob = -math.log10(len(units) + 1)
    reference = Reference({("<s>",): (-99.0, 0.0)} | {(unit,): (log10_prob, 0.0) for unit in ["</s>", *units]})
    path = reference.write(tmp_path / "lm.arpa")
    scorer = read_language_model(path, tokenizer, weight=weight)
    assert scorer.table.entropy == pytest.approx(math.log(len(units) + 1), abs=1e-5)
    assert scorer.bonus == pytest.approx(weight * scorer.table.entropy)
    scores = scores_of(scorer, tokenizer("the cat")["input_ids"])
    assert sum(scores) == pytest.approx(-scorer.bonus, abs=1e-4)  # of the end alone, which each text has
    assert read_language_model(path, tokenizer, weight=weight, bonus=0.0).bonus == 0


def test_a_vocabulary_with_a_token_of_several_words(tmp_path):
    """A piece such as `▁of▁the` ends a word inside itself, and two Han characters are two words."""
    vocabulary = {"<blk>": 0, "<unk>": 1, "<sos/eos>": 2, "▁of▁the": 3, "▁cat": 4, "今天": 5, "s": 6}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer = ConformerTokenizer(
        tokenizer_object=backend, pad_token="<blk>", unk_token="<unk>", bos_token="<sos/eos>", eos_token="<sos/eos>"
    )
    reference = random_model(["of", "the", "cat", "cats", "今", "天"], order=3)
    scorer = read(reference, tokenizer, tmp_path)
    expected = reference.score(["cats", "of", "the", "今", "天", "cat"])
    assert sum(scores_of(scorer, [4, 6, 3, 5, 4])) == pytest.approx(expected, abs=1e-4)
