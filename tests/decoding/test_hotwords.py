import json
import random
import re

import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer

from hf_asr import ConformerTokenizer
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.hotwords import (
    MAX_CHARACTERS,
    MAX_HOTWORD_CHARACTERS,
    MAX_HOTWORDS,
    Hotword,
    HotwordCompiler,
    Hotwords,
    check_limits,
    named_hotwords,
    parse_hotwords,
)
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.families import as_conformer_tokenizer


def tokenizer_of(*texts: str, kind: str = "char", rule: str = "zh-en", vocab_size: int = 1000) -> ConformerTokenizer:
    return ConformerTokenizer.from_texts(texts, kind=kind, text_normalization=rule, vocab_size=vocab_size)


@pytest.fixture(scope="module")
def tokenizer() -> ConformerTokenizer:
    return tokenizer_of("abc bca don't", "你好 吗")


def totals(scorer: Hotwords, hotwords, tokens: list[int]) -> list[float]:
    """What a hypothesis has gained after each of its tokens, and at its end."""
    state, total, found = scorer.start(hotwords), 0.0, []
    for token in tokens:
        gains, states = scorer.step(state[None], torch.tensor([[token]]))
        state, total = states[0, 0], total + gains.item()
        found.append(total)
    return [*found, total + scorer.finish(state[None]).item()]


def totals_of_text(phrases: dict[str, float], text: str, tokenizer) -> list[float]:
    hotwords = HotwordCompiler(tokenizer).compile([Hotword(*item) for item in phrases.items()])
    tokens = tokenizer.convert_tokens_to_ids([character.replace(" ", "▁") for character in text])
    return totals(Hotwords([hotwords]), hotwords, tokens)


def with_boundaries(text: str) -> str:
    """The text with # for the boundaries of words."""
    return re.sub("#+", "#", "#" + re.sub("([你好吗])", r"#\1#", text).replace(" ", "#"))


def expected_totals(phrases: dict[str, float], text: str) -> list[float]:
    """The same by comparing all phrases with all parts of the text."""
    marked = {re.sub("#+", "#", with_boundaries(phrase) + "#"): boost for phrase, boost in phrases.items()}

    def complete(read: str) -> float:
        return sum(
            boost * len(phrase.replace("#", ""))
            for phrase, boost in marked.items()
            for start in range(len(read))
            if read.startswith(phrase, start)
        )

    def pending(read: str) -> float:
        for start in range(len(read)):
            begun = read[start:]
            if any(phrase.startswith(begun) for phrase in marked):
                ended = max([0, *(len(phrase) for phrase in marked if begun.startswith(phrase))])
                boosts = [
                    max([0.0, *(boost for phrase, boost in marked.items() if phrase.startswith(begun[:end]))])
                    for end in range(ended + 1, len(begun) + 1)
                    if begun[end - 1] != "#"
                ]
                return sum(boosts)
        return 0.0

    after = [with_boundaries(text[:end]) for end in range(1, len(text) + 1)]
    return [*(complete(read) + pending(read) for read in after), complete(with_boundaries(text + " "))]


@pytest.mark.parametrize("seed", range(60))
def test_totals_are_those_of_a_comparison_with_every_part_of_the_text(seed, tokenizer):
    random.seed(seed)
    letters = random.choice(["ab", "ab ", "你好", "ab 你好", "abc你 '"])

    def word(least: int, most: int) -> str:
        return "".join(random.choices(letters, k=random.randint(least, most)))

    normalized = {tokenizer.normalize(word(1, 5)): random.choice([0.5, 1.0, 2.0, -1.5]) for _ in range(6)}
    phrases = {phrase: boost for phrase, boost in normalized.items() if phrase}
    for _ in range(20):
        text = word(1, 14)
        assert totals_of_text(phrases, text, tokenizer) == pytest.approx(expected_totals(phrases, text)), text


@pytest.mark.parametrize(
    ("text", "total"),
    [("HEHERSHE", 14), ("HERSHE", 12), ("HISHE", 9), ("SHED", 6), ("HELL", 2), ("HELLO", 7), ("DHRHISQ", 4)],
)
def test_sums_are_those_of_icefalls_context_graph(text, total):
    phrases = ["S", "HE", "SHE", "SHELL", "HIS", "HERS", "HELLO", "THIS", "THEM"]
    tokenizer = tokenizer_of("".join(sorted(set("".join(phrases) + "DQ"))), rule="none")  # has no space: no words
    assert totals_of_text(dict.fromkeys(phrases, 1.0), text, tokenizer)[-1] == total


def test_each_token_of_a_phrase_gains_and_a_failed_match_loses(tokenizer):
    assert totals_of_text({"你好吗": 2.0}, "吗你好吗你", tokenizer) == [0, 2, 4, 6, 8, 6]
    assert totals_of_text({"你好吗": 2.0}, "你好你", tokenizer) == [2, 4, 2, 0]


def test_a_phrase_inside_another_one_stays_when_the_longer_one_fails(tokenizer):
    assert totals_of_text({"你好吗": 1.0, "好": 3.0}, "你好你", tokenizer) == [1, 5, 4, 3]


def test_a_shared_beginning_gives_the_larger_boost(tokenizer):
    assert totals_of_text({"你好": 1.0, "你吗": 3.0}, "你好", tokenizer) == [3, 2, 2]


def test_a_phrase_matches_whole_words_only(tokenizer):
    bonus = {"ab": 1.0}
    assert totals_of_text(bonus, "ab", tokenizer) == [1, 2, 2]
    assert totals_of_text(bonus, "abc", tokenizer) == [1, 2, 0, 0]
    assert totals_of_text(bonus, "cab", tokenizer) == [0, 0, 0, 0]
    assert totals_of_text(bonus, "c ab c", tokenizer)[-1] == 2
    assert totals_of_text(bonus, "ab'", tokenizer)[-1] == 0


def test_a_phrase_matches_anywhere_between_han_characters(tokenizer):
    assert totals_of_text({"好吗": 1.0}, "你好吗你", tokenizer)[-1] == 2
    assert totals_of_text({"ab": 1.0}, "你ab好", tokenizer)[-1] == 2


def test_a_negative_boost_counts_when_the_phrase_is_complete(tokenizer):
    assert totals_of_text({"ab": -1.0}, "ab c", tokenizer) == [0, 0, -2, -2, -2]
    assert totals_of_text({"ab": -1.0}, "abc", tokenizer) == [0, 0, 0, 0]


def test_pieces_of_bpe_match_whole_words():
    texts = ["the party has art", "art party"] * 5
    tokenizer = tokenizer_of(*texts, kind="bpe", vocab_size=40)
    hotwords = HotwordCompiler(tokenizer).compile([Hotword("art", 1.0)])
    scorer, count = Hotwords([hotwords]), len(tokenizer("art").input_ids)
    encoded = {text: tokenizer(text).input_ids for text in ("the art has", "party", "art", "the party has art")}
    gained = {text: totals(scorer, hotwords, tokens)[-1] for text, tokens in encoded.items()}
    assert gained == {"the art has": count, "party": 0, "art": count, "the party has art": count}


def test_a_special_token_breaks_a_phrase(tokenizer):
    hotwords = HotwordCompiler(tokenizer).compile([Hotword("ab", 1.0)])
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    assert totals(Hotwords([hotwords]), hotwords, [a, tokenizer.unk_token_id, b]) == [1, 0, 0, 0]


def test_joined_sets_score_as_each_alone(tokenizer):
    random.seed(0)
    compiler = HotwordCompiler(tokenizer)
    words = ["".join(random.choices("abc", k=random.randint(1, 4))) for _ in range(12)]
    sets = [compiler.compile([Hotword(word, i + 1.0) for word in words[i::3]]) for i in range(3)]
    sets = [*sets, compiler.compile([]), sets[1]]
    joined = Hotwords(sets)
    texts = torch.randint(3, len(tokenizer), (len(sets), 30))
    states = torch.stack([joined.start(each) for each in sets])
    for tokens in texts.split(1, dim=1):
        gains, after = joined.step(states, tokens)
        for i, hotwords in enumerate(sets):
            alone = Hotwords([hotwords])
            own_gains, own_after = alone.step(states[i : i + 1] - joined.offset(hotwords), tokens[i : i + 1])
            assert torch.equal(gains[i], own_gains[0])
            assert torch.equal(after[i], own_after[0] + joined.offset(hotwords))
            assert torch.equal(joined.finish(after[i]), alone.finish(own_after[0]))
        states = after[:, 0]


def test_many_tokens_at_once_score_as_one_by_one(tokenizer):
    hotwords = HotwordCompiler(tokenizer).compile(parse_hotwords("ab, abc, 你好, b", 1.0))
    scorer, everything = Hotwords([hotwords]), torch.arange(len(tokenizer))
    states = torch.arange(len(hotwords.rows))[:, None]
    gains, after = scorer.step(states, everything.expand(len(states), -1))
    assert gains.dtype == torch.float32 and after.shape == (len(states), len(tokenizer), 1)
    for token in everything.tolist():
        alone = scorer.step(states, torch.full((len(states), 1), token))
        assert torch.equal(gains[:, token], alone[0][:, 0]) and torch.equal(after[:, token], alone[1][:, 0])


def test_a_set_is_compiled_once(tokenizer):
    compiler = HotwordCompiler(tokenizer)
    assert compiler.compile([Hotword("ab")]) is compiler.compile([Hotword("ab")])


def test_no_hotwords_and_none_that_can_be_spelled_are_an_empty_set(tokenizer):
    compiler = HotwordCompiler(tokenizer)
    assert compiler.compile([]).is_empty
    hotwords = compiler.compile(parse_hotwords("xyz,!?"))
    assert hotwords.is_empty
    assert totals(Hotwords([hotwords]), hotwords, [5, 6]) == [0, 0, 0]


def test_what_the_vocabulary_cannot_spell_is_reported_by_name(tokenizer):
    hotwords = HotwordCompiler(tokenizer).compile(parse_hotwords("ab,axbz,!?,你们"))
    assert hotwords.remarks == (
        "the hotword 'axbz' is left out: the vocabulary has no 'xz'",
        "the hotword '!?' is left out: nothing of it is left after normalisation",
        "the hotword '你们' is left out: the vocabulary has no '们'",
    )
    assert not hotwords.is_empty
    english = HotwordCompiler(tokenizer_of("mpthre", rule="en")).compile(parse_hotwords("3,mp3,mé,me th"))
    assert english.remarks == (
        "the hotword 'mp3' is left out: the vocabulary has no '3'",
        "the hotword 'me th' is left out: the vocabulary has no ' '",
    )


def test_hotwords_are_normalized_and_the_last_of_two_equal_ones_counts(tokenizer):
    phrases = {"AB!": 5.0, "ａｂ": 1.0}
    assert totals_of_text(phrases, "ab", tokenizer)[-1] == 2


def test_a_hotword_longer_than_the_recording_gives_nothing(tokenizer):
    assert totals_of_text({"abcabcabc": 4.0}, "abc", tokenizer) == [4, 8, 12, 0]
    assert totals_of_text({"abcabcabc": 4.0}, "", tokenizer) == [0]


def test_text_and_lists_of_hotwords():
    expected = [Hotword("new york", 1.5), Hotword("你好", 1.5)]
    assert parse_hotwords(" new york,, 你好 ,", 1.5) == parse_hotwords("new york，你好", 1.5) == expected
    assert parse_hotwords(["a,b\t3", "", "c"], 1.5) == [Hotword("a,b", 3.0), Hotword("c", 1.5)]
    assert parse_hotwords("") == parse_hotwords([]) == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # the latter is Excel's "Unicode text"
def test_a_file_of_hotwords(tmp_path, encoding):
    path = tmp_path / "hotwords.txt"
    path.write_text("# names\nnew york\t3\n\n  \n你好\na,b\t-1e0\n", encoding=encoding)
    assert parse_hotwords(path, 1.5) == [Hotword("new york", 3.0), Hotword("你好", 1.5), Hotword("a,b", -1.0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b\tmuch", "the boost of 'b' must be a number, not 'much'"),
        ("b\tnan", "the boost of a hotword must be a number from -100 to 100, not nan"),
        ("b\tinf", "from -100 to 100, not inf"),
        ("b\t1\t2", r"the boost of 'b' must be a number, not '1\t2'"),
        ("\t2", "there is a boost without a phrase"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, line, message):
    path = tmp_path / "hotwords.txt"
    path.write_text(f"# comment\na\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        parse_hotwords(path)
    assert str(caught.value).startswith(f"{path}, line 3: ") and message in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing.txt cannot be read"):
        parse_hotwords(tmp_path / "nothing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="binary.txt cannot be read"):
        parse_hotwords(tmp_path / "binary.txt")


def test_the_option_of_a_command_is_a_file_or_phrases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("ab\nbc\t3\n")
    assert named_hotwords("names", 1.0) == [Hotword("ab", 1.0), Hotword("bc", 3.0)]
    assert named_hotwords("AC/DC, names", 1.0) == [Hotword("AC/DC", 1.0), Hotword("names", 1.0)]
    with pytest.raises(ValueError, match="missing.txt cannot be read"):
        named_hotwords("missing.txt")


def test_options_need_a_beam_search_and_a_sensible_boost():
    assert DecodingArguments(decoding="beam", hotwords="a", hotword_boost=-1.0).hotwords == "a"
    with pytest.raises(ValueError, match="hotwords is not an option of greedy decoding: give --decoding beam"):
        DecodingArguments(hotwords="a").resolved({})
    with pytest.raises(ValueError, match=r"hotwords must be the path of a file, or phrases .* 'a,b', not \['a'\]"):
        DecodingArguments(decoding="beam", hotwords=["a"])
    with pytest.raises(ValueError, match="the boost of a hotword must be a number from -100 to 100, not inf"):
        DecodingArguments(decoding="beam", hotword_boost=float("inf"))


@pytest.fixture
def beam(tiny_model, processor) -> Recognizer:
    return Recognizer(tiny_model, processor, arguments=DecodingArguments(decoding="beam"))


NOISE = torch.randn(32000, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()


def test_hotwords_of_a_recognizer_change_its_text(beam, tiny_model, processor, caplog):
    plain, phrase = beam.transcribe(NOISE), "调空"  # of tokens that the model finds probable
    arguments = DecodingArguments(decoding="beam", hotwords=f"{phrase},日本", hotword_boost=20.0)
    recognizer = Recognizer(tiny_model, processor, arguments=arguments)
    assert caplog.messages == ["the hotword '日本' is left out: the vocabulary has no '日本'"]
    transcript = recognizer.transcribe(NOISE)
    assert transcript.text.count(phrase) > plain.text.count(phrase)
    other = beam.with_hotwords([Hotword(phrase, 20.0)])
    assert other.transcribe(NOISE).text == transcript.text and beam.transcribe(NOISE).text == plain.text
    assert (
        beam.with_hotwords([f"{phrase}\t20"]).hotwords == beam.with_hotwords(f"{phrase}\t20").hotwords == other.hotwords
    )
    assert recognizer.with_hotwords([phrase]).hotwords == other.hotwords  # with the boost of the arguments


def test_an_empty_set_changes_no_score_of_others_in_the_batch(beam):
    generator = torch.Generator().manual_seed(1)
    kept = [beam.decoder.keep(torch.randn(40, 30, generator=generator).log_softmax(-1)) for _ in range(3)]
    sets = [[], parse_hotwords("a,b,你", 3.0), []]
    together = [beam.begin(own) for own in sets]
    beam.decoder.advance(together, kept)
    for search, own, window in zip(beam.decoder.finish(together), sets, kept, strict=True):
        alone = [beam.begin(own)]
        beam.decoder.advance(alone, [window])
        (expected,) = beam.decoder.finish(alone)
        assert search[0].tokens == expected[0].tokens and search[0].score == pytest.approx(expected[0].score)


def test_greedy_decoding_takes_no_hotwords(tiny_model, processor):
    with pytest.raises(ValueError, match="greedy decoding does not use hotwords: choose --decoding beam"):
        Recognizer(tiny_model, processor).with_hotwords([Hotword("a")])


def test_words_of_wav2vec2(tmp_path):
    characters = "|etaonihsrdlumwcfgypbvkxjqz'"
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *characters.upper()])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    own = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", word_delimiter_token="|")
    tokenizer = as_conformer_tokenizer(own, blank_id=0, text_normalization="basic")
    hotwords = HotwordCompiler(tokenizer).compile([Hotword("Art", 1.0)])
    scorer = Hotwords([hotwords])
    for text, total in (("art", 3), ("the art of", 3), ("party", 0), ("arts", 0)):
        assert totals(scorer, hotwords, tokenizer(text).input_ids)[-1] == total


def test_hotwords_of_a_request_are_bounded():
    check_limits([Hotword("a" * 10)] * MAX_HOTWORDS)
    with pytest.raises(ValueError, match=f"at most {MAX_HOTWORDS} hotwords"):
        check_limits([Hotword("a")] * (MAX_HOTWORDS + 1))
    with pytest.raises(ValueError, match=f"at most {MAX_HOTWORD_CHARACTERS} characters"):
        check_limits([Hotword("a" * (MAX_HOTWORD_CHARACTERS + 1))])
    with pytest.raises(ValueError, match=f"at most {MAX_CHARACTERS} characters together"):
        check_limits([Hotword("a" * MAX_HOTWORD_CHARACTERS)] * (MAX_CHARACTERS // MAX_HOTWORD_CHARACTERS + 1))
