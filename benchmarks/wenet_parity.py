"""Compare an imported WeNet model with what WeNet itself computed.

    python benchmarks/wenet_parity.py --reference ../shared/wenet_reference/u2pp_streaming

`--reference` is a WeNet model directory that also has `expected.npz` and `expected.json`. One row for each quantity is
printed: the greatest difference, the limit, and whether it holds. The exit status is 1 if a row does not hold. WeNet
computed states, decoders and losses for a padded batch, and decoded each utterance alone.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hf_asr import ConformerForCTC, ConformerProcessor
from hf_asr.decoding.attention import search_tokens
from hf_asr.decoding.beam import BeamDecoder
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.decoding.rescoring import attention_scores
from hf_asr.decoding.transcript import Hypothesis
from hf_asr.hub.wenet import import_wenet
from hf_asr.hub.wenet_recipe import load_recipe
from hf_asr.model.decoder_conformer import reverse_labels, shift_labels
from hf_asr.model.losses_conformer import attention_loss, ctc_loss

STATES, SCORES = 1e-4, 1e-3  # greatest difference of states and log-probabilities; of scores and losses
BEAM_SIZE, CTC_WEIGHT = 5, 0.3  # of WeNet's decoding


@dataclass(frozen=True)
class Row:
    """The greatest difference of a quantity; infinite if tokens differ."""

    name: str
    difference: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit


class Reference:
    """A WeNet model directory, the model imported from it, and WeNet's outputs."""

    def __init__(self, folder: Path):
        self.recipe = load_recipe(folder / "train.yaml")
        self.arrays = np.load(folder / "expected.npz")
        self.values = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        model, processor = import_wenet(folder)
        self.model: ConformerForCTC = model
        self.processor: ConformerProcessor = processor
        self.batch = self.inputs(0, 1)

    def inputs(self, *numbers: int) -> dict[str, torch.Tensor]:
        """Return features and mask of utterances in a padded batch."""
        waveforms = [self.arrays[f"waveform_{number}"] for number in numbers]
        return dict(self.processor(waveforms, sampling_rate=16000))

    def states(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return encoder states (S, D) and CTC log-probabilities (S, V) of an utterance alone."""
        encoded = self.model.encoder(**self.inputs(number)).last_hidden_state[0]
        return encoded, self.model.ctc_head(encoded).log_softmax(-1)


@torch.inference_mode()
def compare(folder: str | Path) -> list[Row]:
    """Return the rows of a WeNet model directory with its expected outputs."""
    reference = Reference(Path(folder))
    return (
        [*encoder_rows(reference), *chunk_rows(reference), *decoder_rows(reference)]
        + [row for number in (0, 1) for row in search_rows(reference, number)]
        + [*loss_rows(reference)]
    )


def difference(found: torch.Tensor, expected: np.ndarray) -> float:
    """Return the greatest absolute difference; infinite if the shapes differ."""
    return float(np.abs(found.numpy() - expected).max()) if found.shape == expected.shape else math.inf


def encoder_rows(reference: Reference) -> Iterator[Row]:
    """Compare the encoder's states and the CTC log-probabilities of the padded batch."""
    arrays, model = reference.arrays, reference.model
    encoded = model.encoder(**reference.batch)
    lengths = encoded.attention_mask.sum(-1)
    yield Row("encoder lengths", difference(lengths, arrays["encoder_lengths"]), 0)
    log_probs = model.ctc_head(encoded.last_hidden_state).log_softmax(-1)
    for name, found in {"encoder_out": encoded.last_hidden_state, "ctc_log_probs": log_probs}.items():
        parts = [difference(found[i, :n], arrays[name][i, :n]) for i, n in enumerate(lengths.tolist())]
        yield Row(name, max(parts), STATES)


def chunk_rows(reference: Reference) -> Iterator[Row]:
    """Compare the CTC log-probabilities of utterance 0 in chunks: through the caches, and by one masked pass."""
    model, features = reference.model, reference.inputs(0)["input_features"]
    for name in reference.arrays:
        if chunks := re.fullmatch(r"(stream|masked)_chunk(\d+)_left(-?\d+)_ctc_log_probs", name):
            model.config.chunk_size, model.config.num_left_chunks = int(chunks[2]), int(chunks[3])
            logits = streamed(model, features) if chunks[1] == "stream" else model(features).logits
            yield Row(
                name.removesuffix("_ctc_log_probs"), difference(logits.log_softmax(-1), reference.arrays[name]), STATES
            )
    model.config.chunk_size, model.config.num_left_chunks = -1, -1


def streamed(model: ConformerForCTC, features: torch.Tensor) -> torch.Tensor:
    """Return the logits (1, S, V) of features (1, T, M) that are encoded chunk by chunk."""
    cache, parts, size = model.encoder.empty_cache(), [], model.encoder.frames_of_step()
    hop = model.config.subsampling_factor * model.config.chunk_size
    for start in range(0, features.shape[1] - model.encoder.min_frames + 1, hop):
        output = model(features[:, start : start + size], cache=cache)
        parts.append(output.logits)
        cache = output.cache
    return torch.cat(parts, 1)


def decoder_rows(reference: Reference) -> Iterator[Row]:
    """Compare the log-probabilities of both decoders; the second one reads the target from its end."""
    start, target = [reference.model.config.bos_token_id], reference.values["decoder_target"]
    encoded = reference.model.encoder(**reference.batch)
    orders = {"decoder": target, "reverse_decoder": target[::-1]}
    for (name, tokens), decoder in zip(orders.items(), reference.model.decoders(), strict=False):
        inputs = torch.tensor([start + tokens] * 2)
        found = decoder(inputs, encoded.last_hidden_state, encoded.attention_mask).log_softmax(-1)
        expected = np.concatenate([reference.arrays[f"{name}_log_probs_{number}"] for number in (0, 1)])
        yield Row(f"{name}_log_probs", difference(found, expected), STATES)


def search_rows(reference: Reference, number: int) -> Iterator[Row]:
    """Compare tokens and scores of the four decoding modes."""
    expected, model = reference.values[f"utterance_{number}"], reference.model
    states, log_probs = reference.states(number)
    blank, place = model.config.pad_token_id, f"utterance {number}"
    (greedy,) = searched(GreedyDecoder(blank), log_probs)
    yield Row(f"greedy tokens, {place}", 0.0 if greedy.tokens == expected["greedy"] else math.inf, 0)
    found = searched(BeamDecoder(blank, beam_size=BEAM_SIZE, skip_blank=1.0, nbest=BEAM_SIZE), log_probs)
    tokens, scores = [each.tokens for each in found], [each.score for each in found]
    yield scored(
        f"prefix beam, {place}", tokens, expected["prefix_beam5_nbest"], scores, expected["prefix_beam5_scores"]
    )
    attention, _ = search_tokens(model, states, beam_size=BEAM_SIZE)[0]
    yield Row(f"attention beam tokens, {place}", 0.0 if attention == expected["attention_beam5"] else math.inf, 0)
    share = model.config.reverse_weight if model.config.reverse_decoder_layers else 0.0
    totals = [
        score + CTC_WEIGHT * ctc
        for score, ctc in zip(attention_scores(model, states, tokens, reverse_weight=share), scores, strict=True)
    ]
    best = max(range(len(totals)), key=totals.__getitem__)
    yield scored(
        f"rescoring, {place}", tokens[best], expected["rescoring"], [totals[best]], [expected["rescoring_score"]]
    )


def searched(decoder: GreedyDecoder | BeamDecoder, log_probs: torch.Tensor) -> list[Hypothesis]:
    """Return the hypotheses of a recording."""
    search = decoder.begin()
    decoder.advance([search], [decoder.keep(log_probs)])
    return decoder.finish([search])[0]


def scored(name: str, tokens: list, expected_tokens: list, scores: list[float], expected_scores: list[float]) -> Row:
    """Return the row of scores, whose tokens must be equal."""
    pairs = zip(scores, expected_scores, strict=True)
    greatest = max(abs(found - expected) for found, expected in pairs) if tokens == expected_tokens else math.inf
    return Row(name, greatest, SCORES)


def loss_rows(reference: Reference) -> Iterator[Row]:
    """Compare the losses of the padded batch, which WeNet divides by the number of utterances.

    WeNet's smoothed target gives each wrong token s / (V - 1), ours s * V / (V - 1) / V, which is the same; and WeNet
    subtracts the entropy of the target.
    """
    model, targets = reference.model, torch.tensor(reference.values["loss_targets"])
    labels = targets.masked_fill(targets < 0, -100)
    conf, vocab_size = reference.recipe["model_conf"], model.config.vocab_size
    weight, smoothing = conf["ctc_weight"], conf.get("lsm_weight", 0.0)
    encoded = model.encoder(**reference.batch)
    states, mask = encoded.last_hidden_state, encoded.attention_mask
    log_probs = model.ctc_head(states).log_softmax(-1)
    ctc = ctc_loss(log_probs, mask.sum(-1), labels, blank=model.config.pad_token_id) / len(labels)
    entropy = -sum(share * math.log(share) for share in (1 - smoothing, smoothing) if share)
    entropy += smoothing * math.log(vocab_size - 1)
    losses = []
    for decoder, tokens in zip(model.decoders(), (labels, reverse_labels(labels)), strict=False):
        inputs, wanted = shift_labels(tokens, sos_eos=model.config.eos_token_id)
        scale = vocab_size / (vocab_size - 1)
        loss = attention_loss(decoder(inputs, states, mask), wanted, smoothing=smoothing * scale)
        losses.append((loss - entropy * (wanted != -100).sum()) / len(labels))
    share = model.config.reverse_weight if len(losses) == 2 else 0.0
    attention = (1 - share) * losses[0] + share * losses[-1]
    found = {"loss_ctc": ctc, "loss_att": attention, "loss": weight * ctc + (1 - weight) * attention}
    for name, value in found.items():
        yield Row(name, abs(value.item() - reference.values["loss"][name]), SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, type=Path, help="WeNet model directory with its outputs")
    rows = compare(parser.parse_args().reference)
    print("| quantity | greatest difference | limit | holds |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.difference:.1e} | {row.limit:g} | {'yes' if row.holds else 'NO'} |")
    sys.exit(not all(row.holds for row in rows))


if __name__ == "__main__":
    main()
