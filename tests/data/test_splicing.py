"""Spliced examples have the samples, labels and phonemes of their pieces in one order, and replace utterances."""

import itertools
from functools import partial

import datasets
import numpy as np
import pytest
import soundfile

from hf_asr.data.concatenation import ConcatenatedDataset, ConcatenationArguments
from hf_asr.data.dataset import SpeechDataset
from hf_asr.data.splicing import FADE, NO_CUTS, Cuts, SplicedDataset, SplicingArguments
from hf_asr.families import pad_to_labels

RATE = 16000
TEXTS = ("the quick brown fox", "the lazy dog's tail", "把空调调到二十六度", "jumps")
SECONDS = (2.0, 2.0, 4.5, 0.3)


def words_of(text: str) -> list[str]:
    return text.split() if text.isascii() else list(text)


LEVELS = {  # of the samples of each word: 0.01, 0.02 …
    word: number / 100
    for number, word in enumerate(dict.fromkeys(word for text in TEXTS for word in words_of(text)), start=1)
}


@pytest.fixture
def utterances(tmp_path, processor, tiny_model) -> SpeechDataset:
    """Utterances whose words are equally long, and whose samples are those of `LEVELS`; a word has two phonemes."""
    rows, labels, phonemes = [], [], []
    for i, (seconds, text) in enumerate(zip(SECONDS, TEXTS, strict=True)):
        path, words = tmp_path / f"{i}.wav", words_of(text)
        samples = np.repeat([LEVELS[word] for word in words], round(RATE * seconds / len(words)))
        soundfile.write(path, samples.astype(np.float32), RATE, subtype="FLOAT")
        rows.append({"audio": {"bytes": None, "path": str(path)}, "text": text, "utterance_id": str(i)})
        labels.append(processor.tokenizer(text)["input_ids"])
        phonemes.append([round(100 * LEVELS[word]) for word in words for _ in range(2)])
    fits = partial(pad_to_labels, config=tiny_model.config)
    rows = datasets.Dataset.from_list(rows)
    return SpeechDataset(rows, processor=processor, pad_to_labels=fits, labels=labels, phonemes=phonemes)


def spliced(utterances: SpeechDataset, dataset=None, **options) -> SplicedDataset:
    arguments = SplicingArguments(**{"share": 1.0, "min_words": 1, "max_words": 3} | options)
    return SplicedDataset(dataset or utterances, arguments, utterances=utterances, durations=SECONDS, seed=0)


@pytest.fixture
def cuts(utterances) -> Cuts:
    """The ends of all words, and none in the last utterance."""
    found = []
    for seconds, labels in zip(SECONDS[:3], utterances.labels, strict=False):
        words = utterances.processor.tokenizer.decode(labels, group_tokens=False, output_word_offsets=True)
        starts = [word["start_offset"] for word in words["word_offsets"]] + [len(labels)]
        samples = np.linspace(0, RATE * seconds, len(starts)).astype(int)
        found.append(np.stack([samples, starts, 2 * np.arange(len(starts))], 1).astype(np.int32))
    return Cuts([*found, NO_CUTS])


def spoken(waveform: np.ndarray) -> list[str]:
    """Return the words whose samples a waveform has, without repetitions."""
    words, fade = {round(level * 100): word for word, level in LEVELS.items()}, round(FADE * RATE)
    numbers = np.round(waveform * 100).astype(int)
    borders = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    long = [numbers[start] for start, end in zip(borders, borders[1:], strict=False) if end - start > 2 * fade]
    return [words[number] for number, _ in itertools.groupby(number for number in long if number)]


def test_nothing_is_spliced_before_the_recordings_are_aligned(utterances):
    dataset = spliced(utterances)
    assert all(np.array_equal(dataset[1, i]["waveform"], utterances[1, i]["waveform"]) for i in range(len(TEXTS)))


def test_samples_labels_and_phonemes_are_in_the_same_order(utterances, cuts, processor):
    dataset, texts = spliced(utterances), set()
    dataset.start(cuts)
    for epoch in range(20):
        example = dataset[epoch, 2]
        words = processor.tokenizer.decode(example["labels"], group_tokens=False, output_word_offsets=True)
        words = [word["word"] for word in words["word_offsets"]]
        assert [word for word, _ in itertools.groupby(words)] == spoken(example["waveform"])
        assert example["labels"] == processor.tokenizer(" ".join(words))["input_ids"]
        assert example["phoneme_ids"] == [round(100 * LEVELS[word]) for word in words for _ in range(2)]
        assert len(words) > 2 and len(example["waveform"]) <= SECONDS[2] * RATE
        texts.add(" ".join(words))
    assert len(texts) == 20 and not texts & set(TEXTS)


def test_an_example_depends_on_seed_epoch_and_index_alone(utterances, cuts):
    first, again = spliced(utterances), spliced(utterances)
    first.start(cuts)
    again.start(cuts)
    for index in range(3):
        one, other = first[5, index], again[5, index]
        assert np.array_equal(one["waveform"], other["waveform"]) and one["labels"] == other["labels"]


def test_the_share_of_the_utterances_is_replaced(utterances, cuts):
    dataset = spliced(utterances, share=0.25)
    dataset.start(cuts)
    changed = [dataset[epoch, 0]["labels"] != utterances.labels[0] for epoch in range(400)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize(("rarity", "share"), [(0, 0.5), (1, 0.25)])
def test_rare_words_are_drawn_more_often(utterances, rarity, share):
    """Three utterances say "jumps", and one says "dog"."""
    for i in range(3):
        utterances.labels[i] = utterances.processor.tokenizer(TEXTS[3])["input_ids"]
    utterances.labels[3] = utterances.processor.tokenizer("the lazy dog")["input_ids"]
    dataset = spliced(utterances, rarity=rarity, max_words=1)
    ends = [[0, 5]] * 3 + [[0, 4, 9, 12]]
    dataset.start(Cuts([np.array([[RATE * end // 20, end, 0] for end in own], np.int32) for own in ends]))
    drawn = [dataset._draw(np.random.default_rng(i), samples=RATE // 4) for i in range(400)]
    assert np.mean([pieces[0][0] < 3 for pieces in drawn]) == pytest.approx(share, abs=0.06)


def test_an_utterance_that_is_shorter_than_all_pieces_stays(utterances, cuts):
    dataset = spliced(utterances)
    dataset.start(cuts)
    assert dataset[0, 3]["labels"] == utterances.labels[3]


def test_an_utterance_stays_if_a_recording_has_become_unreadable(utterances, cuts, tmp_path):
    dataset = spliced(utterances)
    dataset.start(cuts)
    for i in range(2):
        (tmp_path / f"{i}.wav").write_bytes(b"no audio")
    cuts.rows[2] = NO_CUTS
    dataset.start(cuts)
    assert dataset[0, 2]["labels"] == utterances.labels[2]


def test_concatenated_utterances_are_not_spliced(utterances, cuts):
    arguments = ConcatenationArguments(share=0.5, max_seconds=8, max_gap_seconds=0.5)
    concatenated = ConcatenatedDataset(utterances, arguments, durations=SECONDS, seed=0)
    dataset = spliced(utterances, concatenated)
    dataset.start(cuts)
    assert len(dataset) == len(concatenated) > len(utterances)
    last = len(dataset) - 1
    assert dataset[0, last]["labels"] == concatenated[0, last]["labels"]
    assert dataset[0, 2]["labels"] != concatenated[0, 2]["labels"]


def test_stored_cuts_are_the_same(utterances, cuts, tmp_path):
    assert Cuts.load(tmp_path, utterances.labels) is None
    cuts.save(tmp_path)
    stored = Cuts.load(tmp_path, utterances.labels)
    assert len(stored.rows) == len(cuts.rows)
    assert all(np.array_equal(one, other) for one, other in zip(cuts.rows, stored.rows, strict=True))


def test_stored_cuts_of_other_recordings_are_not_used(utterances, cuts, tmp_path):
    """Their pieces would have the labels of other words."""
    cuts.save(tmp_path)
    labels = list(utterances.labels)
    assert Cuts.load(tmp_path, labels[:3]) is None and Cuts.load(tmp_path, [*labels[1:], labels[0]]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share must be more than 0 and at most 1, not 0"),
        ({"min_words": 7}, r"min_words must be 1 or more and at most max_words \(6\), not 7"),
        ({"rarity": 1.5}, "rarity must be from 0 to 1, not 1.5"),
        ({"after_steps": -1}, "after_steps must be 0 or more, not -1"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SplicingArguments(**options)
