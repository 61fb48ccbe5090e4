"""Make recordings of ten tones and a checkpoint that transcribes them without errors: random weights, a fitted head.

Words of espeak-ng would take minutes of training, and a graph's loss of precision shows on tones as well.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch

from hf_asr import ConformerConfig, ConformerFeatureExtractor, ConformerForCTC, ConformerProcessor, ConformerTokenizer

RATE = 16000
LETTERS = "abcdefghij"
TONE_SECONDS, PAUSE_SECONDS = 0.2, 0.2
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY |= {"subsampling_channels": 8, "apply_spec_augment": False, "hidden_dropout": 0.0, "activation_dropout": 0.0}


def waveform_of(text: str, generator: np.random.Generator) -> np.ndarray:
    """Return a waveform (samples,) with one tone per letter, pauses and a little noise."""
    time = np.arange(round(TONE_SECONDS * RATE)) / RATE
    pause = np.zeros(round(PAUSE_SECONDS * RATE))
    parts = [pause]
    for letter in text:
        parts += [0.3 * np.sin(2 * np.pi * 300 * 1.3 ** LETTERS.index(letter) * time), pause]
    samples = np.concatenate(parts)
    return (samples + generator.normal(0, 1e-3, len(samples))).astype(np.float32)


def write_tones(folder: Path, **utterances: int) -> Path:
    """Write an audiofolder; `utterances` maps each split to its number of utterances."""
    generator = np.random.default_rng(0)
    for split, count in utterances.items():
        (folder / split).mkdir(parents=True)
        lines = []
        for number in range(count):
            text = "".join(generator.choice(list(LETTERS), size=int(generator.integers(4, 20))))
            soundfile.write(folder / split / f"{number}.wav", waveform_of(text, generator), RATE)
            lines.append(json.dumps({"file_name": f"{number}.wav", "text": text}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def save_tone_checkpoint(folder: Path, *, seed: int = 0, **options: object) -> Path:
    """Save a checkpoint with sherpa-onnx's features, whatever the default is; `options` are of its configuration."""
    torch.manual_seed(seed)
    tokenizer = ConformerTokenizer.from_texts([LETTERS], text_normalization="none")
    processor = ConformerProcessor(ConformerFeatureExtractor(energy_floor=128.0), tokenizer)
    model = ConformerForCTC(ConformerConfig(**TINY | options, vocab_size=len(tokenizer))).eval()
    model.encoder.feature_mean.fill_(10.0)
    model.encoder.feature_istd.fill_(0.3)
    fit_head(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def fit_head(model: ConformerForCTC, processor: ConformerProcessor) -> None:
    """Fit the CTC head by softmax regression of the letters on the encoder's frames."""
    generator, inputs, targets = np.random.default_rng(1), [], []
    hook = model.ctc_head.register_forward_pre_hook(lambda _, values: inputs.append(values[0].detach()[0]))
    for _ in range(20):
        text = "".join(generator.choice(list(LETTERS), size=12))
        with torch.inference_mode():
            model(**processor(waveform_of(text, generator), sampling_rate=RATE))
        frames = (
            np.arange(len(inputs[-1])) * model.config.subsampling_factor * 0.01 + 0.03
        )  # middle of each frame in seconds
        place, within = np.divmod(frames - PAUSE_SECONDS, TONE_SECONDS + PAUSE_SECONDS)
        is_tone = (frames > PAUSE_SECONDS) & (within < TONE_SECONDS) & (place < len(text))
        ids = processor.tokenizer(text).input_ids
        targets += [ids[int(i)] if tone else 0 for i, tone in zip(place, is_tone, strict=True)]
    hook.remove()
    hidden, targets = torch.cat([value.clone() for value in inputs]), torch.tensor(targets)
    optimizer = torch.optim.LBFGS(model.ctc_head.parameters(), max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model.ctc_head(hidden), targets)
        loss = loss + 1e-5 * model.ctc_head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
