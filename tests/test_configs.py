"""Every recipe parses and builds a model of its documented size."""

from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.arguments import parse_arguments
from hf_asr.data.augment import build_augmentation
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
MILLIONS = {
    "quickstart": (1, 3),
    "streaming": (1, 3),
    "digits": (1, 3),
    "tiny": (2, 4),
    "few_hours": (2, 4),
    "small": (8, 12),
    "medium": (25, 35),
    "streaming_medium": (25, 35),
    "article": (80, 100),
    "aishell1": (40, 50),
    "librispeech": (70, 90),
}


@pytest.mark.parametrize("path", sorted((CONFIGS[0].parent / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path):
    assert f"--config_file configs/accelerate/{path.name}" in path.read_text().splitlines()[0]
    config = load_config_from_file(str(path))
    assert config.mixed_precision == ("fp16" if path.stem == "fp16" else "bf16")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recipe_builds_a_model_of_its_size(path, tmp_path):
    first_line = path.read_text().splitlines()[0]
    assert first_line.startswith(f"# accelerate launch scripts/train.py --config configs/{path.name}")
    classes = (ModelArguments, DataArguments, ConformerTrainingArguments)
    output = [] if "output_dir" in yaml.safe_load(path.read_text()) else ["--output_dir", str(tmp_path)]
    model, data, _ = parse_arguments(classes, ["--config", str(path), *output])
    build_augmentation(data.augmentations, seed=0)
    with torch.device("meta"):
        parameters = ConformerForCTC(ConformerConfig(**model.model, vocab_size=4233)).num_parameters() / 1e6
    low, high = MILLIONS[path.stem]
    assert low <= parameters <= high
