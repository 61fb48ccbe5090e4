"""Raw log-mel filter banks as Kaldi computes them (https://kaldi-asr.org/doc/feat.html), batched, in torch."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, SequenceFeatureExtractor

try:
    import noisereduce
except ImportError:  # only checkpoints that ask for denoising need it
    noisereduce = None

WINDOWS = ("povey", "hann", "hamming", "rectangular")
EPSILON = 2.0**-23  # of float32


def denoise(waveform: np.ndarray, *, sampling_rate: int) -> np.ndarray:
    """Spectral gating against stationary noise (noisereduce, Sainburg 2020); float32 (samples,) in and out.

    Raises:
        ImportError: noisereduce is not installed.
    """
    if noisereduce is None:
        raise ImportError("this checkpoint denoises its input: pip install noisereduce")
    if not waveform.any():
        return waveform  # digital silence has no noise to estimate
    # A noise floor is estimated over time; one second at least, or the window does not fit.
    padded = np.pad(waveform, (0, max(0, sampling_rate - len(waveform))), mode="wrap")
    # The library's own threshold takes speech for noise: 20 dB of SI-SDR became 5. These cost less there, and gain at 0
    # to 10 dB (benchmarks/noise.py).
    options = {"stationary": True, "n_fft": 512, "n_std_thresh_stationary": 0.0, "prop_decrease": 0.8}
    reduced = noisereduce.reduce_noise(y=padded, sr=sampling_rate, **options)
    return reduced[: len(waveform)].astype(np.float32)


@lru_cache(maxsize=8)
def window_function(window_type: str, length: int, device: torch.device) -> torch.Tensor:
    """(length,); povey is Kaldi's: a Hann window to the power 0.85."""
    options = {"periodic": False, "device": device, "dtype": torch.float32}
    if window_type == "povey":
        return torch.hann_window(length, **options) ** 0.85
    if window_type == "hann":
        return torch.hann_window(length, **options)
    if window_type == "hamming":
        return torch.hamming_window(length, **options)
    return torch.ones(length, device=device)


@lru_cache(maxsize=8)
def mel_filters(
    num_mel_bins: int, fft_length: int, sampling_rate: int, low_freq: float, high_freq: float, device: torch.device
) -> torch.Tensor:
    """Triangles of equal height on Kaldi's mel scale, 1127 ln(1 + f/700): (fft_length / 2 + 1, num_mel_bins).

    Frequencies in Hz; a `high_freq` of zero or less counts from the Nyquist frequency.
    """

    def to_mel(frequency: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(frequency / 700.0)

    high_freq = high_freq if high_freq > 0 else sampling_rate / 2 + high_freq
    edges = to_mel(torch.tensor([low_freq, high_freq], dtype=torch.float64))
    points = torch.linspace(edges[0], edges[1], num_mel_bins + 2, dtype=torch.float64)  # left, centre and right of each
    bins = to_mel(torch.arange(fft_length // 2 + 1, dtype=torch.float64) * sampling_rate / fft_length)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[-1] = 0  # Kaldi leaves the Nyquist bin out
    return filters.to(torch.float32).to(device)  # one after the other: Apple's GPUs have no float64


class ConformerFeatureExtractor(SequenceFeatureExtractor):
    """
    Args:
        num_mel_bins: Mel filters.
        sampling_rate: Hz.
        frame_length, frame_shift: Milliseconds.
        preemphasis: Coefficient of the pre-emphasis filter in each frame.
        remove_dc_offset: Subtract each frame's mean.
        window_type: `"povey"`, `"hann"`, `"hamming"` or `"rectangular"`.
        low_freq, high_freq: Hz; a `high_freq` of zero or less counts from the Nyquist frequency.
        snip_edges: True keeps to frames that lie inside the signal; False centres frame i on (i + 1/2) * frame_shift
            and mirrors the signal at its ends.
        dither: Standard deviation of noise added to the scaled samples.
        waveform_scale: Samples in [-1, 1] are multiplied by this first.
        energy_floor: Energies of a mel filter below it count as it. sherpa-onnx computes with samples in [-1, 1] and
            lets nothing below float32's epsilon: that is 128 for samples that are 32768 times as large.
        denoise: Reduce stationary noise before anything else.
        min_duration: Seconds. The frames of shorter recordings are followed by frames of silence up to this length: a
            fast "three" of a quarter of a second has fewer frames at 4x subsampling than CTC needs to spell it.

    The defaults are lhotse's, icefall's and sherpa-onnx's; WeNet's are `high_freq=0, snip_edges=True` and
    `energy_floor=2**-23`.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        num_mel_bins: int = 80,
        sampling_rate: int = 16000,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
        preemphasis: float = 0.97,
        remove_dc_offset: bool = True,
        window_type: str = "povey",
        low_freq: float = 20.0,
        high_freq: float = -400.0,
        snip_edges: bool = False,
        dither: float = 0.0,
        waveform_scale: float = 32768.0,
        energy_floor: float = 128.0,
        denoise: bool = False,
        min_duration: float = 0.5,
        **kwargs,
    ):
        kwargs.pop("feature_size", None), kwargs.pop("padding_value", None)
        super().__init__(feature_size=num_mel_bins, sampling_rate=sampling_rate, padding_value=0.0, **kwargs)
        if window_type not in WINDOWS:
            raise ValueError(f"window_type is one of {', '.join(WINDOWS)}, not {window_type!r}")
        if not energy_floor > 0:
            raise ValueError(f"energy_floor is more than 0, not {energy_floor}: a logarithm is taken of it")
        self.num_mel_bins = num_mel_bins
        self.frame_length = frame_length
        self.frame_shift = frame_shift
        self.preemphasis = preemphasis
        self.remove_dc_offset = remove_dc_offset
        self.window_type = window_type
        self.low_freq = low_freq
        self.high_freq = high_freq
        self.snip_edges = snip_edges
        self.dither = dither
        self.waveform_scale = waveform_scale
        self.energy_floor = energy_floor
        self.denoise = denoise
        self.min_duration = min_duration

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs) -> "ConformerFeatureExtractor":
        """Read settings; a checkpoint from before there was an `energy_floor` was trained on float32's epsilon."""
        return super().from_dict({"energy_floor": EPSILON} | feature_extractor_dict, **kwargs)

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sampling_rate * self.frame_shift / 1000)

    @property
    def window_length(self) -> int:
        """Samples in a frame."""
        return int(self.sampling_rate * self.frame_length / 1000)

    def num_frames(self, num_samples: int) -> int:
        """Frames that a waveform of `num_samples` samples gives; 0 tells the fewest that there are."""
        num_samples = max(num_samples, round(self.min_duration * self.sampling_rate))
        if self.snip_edges:
            return max(0, 1 + (num_samples - self.window_length) // self.hop_length)
        return (num_samples + self.hop_length // 2) // self.hop_length

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor | list[float]],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        denoise: bool | None = None,
        min_frames: torch.Tensor | None = None,
        device: str | torch.device = "cpu",
        padding: bool | str = True,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            raw_speech: One waveform (samples,), or several; float in [-1, 1], mono.
            sampling_rate: Of the waveforms, Hz. Checked.
            return_tensors: `"pt"` or `"np"`; lists of numpy arrays otherwise.
            denoise: Overrides the setting of the same name.
            min_frames: Of each waveform (batch,), where `min_duration` is not enough; filled up with silence likewise.
            device: Where to compute.
            padding: Accepted for callers that pass it; batches are always padded to the longest.

        Returns:
            `input_features` float32 (batch, frames, num_mel_bins), `attention_mask` int64 (batch, frames).

        Raises:
            ValueError: Another sampling rate; a waveform that is empty, not finite or not mono.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio has {sampling_rate} Hz, the model was trained on {self.sampling_rate} Hz: resample it first"
            )
        is_single = isinstance(raw_speech, np.ndarray | torch.Tensor) and raw_speech.ndim == 1
        is_single = is_single or (isinstance(raw_speech, Sequence) and np.isscalar(raw_speech[0]))
        waveforms = [
            self._check(waveform, i) for i, waveform in enumerate([raw_speech] if is_single else list(raw_speech))
        ]
        if self.denoise if denoise is None else denoise:
            waveforms = [_denoise(waveform, self.sampling_rate) for waveform in waveforms]
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=device)
        waveforms = [waveform.to(device) for waveform in waveforms]
        if lengths.device.type == "cpu":  # one by one they stay in the cache: half the time of a batch
            alone = [self.fbank(waveforms[i][None], lengths[i : i + 1]) for i in range(len(waveforms))]
            features = pad_sequence([frames[0] for frames, _ in alone], batch_first=True)  # (B, T, M)
            lengths = torch.cat([frame_length for _, frame_length in alone])
        else:
            features, lengths = self.fbank(pad_sequence(waveforms, batch_first=True), lengths)
        if min_frames is not None:
            features, lengths = self.add_silence(features, lengths, min_frames=min_frames.to(device))
        data = {"input_features": features}
        if return_attention_mask:
            places = torch.arange(features.shape[1], device=features.device)
            data["attention_mask"] = (places < lengths[:, None]).long()  # (B, T)
        return BatchFeature(
            data if return_tensors == "pt" else {key: value.cpu().numpy() for key, value in data.items()},
            tensor_type=return_tensors,
        )

    def _check(self, waveform: np.ndarray | torch.Tensor | list[float], place: int) -> torch.Tensor:
        waveform = torch.as_tensor(waveform).detach().to(torch.float32)
        if waveform.ndim != 1:
            raise ValueError(
                f"waveform {place} has shape {tuple(waveform.shape)}: mono is expected, one value a sample"
            )
        if not len(waveform):
            raise ValueError(f"waveform {place} is empty")
        if not torch.isfinite(waveform).all():
            raise ValueError(f"waveform {place} holds NaN or infinite samples")
        return waveform

    def fbank(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The features themselves; exported graphs trace this very function.

        Args:
            waveforms: (batch, samples), zero where padded.
            lengths: (batch,), in samples.

        Returns:
            (batch, frames, num_mel_bins), zero where padded, and the frames of each (batch,).
        """
        features, frame_lengths = self.log_mel(waveforms, lengths)
        return self.add_silence(features, frame_lengths, min_frames=self.num_frames(0))

    def add_silence(
        self, features: torch.Tensor, lengths: torch.Tensor, *, min_frames: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Follow real frames by frames of digital silence, up to `min_frames`, which count as real from now on.

        Silence is added here and not to the waveform, whose last frames would be others: Kaldi mirrors its end.

        Args:
            features: (batch, frames, num_mel_bins), anything where padded.
            lengths: Real frames, (batch,).
            min_frames: The same for all, or of each (batch,).

        Returns:
            As `fbank`.
        """
        longest = min_frames if isinstance(min_frames, int) else int(min_frames.max())
        total = torch.sym_max(features.shape[1], longest)
        features = F.pad(features, (0, 0, 0, total - features.shape[1]))
        places = torch.arange(total, device=features.device)
        is_real = (places < lengths[:, None])[:, :, None]  # (B, T, 1)
        lengths = lengths.clamp(min=min_frames)
        padding = torch.where(places < lengths[:, None], math.log(self.energy_floor), 0.0)  # (B, T)
        return torch.where(is_real, features, padding[:, :, None]), lengths

    def log_mel(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the frames that a recording has itself: as `fbank`, without `min_duration`; anything where padded."""
        window_length, hop, device = self.window_length, self.hop_length, waveforms.device
        waveforms = F.pad(waveforms, (0, torch.sym_max(0, 1 - waveforms.shape[1])))  # one sample to mirror at least
        samples, lengths = waveforms.shape[1], lengths.clamp(min=1)
        if self.snip_edges:
            first, total = 0, (samples - window_length) // hop + 1
            frame_lengths = (torch.div(lengths - window_length, hop, rounding_mode="floor") + 1).clamp(min=0)
        else:
            first, total = hop // 2 - window_length // 2, (samples + hop // 2) // hop
            frame_lengths = torch.div(lengths + hop // 2, hop, rounding_mode="floor")
        total = torch.sym_max(total, 1)  # a frame of padding at least: the FFT refuses none
        # Kaldi mirrors the signal at both ends, the outermost samples included, as often as it takes.
        place = first + torch.arange((total - 1) * hop + window_length, device=device)  # (N,)
        place = place.remainder(2 * lengths[:, None])  # (B, N)
        place = torch.minimum(place, 2 * lengths[:, None] - 1 - place)
        signal = waveforms.gather(1, place) * self.waveform_scale
        frames = signal.unfold(1, window_length, hop)  # (B, T, window), a view
        if self.dither:
            frames = frames + self.dither * torch.randn_like(frames)
        if self.remove_dc_offset:
            frames = frames - frames.mean(-1, keepdim=True)
        if self.preemphasis:
            previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            frames = frames - self.preemphasis * previous
        frames = frames * window_function(self.window_type, window_length, device)
        fft_length = 1 << (window_length - 1).bit_length()
        spectrum = torch.fft.rfft(frames, n=fft_length)  # (B, T, fft / 2 + 1)
        power = spectrum.real.square() + spectrum.imag.square()  # abs() alone would be a third of the time
        filters = mel_filters(self.num_mel_bins, fft_length, self.sampling_rate, self.low_freq, self.high_freq, device)
        return (power @ filters).clamp(min=self.energy_floor).log(), frame_lengths  # (B, T, M)


def _denoise(waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    return torch.from_numpy(denoise(waveform.cpu().numpy(), sampling_rate=sampling_rate))


__all__ = ["ConformerFeatureExtractor"]
