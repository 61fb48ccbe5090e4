"""An exported graph in the place of the PyTorch model: in pipelines, evaluation, transcription and serving."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from huggingface_hub import hf_hub_download
from optimum.modeling_base import OptimizedModel
from transformers import AutoModelForCTC
from transformers.modeling_outputs import CausalLMOutput

from ..model import ConformerConfig, ConformerForCTC
from .providers import GRAPH, SHAPES, open_session


class OrtConformerForCTC(OptimizedModel):
    """`OrtConformerForCTC.from_pretrained(folder or Hub id, file_name="model.int8.onnx", provider="cpu")`.

    Its `logits` are log-probabilities; everything else is as with `ConformerForCTC`.
    """

    auto_model_class = AutoModelForCTC
    main_input_name = "input_features"
    device = torch.device("cpu")  # where inputs and outputs are; the session copies them to where it runs
    dtype = torch.float32

    def __init__(self, session: onnxruntime.InferenceSession, config: ConformerConfig, path: Path):
        super().__init__(session, config)
        self.path = path
        # the length of the output is the configuration's matter alone
        self.get_output_lengths = ConformerForCTC.get_output_lengths.__get__(self)
        self._get_feat_extract_output_lengths = self.get_output_lengths

    def forward(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None, **_) -> CausalLMOutput:
        """`input_features` (batch, frames, num_mel_bins), `attention_mask` (batch, frames); all frames if not given."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        inputs = {
            "input_features": input_features.float().cpu().numpy(),
            "attention_mask": attention_mask.cpu().numpy().astype(np.int64),
        }
        # TensorRT's engine takes batches up to a size.
        size = SHAPES["max"][0] if "Tensorrt" in self.model.get_providers()[0] else len(input_features)
        parts = [
            self.model.run(None, {name: value[start : start + size] for name, value in inputs.items()})[0]
            for start in range(0, len(input_features), size)
        ]
        return CausalLMOutput(logits=torch.from_numpy(np.concatenate(parts)))

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
        """Raises ValueError for a file that is not there, no graph of features, or whose provider is not there."""
        if Path(model_id).is_dir():
            path = Path(model_id) / subfolder / file_name
            if not path.is_file():
                raise ValueError(f"{path} does not exist: python scripts/export.py --target onnx writes it")
        else:
            options = {"cache_dir": cache_dir, "token": token, "force_download": force_download}
            options |= {"subfolder": subfolder or None, "revision": revision, "local_files_only": local_files_only}
            path = Path(hf_hub_download(str(model_id), file_name, **options))
        session = open_session(path, provider=provider, threads=threads)
        names = [value.name for value in session.get_inputs()]
        if names != ["input_features", "attention_mask"]:
            raise ValueError(f"{path} takes {', '.join(names)}, not features: give a graph of --target onnx")
        return cls(session, config, path)

    def _save_pretrained(self, save_directory: str | Path) -> None:
        shutil.copyfile(self.path, Path(save_directory) / self.path.name)
