"""The training recordings are aligned once, at the beginning of an epoch, and cut in the pauses between words."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from hf_asr.data.dataset import SpeechDataset
from hf_asr.data.splicing import FILE, Cuts, SplicingArguments
from hf_asr.decoding.recognizer import Recognizer
from hf_asr.training import plateau
from hf_asr.training.splicing import StartSplicing, _cuts, find_cuts

from .test_resuming import run

RATE = 16000


@pytest.fixture
def off_plateau(monkeypatch) -> None:
    """The plateau is left at the first step."""
    for name, value in {"LEFT_PLATEAU": 100.0, "MEASURED_EVERY": 1, "NUM_MEASUREMENTS": 1}.items():
        monkeypatch.setattr(plateau, name, value)


def test_a_cut_is_at_the_quietest_place_between_two_words():
    """Words are spoken from 0 to 0.5, 0.6 to 0.65, and 0.7 to 1.2 s; the short one in the middle is not cut off."""
    waveform = np.zeros(round(1.3 * RATE), np.float32)
    for start, end in ((0.0, 0.5), (0.6, 0.65), (0.7, 1.2)):
        waveform[round(start * RATE) : round(end * RATE)] = 0.1
    words = [{"word": "ab", "start_offset": 0, "end_offset": 2}, {"word": "c", "start_offset": 3, "end_offset": 4}]
    long = _cuts(waveform, words, [2, 1], times=[0.1, 0.4, 0.5, 0.8], sampling_rate=RATE)
    assert long[:, 1:].tolist() == [[0, 0], [3, 2], [4, 3]]  # labels, of which one is the space, and phonemes
    assert long[0, 0] == 0 and 0.5 < long[1, 0] / RATE < 0.6 and long[2, 0] == len(waveform)
    words = [{"word": word, "start_offset": i, "end_offset": i + 1} for i, word in enumerate("abc")]
    short = _cuts(waveform, words, [1, 1, 1], times=[0.4, 0.62, 0.8], sampling_rate=RATE)
    assert len(short) == 4  # from one pause to the next it is long enough
    short = _cuts(waveform[: round(0.66 * RATE)], words, [1, 1, 1], times=[0.4, 0.58, 0.64], sampling_rate=RATE)
    assert short[:, 1].tolist() in ([0, 3], [0, 1, 3])


def test_cuts_belong_to_words_and_not_to_unusable_recordings(tmp_path, tiny_model, processor):
    texts = ("the quick brown fox", "把空调调到", "jumps over", "the dog")
    rows = [{"audio": {"bytes": None, "path": str(tmp_path / f"{i}.wav")}, "text": text, "utterance_id": str(i)}
            for i, text in enumerate(texts)]  # fmt: skip
    noise = np.random.default_rng(0).normal(scale=0.1, size=(3, 3 * RATE)).astype(np.float32)
    for i, samples in enumerate((noise[0], noise[1], noise[2][: RATE // 10])):  # the third one is too short
        soundfile.write(tmp_path / f"{i}.wav", samples, RATE)
    (tmp_path / "3.wav").write_bytes(b"no audio")
    labels = [processor.tokenizer(text)["input_ids"] for text in texts]
    dataset = SpeechDataset(datasets.Dataset.from_list(rows), processor=processor, labels=labels)
    recognizer = Recognizer(tiny_model, processor)
    found = find_cuts(recognizer, dataset, range(4), show_progress=False)
    assert [len(cuts) > 1 for cuts in found] == [True, True, False, False]
    decode = processor.tokenizer.decode
    for cuts, own, text in zip(found, labels, texts, strict=False):
        if len(cuts):
            assert cuts[-1].tolist() == [3 * RATE, len(own), 0] and (np.diff(cuts[:, 0]) > 0).all()
            pieces = [decode(own[a:b], group_tokens=False) for a, b in zip(cuts[:, 1], cuts[1:, 1], strict=False)]
            assert (" " if text.isascii() else "").join(pieces) == text
    assert [cuts.tolist() for cuts in find_cuts(recognizer, dataset, [1], show_progress=False)] == [found[1].tolist()]


@pytest.mark.parametrize(
    ("left_at", "warm_start", "steps", "expected"),
    [
        (None, None, [0, 50, 1000], None),  # still on the plateau
        (100, None, [0, 350, 400, 450], 400),
        (101, None, [0, 350, 400, 450], 450),
        (100, 1000, [400, 1250, 1300], 1300),  # it may have been left on synthetic speech, before any recording
        (390, None, [692, 700], 700),  # resumed in the middle of an epoch that has begun too early
    ],
)
def test_splicing_starts_with_the_first_epoch_that_begins_late_enough(left_at, warm_start, steps, expected):
    """Epochs have 50 steps, and splicing starts 300 steps after the plateau."""
    started = []
    splicing = SplicingArguments(after_steps=300)
    trainer = SimpleNamespace(
        plateau=SimpleNamespace(left_at=left_at),
        warm_start=warm_start and SimpleNamespace(arguments=SimpleNamespace(steps=warm_start)),
        splicing=SimpleNamespace(arguments=splicing, cuts=None, num_sources=1, utterances=[None]),
    )

    def start_splicing() -> None:
        trainer.splicing.cuts = Cuts([])
        started.append(state.global_step)

    trainer.start_splicing = start_splicing
    callback = StartSplicing(trainer, 50)
    for step in steps:
        state = SimpleNamespace(global_step=step)
        callback.on_epoch_begin(None, state, None)
    assert started == [expected] * (expected is not None)


def test_splicing_is_part_of_checkpoints(corpus, tmp_path, off_plateau, caplog):
    caplog.set_level("INFO", logger="hf_asr")
    run(corpus, tmp_path / "run", splicing={"after_steps": 1}, max_steps=8, max_batch_seconds=40)
    started = [record.message for record in caplog.records if "examples are spliced" in record.message]
    assert len(started) == 1
    step = int(started[0].split()[1].strip(":"))
    assert step >= 2 and started[0].endswith("40 of 40 recordings")
    have = {number: (tmp_path / "run" / f"checkpoint-{number}" / FILE).is_file() for number in (2, 4, 6, 8)}
    assert have == {number: number > step for number in have} or have == {number: number >= step for number in have}
    assert load_file(tmp_path / "run" / "checkpoint-8" / FILE)["counts"].shape == (40,)
    modes = {path.stat().st_mode for path in (tmp_path / "run" / "checkpoint-8").glob("*.*") if path.is_file()}
    assert len(modes) == 1  # safetensors alone lets only the owner read
    assert not (tmp_path / "run" / FILE).exists()


def test_a_run_that_ends_before_splicing_says_so(corpus, tmp_path, caplog):
    run(corpus, tmp_path / "run", splicing={"after_steps": 1}, max_steps=2)
    assert "splicing has not started: no epoch" in caplog.text


@pytest.mark.parametrize("option", ["streaming", "dataloader_persistent_workers"])
def test_what_does_not_work_with_splicing_is_refused(corpus, tmp_path, option):
    more = {"dataloader_num_workers": 1} if option == "dataloader_persistent_workers" else {}
    with pytest.raises(ValueError, match="splicing works neither with streaming nor"):
        run(corpus, tmp_path / "run", splicing={}, **{option: True}, **more)
