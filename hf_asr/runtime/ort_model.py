"""Use an exported graph as a model: in pipelines, evaluation, transcription, live audio and serving."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from huggingface_hub import hf_hub_download
from optimum.modeling_base import OptimizedModel
from transformers import AutoModelForCTC

from ..files import GRAPH
from ..model import ConformerConfig, ConformerForCTC
from ..model.modeling_conformer import ConformerCTCOutput
from ..model.streaming_conformer import StreamingCache, empty_cache
from .providers import PROVIDERS, SHAPES, open_session

FEATURES = ("input_features", "attention_mask")
CACHE = ("attention_cache", "convolution_cache", "offset")  # the fields of a `StreamingCache`, in its order


class OrtConformerForCTC(OptimizedModel):
    """An exported graph of features, with the interface of `ConformerForCTC`; its `logits` are log-probabilities.

    Load it with `OrtConformerForCTC.from_pretrained(folder or Hub id, file_name="model.int8.onnx", provider="cpu")`.

    Attributes:
        takes_cache: The graph encodes live audio too (`--streaming true`). Its chunks are constants: they replace those
            of the configuration.
    """

    auto_model_class = AutoModelForCTC
    main_input_name = "input_features"
    device = torch.device("cpu")  # of inputs and outputs; the session copies them to the device that it runs on
    dtype = torch.float32

    def __init__(self, session: onnxruntime.InferenceSession, config: ConformerConfig, path: Path):
        super().__init__(session, config)
        self.path = path
        self.takes_cache = input_names(session) == (*FEATURES, *CACHE)
        if self.takes_cache:
            properties = session.get_modelmeta().custom_metadata_map
            config.chunk_size, config.num_left_chunks = (
                int(properties[name]) for name in ("chunk_size", "num_left_chunks")
            )
        # The number of output frames depends on the configuration only, so the model's method computes it.
        self.get_output_lengths = ConformerForCTC.get_output_lengths.__get__(self)
        self._get_feat_extract_output_lengths = self.get_output_lengths

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: StreamingCache | None = None,
        **_,
    ) -> ConformerCTCOutput:
        """Compute log-probabilities (batch, encoder frames, vocabulary).

        Args:
            input_features: Log-mel features (batch, frames, num_mel_bins).
            attention_mask: (batch, frames), 1 for real frames; by default, all frames are real.
            cache: Of the step before, for a graph that takes a cache; by default, the frames are whole recordings.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        inputs = {
            "input_features": input_features.float().cpu().numpy(),
            "attention_mask": attention_mask.cpu().numpy().astype(np.int64),
        }
        if self.takes_cache:
            options = {"device": self.device, "dtype": self.dtype}
            given = cache or empty_cache(self.config, batch_size=len(input_features), **options)
            inputs |= zip(CACHE, (tensor.numpy() for tensor in given), strict=True)
            log_probs, *tensors = map(torch.from_numpy, self.model.run(None, inputs))
            return ConformerCTCOutput(logits=log_probs, cache=cache and StreamingCache(*tensors))
        # TensorRT's engine takes batches of a limited size.
        size = SHAPES["max"][0] if "Tensorrt" in self.model.get_providers()[0] else len(input_features)
        parts = [
            self.model.run(None, {name: value[start : start + size] for name, value in inputs.items()})[0]
            for start in range(0, len(input_features), size)
        ]
        return ConformerCTCOutput(logits=torch.from_numpy(np.concatenate(parts)))

    def eval(self) -> "OrtConformerForCTC":
        return self

    def to(self, *_) -> "OrtConformerForCTC":
        return self

    def can_generate(self) -> bool:
        return False

    @classmethod
    def _from_pretrained(
        cls,
        model_id: str | Path,
        config: ConformerConfig,
        *,
        file_name: str = GRAPH,
        provider: str = "auto",
        threads: int | None = None,
        subfolder: str = "",
        revision: str | None = None,
        cache_dir: str | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **_,
    ) -> "OrtConformerForCTC":
        """Open the graph `file_name` of a folder or a Hub repository.

        Raises:
            ValueError: The file does not exist or is not a graph of features, or the provider is not available.
        """
        if Path(model_id).is_dir():
            path = Path(model_id) / subfolder / file_name
            if not path.is_file():
                raise ValueError(f"{path} does not exist: python scripts/export.py --target onnx writes it")
        else:
            options = {"cache_dir": cache_dir, "token": token, "force_download": force_download}
            options |= {"subfolder": subfolder or None, "revision": revision, "local_files_only": local_files_only}
            path = Path(hf_hub_download(str(model_id), file_name, **options))
        session = open_session(path, provider=provider, threads=threads)
        names = input_names(session)
        if names not in (FEATURES, (*FEATURES, *CACHE)):
            raise ValueError(f"{path} takes {', '.join(names)}, not features: give a graph of --target onnx")
        return cls(session, config, path)

    def __reduce__(self) -> tuple[Callable, tuple[ConformerConfig, Path, str, int]]:
        """Pickle the path of the graph, which is opened again: a session of onnxruntime cannot be pickled."""
        provider = next(name for name, full in PROVIDERS.items() if full == self.model.get_providers()[0])
        threads = self.model.get_session_options().intra_op_num_threads
        return reopened, (self.config, self.path, provider, threads)

    def _save_pretrained(self, save_directory: str | Path) -> None:
        shutil.copyfile(self.path, Path(save_directory) / self.path.name)


def reopened(config: ConformerConfig, path: Path, provider: str, threads: int) -> OrtConformerForCTC:
    """Return a pickled graph in the process that unpickles it."""
    return OrtConformerForCTC(open_session(path, provider=provider, threads=threads), config, path)


def input_names(session: onnxruntime.InferenceSession) -> tuple[str, ...]:
    """Return the names of a graph's inputs."""
    return tuple(value.name for value in session.get_inputs())
