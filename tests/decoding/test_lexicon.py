"""A beam search with a lexicon writes its entries only, in any order, and the most probable ones."""

import itertools
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_asr import ConformerTokenizer
from hf_asr.decoding.arguments import DecodingArguments
from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.decoders import build_decoder
from hf_asr.decoding.hotwords import Hotword
from hf_asr.decoding.lexicon import Lexicon, build_lexicon, named_lexicon
from hf_asr.decoding.prefix_search import IMPOSSIBLE
from hf_asr.decoding.recognizer import Recognizer

ENTRIES = ["ab", "abc", "c a", "bb", "你好", "你", "好吗吗"]


def tokenizer_of(*texts: str, kind: str = "char", rule: str = "zh-en", vocab_size: int = 1000) -> ConformerTokenizer:
    return ConformerTokenizer.from_texts(texts, kind=kind, text_normalization=rule, vocab_size=vocab_size)


@pytest.fixture(scope="module")
def tokenizer() -> ConformerTokenizer:
    return tokenizer_of("abc bca", "你好 吗")


def is_accepted(lexicon: Lexicon, tokens: list[int]) -> bool:
    state, gain = lexicon.start()[None], 0.0
    for token in tokens:
        gains, states = lexicon.step(state, torch.tensor([[token]]))
        state, gain = states[0], gain + gains.item()
    return gain + lexicon.finish(state).item() == 0


def ids(text: str, tokenizer) -> list[int]:
    return tokenizer.convert_tokens_to_ids([character.replace(" ", "▁") for character in text])


def log_probs_of(tokens: list[int], tokenizer, *, probability: float = 0.9, seed: int = 0) -> torch.Tensor:
    """Return frames that alternate between blank and a token, which is the most probable one by far."""
    size = len(tokenizer.get_vocab())
    logits = 0.1 * torch.randn(2 * len(tokens) + 1, size, generator=torch.Generator().manual_seed(seed))
    best = [tokenizer.pad_token_id] * len(logits)
    best[1::2] = tokens
    logits[range(len(best)), best] += torch.tensor(probability * size).log() - torch.tensor(1 - probability).log()
    return logits.log_softmax(-1)


def decode(decoder: BeamDecoder, *windows: torch.Tensor, is_partial: bool = False) -> list[int]:
    search = decoder.begin()
    for window in windows:
        decoder.advance([search], [decoder.keep(window)])
    return decoder.finish([search], is_partial=is_partial)[0][0].tokens


def decoder_of(entries: list[str], tokenizer, **options) -> BeamDecoder:
    return BeamDecoder(tokenizer.pad_token_id, scorers=[build_lexicon(entries, tokenizer)], **options)


# What it accepts


def test_texts_of_entries_are_accepted_and_no_others(tokenizer):
    """Compared with a regular expression, # for the boundaries of words."""

    def marked(text: str) -> str:
        return re.sub("#+", "#", "#" + re.sub("([你好吗])", r"#\1#", text).replace(" ", "#") + "#")

    pattern = re.compile("#(" + "|".join(marked(entry)[1:] for entry in ENTRIES) + ")*")
    lexicon, generator = build_lexicon(ENTRIES, tokenizer), random.Random(0)
    accepted = 0
    for _ in range(4000):
        parts = generator.choices([*ENTRIES, *"abc你好吗"], k=generator.randint(0, 4))
        joints = [generator.choice(["", " "]) for _ in parts]
        text = "".join(itertools.chain(*zip(parts, joints, strict=True))).strip()
        if re.search("[你好吗] | [你好吗]", text):  # a space between two characters of one entry is none of it
            continue
        expected = pattern.fullmatch(marked(text)) is not None
        assert is_accepted(lexicon, ids(text, tokenizer)) == expected, text
        accepted += expected
    assert accepted > 200


def test_an_entry_of_several_words_is_accepted_as_a_whole_only(tokenizer):
    lexicon = build_lexicon(["c a", "bb"], tokenizer)
    assert is_accepted(lexicon, ids("c a bb c a", tokenizer))
    assert not is_accepted(lexicon, ids("c", tokenizer))
    assert not is_accepted(lexicon, ids("a bb", tokenizer))


def test_each_segmentation_into_pieces_is_accepted():
    """Compared with a regular expression on the texts of random pieces."""
    entries, texts = ["ab", "abc", "c a", "bb"], ["abc ab ab abc bb c a bab cab", "ca bc aab bba ab abc"] * 5
    tokenizer = tokenizer_of(*texts, kind="bpe", vocab_size=20)
    lexicon, generator = build_lexicon(entries, tokenizer), random.Random(0)
    pieces = tokenizer.convert_ids_to_tokens(lexicon.tokens.tolist())
    assert max(map(len, pieces)) > 2
    pattern, accepted = re.compile(f"( ?({'|'.join(entries)})(?= |$))*"), 0
    for _ in range(4000):
        tokens = generator.choices(lexicon.tokens.tolist(), k=generator.randint(0, 4))
        text = "".join(tokenizer.convert_ids_to_tokens(tokens)).replace("▁", " ")
        assert is_accepted(lexicon, tokens) == (pattern.fullmatch(text) is not None), text
        accepted += text != "" and is_accepted(lexicon, tokens)
    assert accepted > 50


def test_entries_follow_one_another_directly_in_a_vocabulary_without_a_space():
    lexicon = build_lexicon(["ab", "c"], tokenizer := tokenizer_of("abc"))
    assert is_accepted(lexicon, ids("abcab", tokenizer))
    assert not is_accepted(lexicon, ids("aab", tokenizer))


def test_entries_are_normalised_as_transcripts(tokenizer):
    assert is_accepted(build_lexicon(["AB!", "你好。"], tokenizer), ids("ab", tokenizer))


def test_thousands_of_entries_need_few_transitions():
    """Any entry can follow any other one in Mandarin, without transitions for each pair."""
    characters = [chr(0x4E00 + i) for i in range(1000)]
    generator = random.Random(0)
    entries = ["".join(generator.choices(characters, k=3)) for _ in range(3000)]
    lexicon = build_lexicon(entries, tokenizer := tokenizer_of("".join(characters)))
    assert len(lexicon.keys) < 20_000
    assert is_accepted(lexicon, ids(entries[0] + entries[1], tokenizer))
    assert not is_accepted(lexicon, ids(entries[0] + entries[1][:2], tokenizer))


# What the search finds


@pytest.mark.parametrize("seed", range(5))
def test_the_most_probable_sequence_of_entries_is_found(tokenizer, seed):
    size, blank = len(tokenizer.get_vocab()), tokenizer.pad_token_id
    log_probs = (2 * torch.randn(6, size, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    texts = {" ".join(parts) for count in range(3) for parts in itertools.product(["ab", "abc", "c a"], repeat=count)}
    candidates = [ids(text, tokenizer) for text in texts if len(text) <= 6]
    losses = {
        tuple(tokens): F.ctc_loss(log_probs, torch.tensor(tokens), (6,), (len(tokens),), blank, "sum").item()
        if tokens
        else -log_probs[:, blank].sum().item()
        for tokens in candidates
    }
    decoder = decoder_of(["ab", "abc", "c a"], tokenizer, beam_size=100, skip_blank=1.0)
    assert tuple(decode(decoder, log_probs)) == min(losses, key=losses.get)


def test_a_word_that_is_nearly_an_entry_becomes_it_although_its_tokens_are_not_among_the_best():
    """Only the lexicon's tokens are tried, so that a small beam finds them in a large vocabulary."""
    tokenizer = tokenizer_of("abcdefghijklmnopqrstuvwxyz one")
    log_probs = log_probs_of(ids("oxy", tokenizer), tokenizer)
    assert decode(BeamDecoder(tokenizer.pad_token_id, beam_size=3), log_probs) == ids("oxy", tokenizer)
    assert decode(decoder_of(["one"], tokenizer, beam_size=3), log_probs) == ids("one", tokenizer)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 10])
def test_speech_that_is_no_entry_still_gives_entries(beam_size):
    """None of the best tokens of a frame may be possible."""
    tokenizer = tokenizer_of("abcdefghijklmnopqrstuvwxyz one")
    entries = ["zero", "one", "two", "three", "jazz", "exit", "quick"]
    decoder = decoder_of(entries, tokenizer, beam_size=beam_size)
    for seed in range(20):
        size = len(tokenizer.get_vocab())
        log_probs = (3 * torch.randn(40, size, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
        text = tokenizer.decode(decode(decoder, log_probs), group_tokens=False)
        assert re.fullmatch(f"(({'|'.join(entries)})( |$))*", text.strip()), text


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_windows_are_searched_as_the_whole_recording(tokenizer, cut):
    log_probs = log_probs_of(ids("abcb a", tokenizer), tokenizer, probability=0.5)
    decoder = decoder_of(ENTRIES, tokenizer)
    assert decode(decoder, log_probs[:cut], log_probs[cut:]) == decode(decoder, log_probs) != []


def test_an_entry_that_the_end_of_the_recording_cuts_is_partial_text_only(tokenizer):
    decoder = decoder_of(["bb", "c a"], tokenizer)
    log_probs = log_probs_of(ids("bb c", tokenizer), tokenizer, probability=0.9999999)
    assert decode(decoder, log_probs, is_partial=True) == ids("bb c", tokenizer)
    assert decode(decoder, log_probs) == ids("bb", tokenizer)


def test_a_recording_without_speech_has_no_text(tokenizer):
    assert decode(decoder_of(ENTRIES, tokenizer), log_probs_of([], tokenizer)) == []
    assert decode(decoder_of(ENTRIES, tokenizer), torch.zeros(0, len(tokenizer.get_vocab()))) == []


def test_hotwords_choose_among_the_entries(tokenizer):
    decoder = build_decoder("beam", tokenizer, None, scorers=[build_lexicon(["ab", "abc"], tokenizer)])
    log_probs = log_probs_of(ids("ab", tokenizer), tokenizer)
    for hotwords, expected in ([], "ab"), ([Hotword("abc", 10.0)], "abc"), ([Hotword("ca", 10.0)], "ab"):
        search = decoder.begin(hotwords)
        decoder.advance([search], [decoder.keep(log_probs)])
        assert decoder.finish([search])[0][0].tokens == ids(expected, tokenizer)


# How it is given


def test_a_lexicon_is_a_list_or_a_file(tmp_path):
    assert named_lexicon(" one, two words ,三，四") == ["one", "two words", "三", "四"]
    path = tmp_path / "words.tsv"
    path.write_text("# numbers\none\t17\n\ntwo words\t3\n", encoding="utf-16")
    assert named_lexicon(str(path)) == ["one", "two words"]
    with pytest.raises(ValueError, match=r"the lexicon .*missing.txt cannot be read"):
        named_lexicon(str(tmp_path / "missing.txt"))


def test_entries_that_cannot_be_spelled_are_left_out_with_a_remark(tokenizer):
    lexicon = build_lexicon(["ab", "xyz", "!"], tokenizer)
    assert lexicon.remarks == (
        "the entry 'xyz' is left out: the vocabulary lacks a character of it",
        "the entry '!' is left out: nothing of it is left after normalisation",
    )
    with pytest.raises(ValueError, match="no entry that the vocabulary can spell; the entry 'xyz'"):
        build_lexicon(["xyz"], tokenizer)


@pytest.mark.parametrize("decoding", ["greedy", "attention_rescoring", "attention"])
def test_it_needs_a_beam_search(decoding):
    with pytest.raises(ValueError, match=f"lexicon is not an option of {decoding} decoding: give --decoding beam"):
        DecodingArguments(lexicon="one", decoding=decoding).resolved({})


def test_a_long_list_is_no_file_name():
    assert named_lexicon("，".join(["打开客厅的灯"] * 20)) == ["打开客厅的灯"] * 20
    assert named_lexicon("a" * 300) == ["a" * 300]


def test_an_empty_lexicon_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the lexicon is empty"):
        build_lexicon([], tokenizer)


def test_impossible_tokens_are_no_transition(tokenizer):
    lexicon = build_lexicon(["ab"], tokenizer)
    gains, states = lexicon.step(lexicon.start()[None], torch.tensor([ids("ab", tokenizer)]))
    assert gains.tolist() == [[0.0, pytest.approx(IMPOSSIBLE)]]
    assert states.shape == (1, 2, 1)


def test_a_recogniser_writes_entries_only(tiny_model, processor, caplog):
    arguments = DecodingArguments(decoding="beam", lexicon="two three,!")
    recognizer = Recognizer(tiny_model, processor, arguments=arguments)
    assert "the entry '!' is left out" in caplog.text
    waveforms = [0.1 * np.random.default_rng(seed).standard_normal(16000).astype(np.float32) for seed in range(3)]
    texts = [each.text for each in recognizer.transcribe(waveforms)]
    assert all(re.fullmatch("(two three ?)*", text) for text in texts)
    assert texts != [each.text for each in Recognizer(tiny_model, processor).transcribe(waveforms)]
