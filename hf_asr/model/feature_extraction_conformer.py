"""Log-mel filter banks as Kaldi computes them (https://kaldi-asr.org/doc/feat.html), for batches, in torch.

They are raw: the model itself normalises them. Letters in shape comments: B batch, T feature frames, M mel bins, N
samples.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy

try:
    import noisereduce
except ImportError:  # only checkpoints with `denoise` need it
    noisereduce = None

WINDOWS = ("povey", "hann", "hamming", "rectangular")
EPSILON = 2.0**-23  # float32's machine epsilon


# The sample of silence and the number of steps from it to full scale, of the integers in which PCM is stored
FULL_SCALE = {torch.int16: (0, 2**15), torch.int32: (0, 2**31), torch.uint8: (128, 128)}


def denoise(waveform: np.ndarray, *, sampling_rate: int) -> np.ndarray:
    """Reduce stationary noise by spectral gating (noisereduce, Sainburg 2020).

    Args:
        waveform: Float32 (samples,) in [-1, 1].
        sampling_rate: Hz.

    Returns:
        Float32 (samples,).

    Raises:
        ImportError: noisereduce is not installed.
    """
    if noisereduce is None:
        raise ImportError("this checkpoint denoises its input, which needs noisereduce: pip install noisereduce")
    if not waveform.any():
        return waveform  # digital silence has no noise to estimate
    # The noise is estimated over the whole waveform, for which noisereduce needs at least one second.
    padded = np.pad(waveform, (0, max(0, sampling_rate - len(waveform))), mode="wrap")
    # noisereduce's default threshold removes speech too: an SI-SDR of 20 dB became 5 dB. These options do less harm
    # there, and they improve recordings of 0 to 10 dB (benchmarks/noise.py).
    options = {"stationary": True, "n_fft": 512, "n_std_thresh_stationary": 0.0, "prop_decrease": 0.8}
    reduced = noisereduce.reduce_noise(y=padded, sr=sampling_rate, **options)
    return reduced[: len(waveform)].astype(np.float32)


@lru_cache(maxsize=8)
def window_function(window_type: str, length: int, device: torch.device) -> torch.Tensor:
    """Return a window (length,); `"povey"` is Kaldi's, a Hann window to the power 0.85."""
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
    """Return Kaldi's mel filters (fft_length / 2 + 1, num_mel_bins): triangles of height 1, equally wide in mel.

    The mel scale is 1127 ln(1 + f / 700), as in Kaldi. `low_freq` and `high_freq` are in Hz; a `high_freq` of zero or
    less is relative to the Nyquist frequency.
    """

    def to_mel(frequency: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log1p(frequency / 700.0)

    high_freq = high_freq if high_freq > 0 else sampling_rate / 2 + high_freq
    edges = to_mel(torch.tensor([low_freq, high_freq], dtype=torch.float64))
    # Filter i begins at point i, has its peak at point i + 1, and ends at point i + 2.
    points = torch.linspace(edges[0], edges[1], num_mel_bins + 2, dtype=torch.float64)
    bins = to_mel(torch.arange(fft_length // 2 + 1, dtype=torch.float64) * sampling_rate / fft_length)[:, None]
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[-1] = 0  # as in Kaldi, which omits the Nyquist frequency
    return filters.to(torch.float32).to(device)  # in two calls: Apple's GPUs have no float64


class ConformerFeatureExtractor(SequenceFeatureExtractor):
    """Compute log-mel features from waveforms, equal to Kaldi's.

    The defaults are those of lhotse, icefall and sherpa-onnx. WeNet's are `high_freq=0`, `snip_edges=True` and
    `energy_floor=2**-23`.

    Args:
        num_mel_bins: Number of mel filters.
        sampling_rate: Hz.
        frame_length: Length of a frame, in milliseconds.
        frame_shift: Distance between the starts of two frames, in milliseconds.
        preemphasis: Coefficient of the pre-emphasis filter, which is applied to each frame.
        remove_dc_offset: Subtract its mean from each frame.
        window_type: `"povey"`, `"hann"`, `"hamming"` or `"rectangular"`.
        low_freq: Lowest frequency of the mel filters, in Hz.
        high_freq: Highest frequency of the mel filters, in Hz. Zero or less is relative to the Nyquist frequency.
        snip_edges: True computes only frames that are completely inside the signal. False centres frame i at
            (i + 1/2) * frame_shift, and mirrors the signal at both ends.
        dither: Standard deviation of the noise that is added to the scaled samples.
        waveform_scale: Factor by which samples in [-1, 1] are multiplied first; 32768 gives the range of int16.
        energy_floor: Smallest energy of a mel filter; smaller ones are raised to it. The default equals sherpa-onnx,
            which uses float32's epsilon for samples in [-1, 1]: 2**-23 * 32768**2 = 128.
        denoise: Reduce stationary noise in the waveform first.
        min_duration: Seconds. A shorter recording gets frames of silence after its own frames, up to this duration. A
            fast "three" of 0.25 seconds has fewer frames at 4x subsampling than CTC needs for its five letters.

    Raises:
        ValueError: The window type is unknown, or the energy floor is not above zero.
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
            raise ValueError(f"window_type must be one of {', '.join(WINDOWS)}, not {window_type!r}")
        if not energy_floor > 0:
            raise ValueError(f"energy_floor must be above 0, not {energy_floor}: the features are logarithms")
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
        """Create an extractor from saved settings.

        Older checkpoints have no `energy_floor`. They were trained with float32's epsilon.
        """
        return super().from_dict({"energy_floor": EPSILON} | feature_extractor_dict, **kwargs)

    @property
    def hop_length(self) -> int:
        """Return the number of samples between the starts of two frames."""
        return int(self.sampling_rate * self.frame_shift / 1000)

    @property
    def window_length(self) -> int:
        """Return the number of samples of a frame."""
        return int(self.sampling_rate * self.frame_length / 1000)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of frames of a waveform of `num_samples` samples; `min_duration` is the smallest length."""
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
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Return the features of one waveform or of a batch, padded with zeros to the longest.

        Args:
            raw_speech: One waveform (samples,), or several, mono; float in [-1, 1], int16, int32 or uint8.
            sampling_rate: Sampling rate of the waveforms, in Hz. It must be the extractor's; None skips the check.
            return_tensors: `"pt"` for torch tensors, `"np"` or None for numpy arrays.
            return_attention_mask: Return `attention_mask` too.
            denoise: Override the extractor's `denoise`; None keeps it.
            min_frames: Smallest number of frames of each waveform, (batch,). Silence is added up to it.
            device: Device that computes the features.
            padding: `"max_length"` pads to `max_length` frames, anything else to the longest waveform of the batch.
            max_length: In frames, as for `pad`; used by `padding="max_length"` and `truncation`.
            truncation: Cut the features after `max_length` frames.
            pad_to_multiple_of: Round the number of frames up to a multiple of this number.

        Returns:
            `input_features` float32 (batch, frames, num_mel_bins), and `attention_mask` int64 (batch, frames), 1 for
            real frames.

        Raises:
            ValueError: The sampling rate is wrong, there is no waveform, one is empty, not finite or not mono, or
                `max_length` is needed and not given.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio has {sampling_rate} Hz, but the model needs {self.sampling_rate} Hz: resample it first"
            )
        waveforms = [self._check(waveform, i) for i, waveform in enumerate(_as_list(raw_speech))]
        if self.denoise if denoise is None else denoise:
            waveforms = [_denoise(waveform, self.sampling_rate) for waveform in waveforms]
        features, lengths = self._batch_fbank([waveform.to(device) for waveform in waveforms])
        if min_frames is not None:
            features, lengths = self.add_silence(features, lengths, min_frames=min_frames.to(device))
        frames = self._padded_length(features.shape[1], padding, max_length, truncation, pad_to_multiple_of)
        features, lengths = F.pad(features, (0, 0, 0, frames - features.shape[1])), lengths.clamp(max=frames)
        data = {"input_features": features}
        if return_attention_mask:
            places = torch.arange(features.shape[1], device=features.device)
            data["attention_mask"] = (places < lengths[:, None]).long()  # (B, T)
        return BatchFeature(
            data if return_tensors == "pt" else {key: value.cpu().numpy() for key, value in data.items()},
            tensor_type=return_tensors,
        )

    def _padded_length(
        self, frames: int, padding: bool | str, max_length: int | None, truncation: bool, multiple: int | None
    ) -> int:
        """Return the frames of a batch whose longest waveform has `frames`; the options are those of `__call__`."""
        if truncation and max_length is None:
            raise ValueError("truncation needs a max_length, in frames")
        strategy = self._get_padding_strategies(padding=padding, max_length=max_length)  # checks both
        frames = min(frames, max_length) if truncation else frames
        frames = max(frames, max_length) if strategy == PaddingStrategy.MAX_LENGTH else frames
        return math.ceil(frames / multiple) * multiple if multiple else frames

    def _check(self, waveform: np.ndarray | torch.Tensor | list[float], place: int) -> torch.Tensor:
        """Return the waveform as a float32 tensor; raise ValueError if it is empty, not finite or not mono."""
        waveform = torch.as_tensor(waveform).detach()
        if not waveform.is_floating_point():
            if waveform.dtype not in FULL_SCALE:
                raise ValueError(
                    f"waveform {place} is {waveform.dtype}, whose full scale is unknown: give float in [-1, 1], int16, "
                    "int32 or uint8"
                )
            zero, full_scale = FULL_SCALE[waveform.dtype]
            waveform = (waveform.double() - zero) / full_scale
        waveform = waveform.to(torch.float32)
        if waveform.ndim != 1:
            raise ValueError(f"waveform {place} has shape {tuple(waveform.shape)}, but mono is expected: (samples,)")
        if not len(waveform):
            raise ValueError(f"waveform {place} is empty")
        if not torch.isfinite(waveform).all():
            raise ValueError(f"waveform {place} contains NaN or infinite samples")
        return waveform

    def _batch_fbank(self, waveforms: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `fbank` returns for waveforms (samples,)."""
        device = waveforms[0].device
        lengths = torch.tensor([len(waveform) for waveform in waveforms], device=device)
        if device.type != "cpu":
            return self.fbank(pad_sequence(waveforms, batch_first=True), lengths)
        # Single waveforms fit into the processor's cache: half the time of a batch.
        alone = [self.fbank(waveforms[i][None], lengths[i : i + 1]) for i in range(len(waveforms))]
        features = pad_sequence([frames[0] for frames, _ in alone], batch_first=True)  # (B, T, M)
        return features, torch.cat([frame_length for _, frame_length in alone])

    def fbank(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the features of a batch; exported graphs contain this function too.

        Args:
            waveforms: (batch, samples), padded with zeros.
            lengths: Real samples of each waveform, (batch,).

        Returns:
            The features (batch, frames, num_mel_bins), padded with zeros, and the real frames of each waveform,
            (batch,).
        """
        features, frame_lengths = self.log_mel(waveforms, lengths)
        return self.add_silence(features, frame_lengths, min_frames=self.num_frames(0))

    def add_silence(
        self, features: torch.Tensor, lengths: torch.Tensor, *, min_frames: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append frames of digital silence to each recording's real frames, up to `min_frames`; they count as real.

        The silence is not appended to the waveform, because that would change the last real frames: Kaldi mirrors the
        signal at its end.

        Args:
            features: (batch, frames, num_mel_bins); the values of padded frames do not matter.
            lengths: Real frames of each recording, (batch,).
            min_frames: One number for all recordings, or one for each, (batch,).

        Returns:
            Features and lengths, as `fbank` returns them.
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
        """Compute the frames of each recording itself, without the silence that `min_duration` adds.

        Arguments and results are those of `fbank`, but the values of padded frames are arbitrary.
        """
        frames, frame_lengths = self._cut_frames(waveforms, lengths)
        return self.frames_to_log_mel(frames), frame_lengths

    def frames_to_log_mel(self, frames: torch.Tensor) -> torch.Tensor:
        """Compute the features (B, T, num_mel_bins) of frames of samples (B, T, window_length).

        The samples are those of a waveform, multiplied by `waveform_scale`.
        """
        device = frames.device
        if self.dither:
            frames = frames + self.dither * torch.randn_like(frames)
        if self.remove_dc_offset:
            frames = frames - frames.mean(-1, keepdim=True)
        if self.preemphasis:
            previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            frames = frames - self.preemphasis * previous
        frames = frames * window_function(self.window_type, self.window_length, device)
        fft_length = 1 << (self.window_length - 1).bit_length()
        spectrum = torch.fft.rfft(frames, n=fft_length)  # (B, T, fft / 2 + 1)
        # `spectrum.abs()` would need a third of the time of all features.
        power = spectrum.real.square() + spectrum.imag.square()
        filters = mel_filters(self.num_mel_bins, fft_length, self.sampling_rate, self.low_freq, self.high_freq, device)
        return (power @ filters).clamp(min=self.energy_floor).log()  # (B, T, M)

    def _cut_frames(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled samples of each frame, (B, T, window_length), and the real frames of each waveform, (B,).

        Kaldi mirrors the signal at both ends, including the outermost sample, and repeatedly if the signal is short.
        """
        window_length, hop, device = self.window_length, self.hop_length, waveforms.device
        waveforms = F.pad(waveforms, (0, torch.sym_max(0, 1 - waveforms.shape[1])))  # at least one sample to mirror
        samples, lengths = waveforms.shape[1], lengths.clamp(min=1)
        if self.snip_edges:
            first, total = 0, (samples - window_length) // hop + 1
            frame_lengths = (torch.div(lengths - window_length, hop, rounding_mode="floor") + 1).clamp(min=0)
        else:
            first, total = hop // 2 - window_length // 2, (samples + hop // 2) // hop
            frame_lengths = torch.div(lengths + hop // 2, hop, rounding_mode="floor")
        total = torch.sym_max(total, 1)  # at least one frame, of padding: the FFT needs one
        # `place` is the index in the waveform of each sample from the first frame's start to the last frame's end. The
        # mirrored signal has the period 2 * length: first the waveform forwards, then backwards.
        place = first + torch.arange((total - 1) * hop + window_length, device=device)  # (N,)
        place = place.remainder(2 * lengths[:, None])  # (B, N)
        place = torch.minimum(place, 2 * lengths[:, None] - 1 - place)
        signal = waveforms.gather(1, place) * self.waveform_scale
        return signal.unfold(1, window_length, hop), frame_lengths  # a view of the signal


def _as_list(raw_speech: np.ndarray | torch.Tensor | Sequence) -> list:
    """Return one waveform or several as a list.

    Raises:
        ValueError: There is none, or an array has the shape (samples, channels), as soundfile reads a stereo file.
    """
    if isinstance(raw_speech, np.ndarray | torch.Tensor):
        if raw_speech.ndim == 2 and raw_speech.shape[0] > raw_speech.shape[1]:
            raise ValueError(
                f"an array of the shape {tuple(raw_speech.shape)} has more waveforms than samples: if it is one "
                "recording (samples, channels), give the mean of its channels, waveform.mean(1)"
            )
        return [raw_speech] if raw_speech.ndim == 1 else list(raw_speech)
    if not len(raw_speech):
        raise ValueError("there is no waveform: the list is empty")
    return [raw_speech] if np.isscalar(raw_speech[0]) else list(raw_speech)


def _denoise(waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Return a denoised waveform (samples,); `ConformerFeatureExtractor` has an argument named `denoise`."""
    return torch.from_numpy(denoise(waveform.cpu().numpy(), sampling_rate=sampling_rate))


__all__ = ["ConformerFeatureExtractor"]
