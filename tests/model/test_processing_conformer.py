"""The processor pads examples as the data collators of transformers' examples expect it."""

import numpy as np
import pytest
import torch


@pytest.fixture
def examples(processor) -> list[dict]:
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(0, 0.1, samples).astype(np.float32) for samples in (16000, 9000)]
    encoded = [
        processor(waveform, text=text, sampling_rate=16000)
        for waveform, text in zip(waveforms, ["the lazy dog", "空调"], strict=True)
    ]
    return [{"input_features": each["input_features"][0], "labels": each["labels"][0].tolist()} for each in encoded]


def test_the_collator_of_transformers_examples_works(processor, examples):
    """Its body, from examples/pytorch/speech-recognition/run_speech_recognition_ctc.py."""
    name = processor.feature_extractor.model_input_names[0]
    options = {"padding": "longest", "pad_to_multiple_of": 8, "return_tensors": "pt"}
    batch = processor.pad([{name: each[name]} for each in examples], **options)
    found = processor.pad(labels=[{"input_ids": each["labels"]} for each in examples], **options)
    labels = found["input_ids"].masked_fill(found.attention_mask.ne(1), -100)
    assert batch["input_features"].shape == (2, 104, 80) and batch["attention_mask"].sum(1).tolist() == [100, 56]
    assert labels.shape == (2, 16) and labels[1].tolist() == [*examples[1]["labels"], *[-100] * 14]


def test_features_and_labels_are_padded_together(processor, examples):
    batch = processor.pad(
        [{"input_features": each["input_features"]} for each in examples],
        labels=[{"input_ids": each["labels"]} for each in examples],
        return_tensors="pt",
    )
    assert batch["input_features"].shape == (2, 100, 80)
    assert torch.equal(batch["labels"], processor.pad_labels([each["labels"] for each in examples]))


def test_nothing_to_pad_is_an_error(processor):
    with pytest.raises(ValueError, match="input_features, labels or both"):
        processor.pad()
