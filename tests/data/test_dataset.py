import json
from functools import partial

import datasets
import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from hf_asr import ConformerFeatureExtractor, ConformerProcessor
from hf_asr.data.augment import build_augmentation
from hf_asr.data.batching import DurationBatchSampler
from hf_asr.data.dataset import SpeechCollator, SpeechDataset, feature_statistics
from hf_asr.data.inspection import TokenIds, inspect, write_findings
from hf_asr.data.report import report_data
from hf_asr.data.sources import Source
from hf_asr.families import pad_to_labels, required_samples


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * 3).astype(np.float32)
    soundfile.write(folder / "good.wav", noise, 16000)
    soundfile.write(folder / "short.wav", noise[:12000], 16000)
    soundfile.write(folder / "long.wav", np.tile(noise, 3), 16000)
    whole = (folder / "good.wav").read_bytes()
    soundfile.write(folder / "whole.flac", noise, 16000)
    (folder / "truncated.flac").write_bytes((folder / "whole.flac").read_bytes()[:2000])
    (folder / "text.wav").write_text("no audio")
    assert len(whole) > 2000
    files = {
        "good.wav": "the dog",
        "short.wav": "the quick brown fox jump",
        "long.wav": "fox",
        "truncated.flac": "the dog",
        "text.wav": "the dog",
        "missing.wav": "the dog",
        "good.wav#empty": "?!",
        "good.wav#far": "the quick brown fox jumps over the lazy dog " * 6,
    }
    return datasets.Dataset.from_list(
        [
            {"audio": {"bytes": None, "path": str(folder / name.split("#")[0])}, "text": text, "utterance_id": name}
            for name, text in files.items()
        ]
    )


def test_every_row_is_kept_or_reported(rows, processor, tiny_model, tmp_path):
    found = inspect(
        rows,
        split="train",
        processor=processor,
        required_samples=partial(required_samples, config=tiny_model.config),
        max_duration_seconds=5,
    )
    assert [rows[i]["utterance_id"] for i in found.kept] == ["good.wav", "short.wav"]
    write_findings(tmp_path / "data_report.jsonl", found.findings)
    report = [json.loads(line) for line in (tmp_path / "data_report.jsonl").read_text().splitlines()]
    assert {line["utterance_id"]: line["reason"] for line in report} == {
        "short.wav": "shorter than CTC needs",
        "long.wav": "too long",
        "truncated.flac": "unreadable audio",
        "text.wav": "unreadable audio",
        "missing.wav": "unreadable audio",
        "good.wav#empty": "empty transcript",
        "good.wav#far": "transcript too long for its audio",
    }


def test_transcripts_are_tokenised_once(corpus, processor, tiny_model, tmp_path, monkeypatch):
    rows = Source(str(corpus)).load("train")
    tokenised, original = [], type(processor.tokenizer).__call__

    def count(self, text, *args, **kwargs):
        tokenised.extend([text] if isinstance(text, str) else text)
        return original(self, text, *args, **kwargs)

    expected = processor.tokenizer(rows["text"])["input_ids"]
    monkeypatch.setattr(type(processor.tokenizer), "__call__", count)
    need = partial(required_samples, config=tiny_model.config)
    found = inspect(rows, split="train", processor=processor, required_samples=need, max_duration_seconds=30)
    report_data({"training": found}, processor=processor, path=tmp_path / "data_report.html")
    dataset = SpeechDataset(rows.select(found.kept), processor=processor, labels=found.labels)
    assert [dataset[i]["labels"] for i in range(len(dataset))] == list(found.labels) == expected
    assert tokenised == rows["text"][:]


def test_as_many_labels_as_rows_are_required(rows, processor):
    with pytest.raises(ValueError, match="1 labels for 8 rows"):
        SpeechDataset(rows, processor=processor, labels=[[1]])


def test_token_ids_are_stored_in_one_array():
    labels = TokenIds()
    for ids in ([3, 4], [], [5]):
        labels.append(ids)
    assert len(labels) == 3 and list(labels) == [[3, 4], [], [5]] and labels[-1] == [5]
    assert labels.ids.itemsize == 4
    with pytest.raises(IndexError):
        labels[3]


@pytest.mark.parametrize("factor", [4, 6, 8])
def test_required_samples_are_sufficient_and_tight(processor, tiny_model, factor):
    extractor = ConformerFeatureExtractor(min_duration=0)
    tiny_model.config.subsampling_factor = factor
    labels = [5, 5, 6, 7, 7, 7]  # six tokens, three of which need a preceding blank
    samples = required_samples(labels, config=tiny_model.config)

    def frames(samples: int) -> int:
        return int(tiny_model.get_output_lengths(torch.tensor(extractor.num_frames(samples))))

    assert frames(samples) >= 9 > frames(samples - 160 * (factor + 4))


def test_augmentation_is_equal_for_all_workers_and_ranks(corpus, processor, tiny_model):
    """Speed, noise, room, codec and babble depend only on seed, epoch and utterance."""
    rows = Source(str(corpus)).load("train").select(range(12))
    transforms = [
        {"name": "SpeedPerturbation", "factors": [0.9, 1.1]},
        {"name": "AddBabble", "p": 0.5},
        {"name": "AddGaussianSNR", "p": 0.5},
        {"name": "PitchShift", "p": 0.5},
        {"name": "Codec", "codecs": ["mulaw"], "p": 0.5},
    ]

    def waveforms(*, workers: int, ranks: int, epoch: int) -> dict[bytes, bytes]:
        waveforms_by_labels = {}
        for rank in range(ranks):
            augment = build_augmentation(transforms, seed=3, rows=rows)
            dataset = SpeechDataset(rows, processor=processor, augment=augment)
            sampler = DurationBatchSampler(rows["duration"], max_batch_seconds=9, num_replicas=ranks, rank=rank)
            sampler.set_epoch(epoch)
            for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=list):
                waveforms_by_labels |= {bytes(example["labels"]): example["waveform"].tobytes() for example in batch}
        return waveforms_by_labels

    expected = waveforms(workers=0, ranks=1, epoch=1)
    assert len(expected) == 12
    assert waveforms(workers=2, ranks=1, epoch=1) == waveforms(workers=1, ranks=3, epoch=1) == expected
    assert waveforms(workers=0, ranks=1, epoch=2) != expected


def test_a_batch_has_features_mask_and_padded_labels(rows, processor, tiny_model):
    scored = SpeechDataset(rows.select([1]), processor=processor)
    dataset = SpeechDataset(
        rows.select([0, 1]), processor=processor, pad_to_labels=partial(pad_to_labels, config=tiny_model.config)
    )
    examples = [dataset[0], dataset[(3, 1)]]
    batch = SpeechCollator(processor)(examples)
    frames = batch["attention_mask"].sum(-1)
    assert frames.tolist() == [300, examples[1]["min_frames"]]
    assert tiny_model.get_output_lengths(frames[1]) >= len(examples[1]["labels"])  # its transcript can be aligned
    alone = SpeechCollator(processor)([scored[0]])["input_features"][0]  # scoring adds no silence
    assert alone.shape[0] == 75 < frames[1]
    torch.testing.assert_close(batch["input_features"][1, :75], alone, atol=0, rtol=0)
    assert (batch["labels"] == -100).any() and batch["labels"].shape[0] == 2
    assert torch.isfinite(tiny_model(**batch).loss) and tiny_model(**batch).loss > 0


def test_statistics_without_a_readable_recording_are_an_error(rows, processor, tiny_model):
    dataset = SpeechDataset(rows.select([4, 5]), processor=processor)
    with pytest.raises(ValueError, match="none of 2 sampled utterances can be read"):
        feature_statistics(dataset, processor=processor)


def test_training_denoises_after_augmentation(rows, processor, tiny_model):
    denoising = ConformerProcessor(ConformerFeatureExtractor(denoise=True), processor.tokenizer)
    augment = build_augmentation([{"name": "AddGaussianSNR", "min_snr_db": 0, "max_snr_db": 5, "p": 1.0}], seed=3)
    noisy = SpeechDataset(rows.select([0]), processor=processor, augment=augment)[(2, 0)]["waveform"]
    example = SpeechDataset(rows.select([0]), processor=denoising, augment=augment)[(2, 0)]
    trained_on = SpeechCollator(denoising)([example])["input_features"]
    torch.testing.assert_close(trained_on, denoising(noisy, sampling_rate=16000)["input_features"], atol=0, rtol=0)


def test_statistics_normalise_the_features(rows, processor, tiny_model):
    dataset = SpeechDataset(rows.select([0, 1]), processor=processor)
    mean, istd = feature_statistics(dataset, processor=processor)
    features = torch.cat(
        [
            processor.feature_extractor(dataset[i]["waveform"], return_tensors="pt").input_features[0]
            for i in range(len(dataset))
        ]
    )
    normal = (features - mean) * istd
    torch.testing.assert_close(normal.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(80), atol=2e-2, rtol=0)
