"""Example recordings of the demo, spoken by espeak-ng."""

from pathlib import Path

import numpy as np
import soundfile
from transformers import ProcessorMixin

from ...data.espeak import SAMPLE_RATE, make_recording
from ...data.synthetic import make_sentences


def make_examples(processor: ProcessorMixin, folder: str | Path, *, seed: int = 7) -> list[tuple[str, str]]:
    """Write two spoken sentences for each language that the vocabulary covers; return (wav file, sentence) of each.

    Without espeak-ng the list is empty.
    """
    tokenizer, generator, examples = processor.tokenizer, np.random.default_rng(seed), []
    for language in ("zh", "en"):
        sentences = make_sentences(language, count=40, generator=generator)
        if any(tokenizer.unk_token_id in tokenizer(sentence)["input_ids"] for sentence in sentences):
            continue
        for sentence in sorted(sentences, key=len)[-4::3]:  # the longest and the fourth longest
            try:
                waveform, *_ = make_recording(sentence, language=language, generator=generator)
            except (ImportError, OSError, RuntimeError):
                return []
            file = Path(folder) / f"{language}-{len(examples) + 1}.wav"
            soundfile.write(file, waveform, SAMPLE_RATE)
            examples.append((str(file), sentence))
    return examples
