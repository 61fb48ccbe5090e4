"""Waveform transforms that audiomentations lacks, in its own form: they mix with its classes in one list."""

import io
import random
from collections.abc import Callable, Sequence

import av
import numpy as np
import soxr
from audiomentations.core.transforms_interface import BaseWaveformTransform

from ..model.feature_extraction_conformer import denoise

# name: (FFmpeg's encoder, container, sampling rates in Hz, bit rates in bit/s)
CODECS = {
    "opus": ("libopus", "ogg", (16000,), (8000, 12000, 16000, 24000)),
    "mp3": ("libmp3lame", "mp3", (16000,), (16000, 24000, 32000, 64000)),
    "aac": ("aac", "adts", (16000,), (16000, 24000, 32000, 64000)),
    "mulaw": ("pcm_mulaw", "wav", (8000,), (64000,)),
    "alaw": ("pcm_alaw", "wav", (8000,), (64000,)),
    "g722": ("g722", "wav", (16000,), (64000,)),
}


class SpeedPerturbation(BaseWaveformTransform):
    """Plays faster or slower, pitch and all (Ko et al. 2015); `factors` are drawn evenly."""

    supports_multichannel = False

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1), p: float = 1.0):
        super().__init__(p)
        self.factors = list(factors)
        if not self.factors or not min(self.factors) > 0:
            raise ValueError(f"factors are numbers above 0, not {self.factors}")

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        super().randomize_parameters(samples, sample_rate)
        self.parameters["factor"] = random.choice(self.factors)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        factor = self.parameters["factor"]
        return samples if factor == 1.0 else soxr.resample(samples, sample_rate * factor, sample_rate)


class AddBabble(BaseWaveformTransform):
    """Other utterances of the training set talk over one another in the background.

    Args:
        min_snr_db, max_snr_db: Of the speech over the whole babble.
        min_voices, max_voices: Utterances in it.
    """

    supports_multichannel = False
    # An utterance of the training set by (number, sampling rate), and how many there are: set by `build_augmentation`.
    voice: Callable[[int, int], np.ndarray] | None = None
    num_voices: int = 0

    def __init__(
        self,
        min_snr_db: float = 5.0,
        max_snr_db: float = 20.0,
        min_voices: int = 3,
        max_voices: int = 8,
        p: float = 0.5,
    ):
        super().__init__(p)
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self.min_voices, self.max_voices = min_voices, max_voices

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        super().randomize_parameters(samples, sample_rate)
        count = random.randint(self.min_voices, self.max_voices)
        self.parameters["voices"] = [random.randrange(self.num_voices) for _ in range(count)]
        self.parameters["starts"] = [random.random() for _ in range(count)]
        self.parameters["snr_db"] = random.uniform(self.min_snr_db, self.max_snr_db)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        babble = np.zeros(len(samples), np.float32)
        for number, start in zip(self.parameters["voices"], self.parameters["starts"], strict=True):
            voice = self.voice(number, sample_rate)
            voice = voice / max(rms(voice), 1e-8)  # every voice as loud as the others
            # It goes round: it has begun before and goes on after.
            babble += np.resize(np.roll(voice, -int(start * len(voice))), len(samples))
        return mix(samples, babble, snr_db=self.parameters["snr_db"])


class Codec(BaseWaveformTransform):
    """There and back through a lossy codec, as a call, a messenger or a video has it.

    Args:
        codecs: Out of opus, mp3, aac, g722, and mulaw and alaw, which are the telephone's 8 kHz.
    """

    supports_multichannel = False

    def __init__(self, codecs: Sequence[str] = ("opus", "mp3", "aac", "mulaw"), p: float = 0.5):
        super().__init__(p)
        if unknown := set(codecs) - set(CODECS):
            raise ValueError(f"augmentations: Codec knows {', '.join(CODECS)}, not {', '.join(sorted(unknown))}")
        self.codecs = list(codecs)

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        super().randomize_parameters(samples, sample_rate)
        self.parameters["codec"] = random.choice(self.codecs)
        self.parameters["bit_rate"] = random.choice(CODECS[self.parameters["codec"]][3])

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        encoder, container, (rate,), _ = CODECS[self.parameters["codec"]]
        narrow = soxr.resample(samples, sample_rate, rate) if rate != sample_rate else samples
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            stream = output.add_stream(encoder, rate=rate, layout="mono", bit_rate=self.parameters["bit_rate"])
            stream.options = {"compression_level": "0"} if encoder == "libopus" else {}  # ten times as fast
            pcm = (np.clip(narrow, -1, 1) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate = rate
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        file.seek(0)
        with av.open(file) as coded:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            frames = [out for frame in coded.decode(audio=0) for out in resampler.resample(frame)]
            frames += resampler.resample(None)
            heard = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return _aligned(heard, samples)


class Denoise(BaseWaveformTransform):
    """Training copies as a denoiser leaves them (see ConformerFeatureExtractor's `denoise`, which is for inference)."""

    supports_multichannel = False

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        return denoise(samples, sampling_rate=sample_rate)


def rms(waveform: np.ndarray) -> float:
    """Root mean square of a waveform (samples,)."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0


def mix(speech: np.ndarray, noise: np.ndarray, *, snr_db: float) -> np.ndarray:
    """`speech` with `noise` of the same length `snr_db` below it, float32 (samples,)."""
    gain = rms(speech) / max(rms(noise), 1e-8) * 10 ** (-snr_db / 20)
    return (speech + gain * noise).astype(np.float32)


def _aligned(heard: np.ndarray, original: np.ndarray) -> np.ndarray:
    """`heard` without the encoder's delay, as long as `original`: the shift where they agree most, 0 to 0.15 s."""
    length = 1 << (len(heard) + len(original)).bit_length()
    spectrum = np.fft.rfft(heard, length) * np.conj(np.fft.rfft(original, length))
    delay = int(np.argmax(np.fft.irfft(spectrum, length)[:2400]))
    heard = heard[delay : delay + len(original)]
    return np.pad(heard, (0, len(original) - len(heard))).astype(np.float32)
