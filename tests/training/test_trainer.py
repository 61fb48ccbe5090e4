"""Gradients are equal for one batch, accumulated batches and several processes, with ragged batches."""

from functools import partial
from pathlib import Path

import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.sources import Source
from hf_asr.families import pad_to_labels
from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.trainer import ConformerTrainer

SCRIPT = Path(__file__).with_name("gradients.py")


@pytest.fixture(scope="module")
def step(torchrun, checkpoint, corpus, tmp_path_factory):
    """Return a function that runs gradients.py in several processes and returns what it writes."""

    def run(*, max_batch_seconds: float, accumulation: int, processes: int = 1) -> dict:
        output = tmp_path_factory.mktemp("step") / "g.pt"
        torchrun(SCRIPT, checkpoint, corpus, output, max_batch_seconds, accumulation, processes=processes)
        return torch.load(output, weights_only=True)

    return run


@pytest.fixture(scope="module")
def one_batch(step) -> dict:
    result = step(max_batch_seconds=1000, accumulation=1)
    assert result["batches"] == 1 and result["world_size"] == 1
    return result


@pytest.mark.parametrize(
    ("processes", "max_batch_seconds", "accumulation", "batches"),
    [(1, 13, 4, None), (2, 13, 2, 2)],
)
def test_accumulation_and_processes_give_the_gradients_of_one_batch(
    one_batch, step, processes, max_batch_seconds, accumulation, batches
):
    result = step(max_batch_seconds=max_batch_seconds, accumulation=accumulation, processes=processes)
    assert result["world_size"] == processes
    assert result["batches"] <= accumulation  # one step is an epoch
    assert batches is None or result["batches"] == batches
    largest = max(value.abs().max() for value in one_batch["gradients"].values())
    for name, expected in one_batch["gradients"].items():
        torch.testing.assert_close(
            result["gradients"][name],
            expected,
            atol=1e-4 * largest.item(),
            rtol=1e-4,
            msg=lambda message, name=name: f"{name}: {message}",
        )
    assert result["loss"] == pytest.approx(one_batch["loss"], rel=1e-4)


def test_features_on_the_training_device_equal_those_of_the_workers(checkpoint, corpus, tmp_path):
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    rows = Source(str(corpus)).load("train").select(range(3))
    dataset = SpeechDataset(rows, processor=processor, pad_to_labels=partial(pad_to_labels, config=model.config))
    examples = [dataset[i] for i in range(3)]
    examples.append(examples[0] | {"waveform": examples[0]["waveform"][:4800]})  # shorter than CTC needs
    args = ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = ConformerTrainer(model=model, args=args, processing_class=processor, eval_dataset=[])
    expected = SpeechCollator(processor)(examples)
    found = trainer._prepare_inputs(SpeechCollator(processor, compute_features=False)(examples))
    assert expected.keys() == found.keys()
    assert expected["attention_mask"][3].sum() == examples[3]["min_frames"] > 50
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_norms_and_biases_have_no_weight_decay(checkpoint, tmp_path):
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    args = ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", weight_decay=0.1)
    trainer = ConformerTrainer(model=model, args=args, processing_class=processor, eval_dataset=[])
    decayed = set(trainer.get_decay_parameter_names(model))
    assert {"ctc_head.weight", "encoder.layers.0.feed_forward1.up_proj.weight"} <= decayed
    assert not [name for name in decayed if "norm" in name or name.endswith("bias")]
