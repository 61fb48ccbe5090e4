"""What the comparison of a graph with its source measures, and which graphs it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import Source, read_row
from hf_asr.export.build import FLOAT16, INT8
from hf_asr.export.check import MIN_CHARACTERS, GraphComparison, Limits, compare_with_source
from hf_asr.runtime.openvino import Input


class Graph:
    """Replaces a session: PyTorch with a graph's inputs and, if wanted, a fault."""

    def __init__(self, checkpoint: Path, fault=lambda features, mask: (features, mask)):
        self.model, self.processor = load_checkpoint(str(checkpoint), device="cpu")
        self.fault = fault

    def get_inputs(self) -> list[Input]:
        return [Input("input_features"), Input("attention_mask")]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    @torch.inference_mode()
    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        features, mask = self.fault(*(torch.from_numpy(inputs[name]) for name in ("input_features", "attention_mask")))
        return [self.model(features, mask).logits.log_softmax(-1).numpy()]

    def compared(self, data: Path, tmp_path: Path, *, count: int = 40) -> GraphComparison:
        (tmp_path / "model.onnx").write_bytes(b"graph")
        rows = Source(str(data)).load("validation").select(range(count))
        waveforms = [read_row(row, sampling_rate=16000) for row in rows]
        return compare_with_source(
            self,
            tmp_path / "model.onnx",
            model=self.model,
            processor=self.processor,
            waveforms=waveforms,
            references=rows["text"][:],
        )


def test_pytorch_passes_its_own_check(tone_checkpoint, tones, tmp_path):
    found = Graph(tone_checkpoint).compared(tones, tmp_path)
    assert found.max_difference < 1e-4 and found.divergence < 1e-6
    assert found.same_text == found.same_short_text == found.same_batched_text == 1.0
    assert found.cer_before == found.cer_after < 0.02 and found.characters >= MIN_CHARACTERS
    for limits in (Limits(max_difference=1e-4), FLOAT16, INT8):
        assert found.refusal(limits) is None


def test_recordings_shorter_than_a_frame_are_compared(tone_checkpoint, tones, tmp_path):
    graph = Graph(tone_checkpoint)
    graph.processor.feature_extractor.min_duration, graph.processor.feature_extractor.snip_edges = 0.0, True
    found = graph.compared(tones, tmp_path, count=9)  # as in an imported WeNet model
    assert found.max_difference < 1e-4 and found.same_short_text == 1.0


def test_a_graph_that_ignores_the_mask_is_refused(tone_checkpoint, tones, tmp_path):
    graph = Graph(tone_checkpoint, lambda features, mask: (features, torch.ones_like(mask)))
    found = graph.compared(tones, tmp_path, count=9)
    assert found.same_text == 1.0  # a single utterance has no padding
    assert found.max_difference > 1e-3
    assert "differs from PyTorch by" in found.refusal(Limits(max_difference=1e-4))


def test_a_graph_that_is_wrong_only_for_short_recordings_in_batches_is_refused(tone_checkpoint, tones, tmp_path):
    def other_silence(features: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        is_short = (mask.sum(1) <= 50) & (torch.tensor(features.shape[1]) > 50)  # beside a longer one
        return torch.where(is_short[:, None, None], features + 1.0, features), mask

    found = Graph(tone_checkpoint, other_silence).compared(tones, tmp_path, count=3)
    assert found.same_text == found.same_short_text == 1.0
    assert found.refusal(Limits(max_difference=1e-4))


def test_models_without_transcripts_cannot_be_judged_by_their_text(silent_checkpoint, tones, tmp_path):
    found = Graph(silent_checkpoint).compared(tones, tmp_path, count=9)
    assert found.characters == 0 and found.same_text == 1.0 and found.cer_before == found.cer_after == 1.0
    for limits in (INT8, FLOAT16):
        assert "PyTorch writes 0 characters" in found.refusal(limits)
    assert found.refusal(Limits(max_difference=1e-4)) is None  # equal log-probabilities: no text is needed


def test_other_probabilities_with_the_same_text_are_refused(tone_checkpoint, tones, tmp_path):
    flat = Graph(tone_checkpoint)
    flat.run = lambda _, inputs, run=flat.run: [flattened(run(_, inputs)[0])]
    found = flat.compared(tones, tmp_path)
    assert found.same_text == 1.0 and found.cer_after == found.cer_before
    assert "nats per frame" in found.refusal(INT8)


def flattened(log_probs: np.ndarray) -> np.ndarray:
    """Return log-probabilities at four times the temperature: the order of tokens is the same."""
    return torch.from_numpy(log_probs / 4).log_softmax(-1).numpy()


def comparison(**values) -> GraphComparison:
    equal = {"file": "m", "utterances": 100, "characters": 1000, "max_difference": 9.0, "divergence": 0.0}
    equal |= {"same_text": 0.5, "same_short_text": 0.5, "same_batched_text": 0.5, "cer_before": 0.05, "cer_after": 0.05}
    equal |= {"size_mb": 1.0, "real_time_factor": 1.0, "source_real_time_factor": 1.0, "provider": ""}
    return GraphComparison(**equal | values)


@pytest.mark.parametrize(
    "values,reason",
    [
        ({}, None),
        ({"cer_after": 0.0529}, None),
        ({"cer_after": 0.054}, "costs 0.40 points of CER (5.00% -> 5.40%), more than 0.3"),
        ({"divergence": 0.0029}, None),
        ({"divergence": 0.0031}, "diverge by 0.0031 nats per frame, more than 0.003"),
        ({"divergence": float("nan")}, "diverge by nan"),
        ({"cer_after": float("nan")}, "costs nan"),
        ({"characters": 334}, None),
        ({"characters": 333}, "writes 333 characters, and with fewer than 334 one error alone exceeds the limit"),
    ],
)
def test_limits_of_int8(values, reason):
    found = comparison(**values).refusal(INT8)
    assert found is None if reason is None else reason in found


def test_a_difference_that_is_nan_or_above_the_limit_is_refused():
    assert comparison(max_difference=1e-5).refusal(Limits(max_difference=1e-4)) is None
    for difference in (float("nan"), float("inf"), 1e-3):
        assert "differs" in comparison(max_difference=difference).refusal(Limits(max_difference=1e-4))
    assert "differs" in comparison(max_difference=0.6).refusal(FLOAT16)


def test_another_number_of_frames_is_an_error(tone_checkpoint, tones, tmp_path):
    graph = Graph(tone_checkpoint)
    graph.run = lambda _, inputs, run=graph.run: [run(_, inputs)[0][:, :-1]]
    with pytest.raises(ValueError, match="model.onnx gives .* where PyTorch gives"):
        graph.compared(tones, tmp_path, count=2)
