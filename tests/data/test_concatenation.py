"""Examples of several utterances have their samples and words in order, and fit into the seconds of the sampler."""

import re
from functools import partial

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data import concatenation
from hf_asr.data.concatenation import ConcatenatedDataset, ConcatenationArguments
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.families import pad_to_labels
from hf_asr.model import ConformerFeatureExtractor, ConformerProcessor, ConformerTokenizer

RATE = 16000
SECONDS = (0.5, 1.0, 1.5, 2.0, 9.0)
WORDS = ("the", "quick", "brown", "fox", "jumps")


@pytest.fixture
def utterances(tmp_path, processor, tiny_model) -> SpeechDataset:
    """Utterances whose samples are all 0.1, 0.2 … of full scale."""
    rows = []
    for i, (seconds, word) in enumerate(zip(SECONDS, WORDS, strict=True)):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.full(round(RATE * seconds), (i + 1) / 10, np.float32), RATE, subtype="FLOAT")
        rows.append({"audio": {"bytes": None, "path": str(path)}, "text": word, "utterance_id": str(i)})
    fits = partial(pad_to_labels, config=tiny_model.config)
    return SpeechDataset(datasets.Dataset.from_list(rows), processor=processor, pad_to_labels=fits)


def concatenated(utterances: SpeechDataset, **options) -> ConcatenatedDataset:
    arguments = ConcatenationArguments(**{"share": 0.8, "max_seconds": 8, "max_gap_seconds": 0.5} | options)
    return ConcatenatedDataset(utterances, arguments, durations=SECONDS, seed=0)


def test_utterances_alone_are_unchanged_and_come_first(utterances):
    dataset = concatenated(utterances)
    for i in range(len(utterances)):
        assert np.array_equal(dataset[3, i]["waveform"], utterances[3, i]["waveform"])
    assert dataset.durations[: len(utterances)] == list(SECONDS)


def test_the_share_of_an_epoch_is_in_seconds(utterances):
    dataset = concatenated(utterances, share=0.99)
    more = [len(dataset[0, index]["waveform"]) / RATE for index in range(len(utterances), len(dataset))]
    assert sum(more) / (sum(more) + sum(SECONDS)) == pytest.approx(0.99, abs=0.001)
    assert len(concatenated(utterances, share=0.01)) == len(utterances) + 1  # a small corpus has at least one


def test_samples_and_words_are_in_the_same_order(utterances, processor, monkeypatch):
    monkeypatch.setattr(concatenation, "SILENT", 1.0)
    dataset = concatenated(utterances)
    orders = []
    for index in range(len(utterances), len(dataset)):
        example = dataset[0, index]
        levels = np.round(10 * example["waveform"]).astype(int)
        borders = np.flatnonzero(np.diff(levels, prepend=0))
        spoken = [level for level in levels[borders] if level]
        assert example["labels"] == processor.tokenizer(" ".join(WORDS[i - 1] for i in spoken))["input_ids"]
        assert 5 not in spoken  # the utterance of 9 s does not fit
        assert len(levels) == sum(round(RATE * SECONDS[i - 1]) for i in spoken) + np.sum(levels == 0)
        assert len(levels) <= 8 * RATE
        orders.append(tuple(spoken))
    assert len(set(orders)) > len(orders) / 2


@pytest.mark.parametrize(("words", "between"), [(["one", "two"], ""), (["はい", "いいえ"], ""), (["one", "a b"], "▁")])
def test_no_token_between_utterances_is_unknown(utterances, words, between):
    """A checkpoint of single words that was trained before has no space; Japanese has none either."""
    utterances.processor = ConformerProcessor(ConformerFeatureExtractor(), ConformerTokenizer.from_texts(words))
    texts = [words[i % 2] for i in range(len(utterances))]
    utterances.rows = utterances.rows.remove_columns("text").add_column("text", texts)
    tokens = utterances.processor.tokenizer.convert_ids_to_tokens
    dataset = concatenated(utterances)
    for index in range(len(utterances), len(dataset)):
        spelled = "".join(tokens(dataset[0, index]["labels"]))
        assert "<unk>" not in spelled
        assert spelled.replace("a▁b", "ab").count("▁") == bool(between) * (len(re.findall("one|a▁b", spelled)) - 1)


def test_examples_are_of_all_lengths_and_begin_and_end_with_pauses(utterances, processor, monkeypatch):
    """An utterance alone needs silence around it, too: a model of clips that are cut tightly writes letters into it."""
    monkeypatch.setattr(concatenation, "SILENT", 1.0)
    dataset = concatenated(utterances, share=0.99, max_gap_seconds=1.5)
    counts, pauses = [], []
    for index in range(len(utterances), len(dataset)):
        example, longest = dataset[0, index], dataset.durations[index]
        assert 1.5 <= len(example["waveform"]) / RATE <= longest <= 8
        spoken = np.flatnonzero(example["waveform"])
        pauses += [spoken[0] / RATE, (len(example["waveform"]) - 1 - spoken[-1]) / RATE]
        counts.append(len(processor.tokenizer.decode(example["labels"]).split()))
    assert min(counts) == 1 and max(counts) >= 5
    assert 1.3 < max(pauses) <= 1.5 and np.median(pauses) == pytest.approx(1.5 / 4, abs=0.1)


def test_an_example_depends_on_seed_epoch_and_index_alone(utterances):
    first, index = concatenated(utterances)[2, 7], 7
    again = concatenated(utterances)[2, index]
    assert np.array_equal(first["waveform"], again["waveform"]) and first["labels"] == again["labels"]
    assert not np.array_equal(concatenated(utterances)[3, index]["waveform"][:RATE], first["waveform"][:RATE])


def test_phonemes_are_in_the_order_of_the_words(utterances):
    ids = {word: [2 * number, 2 * number + 1] for number, word in enumerate(WORDS, start=1)}
    phonemes = [ids[text] for text in utterances.rows["text"]]
    spoken = SpeechDataset(utterances.rows, processor=utterances.processor, phonemes=phonemes)
    assert spoken[1]["phoneme_ids"] == ids["quick"]
    example = concatenated(spoken)[0, 7]
    words = utterances.processor.tokenizer.decode(example["labels"]).split()
    assert len(words) > 1 and example["phoneme_ids"] == [number for word in words for number in ids[word]]
    batch = SpeechCollator(utterances.processor)([spoken[1], example])
    assert batch["phoneme_ids"][0].tolist() == ids["quick"] + [-100] * (len(example["phoneme_ids"]) - 2)
    assert "phoneme_ids" not in utterances[1]


@pytest.mark.parametrize("level", [-60.0, -30.0])
def test_pauses_have_noise_below_the_quietest_utterance(utterances, monkeypatch, level):
    monkeypatch.setattr(concatenation, "SILENT", 0.0)
    monkeypatch.setattr(concatenation, "NOISE_DB", (level, level))
    example = concatenated(utterances)[0, 6]
    words = utterances.processor.tokenizer.decode(example["labels"]).split()
    quietest = min(WORDS.index(word) + 1 for word in words) / 10
    noise = example["waveform"][example["waveform"] < quietest / 2]
    assert noise.std() == pytest.approx(quietest * 10 ** (level / 20), rel=0.1)


def test_an_unreadable_utterance_has_neither_samples_nor_words(utterances, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(b"no audio")
    example = concatenated(utterances)[0, 6]
    assert example["labels"] == [] and np.abs(example["waveform"]).max() < 0.1


def test_utterances_that_are_all_too_long_are_not_concatenated(utterances, caplog):
    assert len(concatenated(utterances, max_seconds=0.4, max_gap_seconds=0.05)) == len(utterances)
    assert "concatenation has no effect: no utterance has at most 0.3 s" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [({"share": 1.0}, "share must be between 0 and 1"), ({"max_gap_seconds": 4}, "less than a quarter of max_seconds")],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConcatenationArguments(**options)
