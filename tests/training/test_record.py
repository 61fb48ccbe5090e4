"""The content of training.json, without paths of this machine."""

import torch
from transformers.trainer_callback import TrainerState

from hf_asr.provenance import public_name, weights_sha256
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.record import training_record


def test_the_record_describes_data_recipe_and_hardware(checkpoint, corpus, tmp_path):
    (tmp_path / "words.txt").touch()
    warm_start = {"steps": 3, "texts": [str(tmp_path / "words.txt")]}
    state = TrainerState(global_step=7, epoch=1.5, log_history=[{"step": 7, "train_runtime": 12.34}])
    record = training_record(
        ModelArguments(model_name_or_path=str(checkpoint)),
        DataArguments(dataset_name=f"[{{name: {corpus}}}, {{name: owner/speech, weight: 2}}]", warm_start=warm_start),
        ConformerTrainingArguments(output_dir=str(checkpoint), precision="fp32", learning_rate=2e-3),
        state,
        scored={"dataset": "spoken, owner/speech", "split": "train", "selection": {"held_out_share": 0.05}},
        durations=[1800.0, 1800.0],
        is_resumed=False,
        synthetic_speech={"hours": 2.5, "share_of_batches": 0.5},
        command="python scripts/train.py",
    )
    assert record["command"] == "python scripts/train.py"
    assert record["datasets"] == [
        {"name": "spoken", "config": None, "split": "train"},
        {"name": "owner/speech", "config": None, "split": "train"},
    ]
    assert record["chosen_on"]["split"] == "train" and record["chosen_on"]["selection"] == {"held_out_share": 0.05}
    assert record["base_model"] == checkpoint.name and record["model_sha256"] == weights_sha256(checkpoint)
    assert (record["hours"], record["utterances"], record["steps"], record["seconds"]) == (1.0, 2, 7, 12.3)
    assert record["recipe"]["learning_rate"] == 2e-3 and record["recipe"]["augmentations"] == []
    assert record["recipe"]["warm_start"] == {"steps": 3, "texts": ["words.txt"]}
    assert record["synthetic_speech"] == {"hours": 2.5, "share_of_batches": 0.5}
    assert record["precision"] == "fp32" and record["processes"] == 1
    if not torch.cuda.is_available():
        assert record["hardware"].endswith(f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")
    assert record["versions"]["transformers"]


def test_public_names_have_no_paths(tmp_path):
    (tmp_path / "mine").mkdir()
    assert public_name(str(tmp_path / "mine")) == "mine"
    assert public_name("owner/speech") == "owner/speech"
    assert public_name("imdb") == "imdb"
