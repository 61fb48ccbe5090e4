"""Load a checkpoint: a model and its processor, from weights or from an exported graph, of any CTC family."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoProcessor,
    AutoTokenizer,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .families import as_conformer_tokenizer, merge_sounds
from .files import GRAPH, STREAMING_GRAPH
from .model import ConformerProcessor

logger = logging.getLogger("hf_asr")


def load_checkpoint(
    model_name_or_path: str, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, ConformerProcessor]:
    """Return a model in evaluation mode and its processor.

    onnxruntime runs a folder that has `model.onnx` (or only `model-streaming.onnx`) but no PyTorch weights, and an
    .onnx file in a folder or in a repository on the Hub (`owner/name/onnx/model.int8.onnx`).

    Args:
        device: Where the PyTorch model computes; CUDA if it is available and None is given.
        dtype: Precision of the PyTorch model, whatever that of the file is.

    Raises:
        ValueError: The name is not a checkpoint, or the checkpoint is damaged or has no tokenizer; or it is a graph,
            which has its own precision, and the dtype is another one than float32.
        ImportError: An exported graph needs onnxruntime, which is not installed.
    """
    path = graph = Path(model_name_or_path)
    if (path / "config.json").is_file() and not list(path.glob("*.safetensors")) and list(path.glob("*.onnx")):
        is_streaming = not (path / GRAPH).is_file() and (path / STREAMING_GRAPH).is_file()
        graph = path / (STREAMING_GRAPH if is_streaming else GRAPH)
    if graph.suffix == ".onnx":
        if dtype != torch.float32:
            raise ValueError(
                f"{graph} is an exported graph, which has its own precision: leave dtype out, or export another one "
                "with --quantize int8 or fp16"
            )
        return load_graph(graph)
    check_is_checkpoint(model_name_or_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with loading(model_name_or_path):
        model = AutoModelForCTC.from_pretrained(model_name_or_path, dtype=dtype).to(device).eval()
        merge_sounds(model)
        return model, load_processor(model_name_or_path, model.config)


@contextlib.contextmanager
def loading(model_name_or_path: str) -> Iterator[None]:
    """Turn the errors of transformers for a wrong name or a damaged file into a ValueError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        if not Path(model_name_or_path).exists():
            reason = f"it is not a folder, and it cannot be loaded from the Hub: {reason}"
        raise ValueError(f"{model_name_or_path} cannot be loaded: {reason}") from error


def load_graph(path: Path) -> tuple[PreTrainedModel, ConformerProcessor]:
    """Return an exported graph instead of a model, and its processor.

    Args:
        path: The .onnx file, local or in a repository on the Hub.
    """
    try:
        from .runtime.ort_model import OrtConformerForCTC
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install 'hf_asr[export]' ({error})") from error
    folder, subfolder = str(path.parent), ""
    if not path.parent.is_dir() and not path.is_absolute() and len(path.parts) > 2:
        folder, subfolder = "/".join(path.parts[:2]), "/".join(path.parts[2:-1])
    check_is_checkpoint(folder)
    with loading(folder):
        model = OrtConformerForCTC.from_pretrained(folder, subfolder=subfolder, file_name=path.name)
        return model, load_processor(folder, model.config)


class NoTokenizerError(ValueError):
    """The model was pre-trained without transcripts, so it has no vocabulary."""


def check_is_checkpoint(model_name_or_path: str) -> None:
    """Raise ValueError if the name is a local path that does not exist or is not a checkpoint."""
    path = Path(model_name_or_path)
    if not path.exists() and (path.is_absolute() or model_name_or_path.startswith(".") or len(path.parts) > 2):
        raise ValueError(f"{path} does not exist")  # a Hub id has one slash at most
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path} is not a checkpoint: it has no config.json (a training run writes one at its end)")


def load_processor(
    model_name_or_path: str, config: PreTrainedConfig, *, text_normalization: str = "basic"
) -> ConformerProcessor:
    """Return a checkpoint's processor.

    Another family keeps its feature extractor, and its tokenizer becomes one of ours.

    Raises:
        NoTokenizerError: The checkpoint has no tokenizer.
    """
    try:
        processor = AutoProcessor.from_pretrained(model_name_or_path)
        extractor, tokenizer = getattr(processor, "feature_extractor", None), getattr(processor, "tokenizer", None)
    except ImportError:  # Wav2Vec2ProcessorWithLM needs pyctcdecode
        processor = None
        extractor, tokenizer = _without_language_model(model_name_or_path)
    except TypeError:  # a tokenizer of wav2vec2's family raises it without a vocabulary
        processor = extractor = tokenizer = None
    if isinstance(processor, ConformerProcessor):
        return processor
    if tokenizer is None:
        raise NoTokenizerError(f"{model_name_or_path} has no tokenizer: fine-tune it on transcripts first")
    if hasattr(processor, "decoder"):
        logger.warning(f"{model_name_or_path}: loaded without its n-gram language model, which hf_asr does not use")
    adapted = as_conformer_tokenizer(tokenizer, blank_id=config.pad_token_id, text_normalization=text_normalization)
    return ConformerProcessor(extractor, adapted)


def _without_language_model(model_name_or_path: str) -> tuple[FeatureExtractionMixin, PreTrainedTokenizerBase]:
    """Return the extractor and tokenizer of a processor that cannot be imported.

    Raises:
        ImportError: They need the missing package, too.
    """
    parts = AutoFeatureExtractor.from_pretrained(model_name_or_path), AutoTokenizer.from_pretrained(model_name_or_path)
    logger.warning(f"{model_name_or_path}: loaded without its n-gram language model, which hf_asr does not use")
    return parts
