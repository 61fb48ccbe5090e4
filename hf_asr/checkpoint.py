"""Loading a checkpoint, ours or any CTC model that transformers knows, and what the rest has to ask of either."""

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

from .families import as_conformer_tokenizer
from .model import ConformerProcessor

logger = logging.getLogger("hf_asr")


def load_checkpoint(
    model_name_or_path: str, *, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, ConformerProcessor]:
    """Model in evaluation mode on `device` (CUDA where there is one), and its processor.

    A folder without PyTorch weights but with `model.onnx`, or an .onnx file in a folder or a Hub repository
    (`owner/name/onnx/model.int8.onnx`), is run by onnxruntime.

    Raises:
        ValueError: No checkpoint, here or on the Hub, or a damaged one; or a checkpoint without a tokenizer.
        ImportError: An exported graph, and onnxruntime is not installed.
    """
    path = Path(model_name_or_path)
    if path.suffix == ".onnx":
        return load_graph(path)
    if (path / "config.json").is_file() and not list(path.glob("*.safetensors")) and list(path.glob("*.onnx")):
        return load_graph(path / "model.onnx")
    check_is_checkpoint(model_name_or_path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with loading(model_name_or_path):
        model = AutoModelForCTC.from_pretrained(model_name_or_path, dtype=torch.float32).to(device).eval()
        return model, load_processor(model_name_or_path, model.config)


@contextlib.contextmanager
def loading(model_name_or_path: str) -> Iterator[None]:
    """Turn what transformers raises for a wrong name or a damaged file into a ValueError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = " ".join(str(error).split())
        if not Path(model_name_or_path).exists():
            what = f"it is no folder here, and the Hub does not give it: {what}"
        raise ValueError(f"{model_name_or_path} cannot be loaded: {what}") from error


def load_graph(path: Path) -> tuple[PreTrainedModel, ConformerProcessor]:
    """An exported graph in the place of the model; `path` is the .onnx file, here or in a Hub repository."""
    try:
        from .runtime.ort_model import OrtConformerForCTC
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install hf_asr[export] ({error})") from error
    folder, subfolder = str(path.parent), ""
    if not path.parent.is_dir() and not path.is_absolute() and len(path.parts) > 2:
        folder, subfolder = "/".join(path.parts[:2]), "/".join(path.parts[2:-1])
    check_is_checkpoint(folder)
    with loading(folder):
        model = OrtConformerForCTC.from_pretrained(folder, subfolder=subfolder, file_name=path.name)
        return model, load_processor(folder, model.config)


class NoTokenizerError(ValueError):
    """A model that was pre-trained without transcripts."""


def check_is_checkpoint(model_name_or_path: str) -> None:
    """Raises ValueError if it is a local folder that is no checkpoint, or is not there."""
    path = Path(model_name_or_path)
    if not path.exists() and (path.is_absolute() or model_name_or_path.startswith(".") or len(path.parts) > 2):
        raise ValueError(f"{path} does not exist")  # a Hub id has one slash at most
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path} is no checkpoint: it has no config.json (a training run's folder has one at its end)")


def load_processor(
    model_name_or_path: str, config: PreTrainedConfig, *, text_normalization: str = "basic"
) -> ConformerProcessor:
    """A checkpoint's processor; another family's feature extractor stays, its tokenizer becomes one of ours.

    Raises:
        NoTokenizerError: It has no tokenizer.
    """
    try:
        processor = AutoProcessor.from_pretrained(model_name_or_path)
        extractor, tokenizer = getattr(processor, "feature_extractor", None), getattr(processor, "tokenizer", None)
    except ImportError:  # Wav2Vec2ProcessorWithLM wants pyctcdecode
        processor = None
        extractor, tokenizer = _without_language_model(model_name_or_path)
    except TypeError:  # how a tokenizer of wav2vec2's family takes it that there is no vocabulary
        processor = extractor = tokenizer = None
    if isinstance(processor, ConformerProcessor):
        return processor
    if tokenizer is None:
        raise NoTokenizerError(f"{model_name_or_path} has no tokenizer: it has to be trained on transcripts first")
    if hasattr(processor, "decoder"):
        logger.warning(
            f"{model_name_or_path}: loaded without its n-gram language model, which nothing here decodes with"
        )
    adapted = as_conformer_tokenizer(tokenizer, blank_id=config.pad_token_id, text_normalization=text_normalization)
    return ConformerProcessor(extractor, adapted)


def _without_language_model(model_name_or_path: str) -> tuple[FeatureExtractionMixin, PreTrainedTokenizerBase]:
    """Extractor and tokenizer of a processor that cannot be imported; re-raises where they need the import as well."""
    parts = AutoFeatureExtractor.from_pretrained(model_name_or_path), AutoTokenizer.from_pretrained(model_name_or_path)
    logger.warning(f"{model_name_or_path}: loaded without its n-gram language model, which nothing here decodes with")
    return parts
