"""Define waveform transforms that audiomentations lacks, as subclasses of its base class."""

import io
import random
from collections.abc import Callable, Sequence

import av
import numpy as np
import soxr
from audiomentations.core.transforms_interface import BaseWaveformTransform

from ..model.feature_extraction_conformer import denoise

# name: (encoder of FFmpeg, container, sampling rates in Hz, bit rates in bit/s)
CODECS = {
    "opus": ("libopus", "ogg", (16000,), (8000, 12000, 16000, 24000)),
    "mp3": ("libmp3lame", "mp3", (16000,), (16000, 24000, 32000, 64000)),
    "aac": ("aac", "adts", (16000,), (16000, 24000, 32000, 64000)),
    "mulaw": ("pcm_mulaw", "wav", (8000,), (64000,)),
    "alaw": ("pcm_alaw", "wav", (8000,), (64000,)),
    "g722": ("g722", "wav", (16000,), (64000,)),
}


class SpeedPerturbation(BaseWaveformTransform):
    """Change speed and pitch together by one of `factors`, drawn uniformly (Ko et al. 2015)."""

    supports_multichannel = False

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1), p: float = 1.0):
        super().__init__(p)
        self.factors = list(factors)
        if not self.factors or not min(self.factors) > 0:
            raise ValueError(f"factors must be numbers above 0, not {self.factors}")

    def randomize_parameters(self, samples: np.ndarray, sample_rate: int) -> None:
        super().randomize_parameters(samples, sample_rate)
        self.parameters["factor"] = random.choice(self.factors)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        factor = self.parameters["factor"]
        return samples if factor == 1.0 else soxr.resample(samples, sample_rate * factor, sample_rate)


class AddBabble(BaseWaveformTransform):
    """Add other utterances of the training set as background babble.

    Args:
        min_snr_db, max_snr_db: Signal-to-noise ratio of the speech to the sum of all voices.
        min_voices, max_voices: Number of utterances in the babble.
    """

    supports_multichannel = False
    # Function of (number, sampling rate) that returns an utterance of the training set, and their number.
    # `Augmentation.set_voices` sets both.
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
            voice = voice / max(rms(voice), 1e-8)  # all voices have the same level
            # The voice repeats, and starts at a random place.
            babble += np.resize(np.roll(voice, -int(start * len(voice))), len(samples))
        return mix(samples, babble, snr_db=self.parameters["snr_db"])


class Codec(BaseWaveformTransform):
    """Encode and decode with a lossy codec, as phone calls, messengers and videos do.

    Args:
        codecs: Names to draw from: opus, mp3, aac, g722, mulaw and alaw. The last two are telephony at 8 kHz.
    """

    supports_multichannel = False

    def __init__(self, codecs: Sequence[str] = ("opus", "mp3", "aac", "mulaw"), p: float = 0.5):
        super().__init__(p)
        if unknown := set(codecs) - set(CODECS):
            raise ValueError(f"codecs can be {', '.join(CODECS)}, not {', '.join(sorted(unknown))}")
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
            stream.options = {"compression_level": "0"} if encoder == "libopus" else {}  # ten times faster
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
            decoded = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return _aligned(decoded, samples)


class Denoise(BaseWaveformTransform):
    """Denoise a share of the training examples (`denoise` of ConformerFeatureExtractor does so for inference)."""

    supports_multichannel = False

    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        return denoise(samples, sampling_rate=sample_rate)


def rms(waveform: np.ndarray) -> float:
    """Return the root mean square of a waveform (samples,)."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if len(waveform) else 0.0


def mix(speech: np.ndarray, noise: np.ndarray, *, snr_db: float) -> np.ndarray:
    """Return `speech` plus `noise` of the same length, scaled to `snr_db` below the speech, float32 (samples,)."""
    gain = rms(speech) / max(rms(noise), 1e-8) * 10 ** (-snr_db / 20)
    return (speech + gain * noise).astype(np.float32)


def _aligned(decoded: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Return `decoded` without the delay of the codec, as long as `original`.

    The delay is the shift of 0 to 0.15 s (2400 samples) with the largest cross-correlation.
    """
    length = 1 << (len(decoded) + len(original)).bit_length()
    spectrum = np.fft.rfft(decoded, length) * np.conj(np.fft.rfft(original, length))
    delay = int(np.argmax(np.fft.irfft(spectrum, length)[:2400]))
    decoded = decoded[delay : delay + len(original)]
    return np.pad(decoded, (0, len(original) - len(decoded))).astype(np.float32)
