"""CTC's plateau is recognised, and regularisation starts when it is left; a resumed run does the same."""

import json
import logging
import math
import shutil

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.batching import DurationBatchSampler, MixedBatchSampler
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.sources import Source
from hf_asr.families import summed_ctc_loss
from hf_asr.model import ConformerConfig
from hf_asr.model.layers_conformer import ConformerDropout
from hf_asr.training import plateau as plateau_module
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.callbacks import plot_curves
from hf_asr.training.plateau import MEASURED_EVERY, Plateau, measure_batch, remedies
from hf_asr.training.prepare import prepare
from hf_asr.training.regularization import strength_at
from hf_asr.training.run import fit

from .test_families import FAMILIES
from .test_run import RECIPE, arguments, assert_same_weights, run

# Everything that the schedule scales, so that each of its phases changes the weights.
REGULARIZED = {
    "model": RECIPE["model"] | {"attention_dropout": 0.1, "layerdrop": 0.2, "consistency_weight": 0.2},
    "label_smoothing_factor": 0.1,
    "inspect_audio": False,
    "cpu_threads": 1,
}


def test_measured_loss_is_the_plain_ctc_loss_of_the_training_batch(corpus, checkpoint):
    """It has no label smoothing, and is that of the first copy of CR-CTC, without padded frames."""
    model, processor = load_checkpoint(str(checkpoint), device="cpu")
    rows = Source(str(corpus)).load("train").select(range(4))
    batch = SpeechCollator(processor)(list(map(SpeechDataset(rows, processor=processor).__getitem__, range(4))))
    expected = model(**batch)
    loss, tokens, blanks, frames = measure_batch(
        model, expected.logits, batch["attention_mask"], batch["labels"]
    ).tolist()
    assert loss / tokens == pytest.approx(expected.loss.item(), rel=1e-5)
    assert frames == model.get_output_lengths(batch["attention_mask"].sum(-1)).sum()
    assert 0 <= blanks <= frames
    model.config.label_smoothing, model.config.consistency_weight = 0.5, 0.5
    model.train()
    logits = model(**batch).logits
    again = measure_batch(model, logits, batch["attention_mask"], batch["labels"])
    assert len(logits) == 4 and again.tolist() == pytest.approx([loss, tokens, blanks, frames], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_measured_loss_of_another_family_is_its_ctc_loss(family, tmp_path):
    FAMILIES[family](tmp_path)
    model, _ = load_checkpoint(str(tmp_path), device="cpu")
    mask = torch.ones(2, 40 if family in ("wav2vec2-bert", "parakeet_ctc") else 16000)
    mask[1, len(mask[1]) // 2 :] = 0
    logits = torch.randn(2, 49, model.config.vocab_size)
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    loss, tokens, _, frames = measure_batch(model, logits, mask, labels).tolist()
    assert loss == pytest.approx(summed_ctc_loss(model.eval(), logits, mask, labels).item()) and tokens == 4
    assert frames < 2 * 49


def args_of(tmp_path, **options) -> ConformerTrainingArguments:
    return ConformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)


def measured(losses: list[float], constant: float) -> Plateau:
    """A plateau after these losses per token, in batches of 100 tokens and 1000 frames, 970 of them blanks."""
    plateau, state = Plateau(constant, remedies=["model: {a: 1}", "warm_start"]), TrainerState(global_step=0)
    for place, loss in enumerate(losses, start=1):
        state.global_step = MEASURED_EVERY * place
        if plateau.measures(state.global_step):
            plateau.add(torch.tensor([40 * loss, 40, 370.0, 400]))  # two micro-batches
            plateau.add(torch.tensor([60 * loss, 60, 600.0, 600]))
        plateau.on_step_end(None, state, None)
    return plateau


def test_the_plateau_is_left_when_the_mean_of_ten_measurements_is_below_the_threshold(caplog):
    caplog.set_level(logging.INFO, logger="hf_asr")
    assert measured([1.0] * 9, 4.0).left_at is None  # too few measurements
    assert measured([3.5] * 30, 4.0).left_at is None
    assert measured([math.nan] + [1.0] * 9, 4.0).left_at is None
    assert caplog.text == ""
    left = measured([4.0] * 10 + [1.0] * 10, 4.0)  # the mean is below 3.4 with the third measurement of 1.0
    assert left.left_at == 143 and not left.measures(154)
    assert "step 143: off CTC's plateau: the loss is 3.10 per token, where the frequencies of the tokens" in caplog.text


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.3, 0.5, 0.9])
def test_synthetic_batches_are_measured_as_often_as_they_are_trained_on(share, accumulation):
    recordings, spoken = (DurationBatchSampler([1.0] * count, max_batch_seconds=1) for count in (40, 60))
    options = {"steps": 0, "share": share, "fade_steps": 0, "gradient_accumulation_steps": accumulation}
    mixed = MixedBatchSampler(recordings, spoken, **options)
    are_synthetic = mixed.are_synthetic(epochs=accumulation * 60)  # of 40 batches
    measured_steps = np.arange(MEASURED_EVERY, 2201, MEASURED_EVERY) - 1
    measured_batches = (accumulation * measured_steps[:, None] + np.arange(accumulation)).ravel()
    assert are_synthetic[measured_batches].mean() == pytest.approx(share, abs=0.05)


def test_a_checkpoint_of_an_older_version_starts_new_measurements():
    plateau, state = measured([3.9] * 3, 4.0), TrainerState(global_step=35)
    assert not state.stateful_callbacks
    Plateau(4.0).on_train_begin(None, state, None)
    assert state.stateful_callbacks["Plateau"]["attributes"] == {"measurements": [], "left_at": None}
    state.stateful_callbacks["Plateau"] = json.loads(json.dumps(plateau.state()))
    resumed = Plateau(4.0)
    resumed.on_train_begin(None, state, None)
    assert len(resumed.measurements) == 3 and resumed.left_at is None


def test_an_evaluation_on_the_plateau_logs_a_warning_after_the_warm_up(tmp_path, caplog):
    args, plateau = args_of(tmp_path, warmup_steps=200), measured([3.9] * 10, 4.0)
    plateau.on_evaluate(args, TrainerState(global_step=190, max_steps=1000, is_world_process_zero=True), None)
    plateau.on_evaluate(args, TrainerState(global_step=200, max_steps=1000, is_world_process_zero=False), None)
    Plateau(4.0).on_evaluate(args, TrainerState(global_step=200, is_world_process_zero=True), None)
    assert caplog.text == ""
    plateau.on_evaluate(args, TrainerState(global_step=200, max_steps=1000, is_world_process_zero=True), None)
    assert caplog.messages == [
        "step 200: still on CTC's plateau: 97% of the frames are blanks, and the loss is 3.90 per token, where the "
        "frequencies of the tokens alone give 4.00. More steps may not help. What helps: model: {a: 1}; warm_start"
    ]
    plateau.left_at = 200
    plateau.on_evaluate(args, TrainerState(global_step=200, max_steps=1000, is_world_process_zero=True), None)
    assert len(caplog.messages) == 1


def test_advice_leaves_out_what_the_run_does_already(tmp_path):
    def advice(model: dict, model_args: dict, *, warm_start: dict | None = None, **options) -> list[str]:
        parts = (ConformerConfig(**model), ModelArguments(**model_args), DataArguments(warm_start=warm_start or spoken))
        return remedies(*parts, args_of(tmp_path, **options))

    deep, spoken = "model: {intermediate_ctc_layers: [3, 6]}", {"steps": 100}
    assert remedies(ConformerConfig(num_hidden_layers=8), ModelArguments(), DataArguments(), args_of(tmp_path)) == [
        deep,
        "warm_start (synthetic speech of your transcripts)",
        "a checkpoint of another language (--model_name_or_path)",
        "regularization_start: plateau",
    ]
    quiet = {"hidden_dropout": 0, "activation_dropout": 0, "apply_spec_augment": False}
    checkpoint = "a checkpoint of another language (--model_name_or_path)"
    assert advice({"num_hidden_layers": 8} | quiet, {}) == [deep, checkpoint]
    followed = {"num_hidden_layers": 8, "intermediate_ctc_layers": [3]}
    assert advice(followed, {}, regularization_start="plateau") == [checkpoint]
    assert advice({"num_hidden_layers": 1} | quiet, {}) == [checkpoint]
    assert advice({"num_hidden_layers": 8}, {"model_name_or_path": "x"}) == []  # a recipe's layers have no effect


def test_curves_show_the_loss_of_the_token_frequencies(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    history = [{"step": 1, "loss": 5.0}, {"step": 1, "eval_cer": 1.0}]
    plot_curves(history, tmp_path / "curves.png", constant_loss=3.0)
    plot_curves(history, tmp_path / "curves.png")
    labels = [[line.get_label() for axis in figure.axes for line in axis.lines] for figure in figures]
    assert labels == [["training", "token frequencies alone", "CER"], ["training", "CER"]]


@pytest.mark.parametrize(
    ("step", "start", "ramp", "strength"),
    [
        (1000, None, 500, 0.0),
        (99, 100, 500, 0.0),
        (100, 100, 500, 0.0),
        (124, 100, 500, 0.0),
        (125, 100, 500, 0.05),
        (350, 100, 500, 0.5),
        (599, 100, 500, 0.95),
        (600, 100, 500, 1.0),
        (5000, 100, 500, 1.0),
        (99, 100, 0, 0.0),
        (100, 100, 0, 1.0),
        (0, 0, 0, 1.0),
        (1, 0, 3, 0.3),
    ],
)
def test_regularisation_grows_linearly_in_twenty_levels(step, start, ramp, strength):
    assert strength_at(step, start=start, ramp_steps=ramp) == strength


def test_wrong_values_are_an_error(corpus, tmp_path):
    for wrong in ("later", -5, "1.5", True):
        with pytest.raises(ValueError, match="regularization_start must be plateau or a number of steps, not"):
            args_of(tmp_path, regularization_start=wrong)
    with pytest.raises(ValueError, match="regularization_ramp_steps must be 0 or more, not -1"):
        args_of(tmp_path, regularization_ramp_steps=-1)
    assert args_of(tmp_path, regularization_start=300).regularization_start == "300"


def test_another_family_trains_without_the_schedule_of_a_recipe(corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_asr")
    FAMILIES["wav2vec2"](tmp_path)
    run(corpus, tmp_path / "run", model={}, model_name_or_path=str(tmp_path), regularization_start=3)
    assert "regularization_start has no effect" in caplog.text


@pytest.fixture
def eager(monkeypatch):
    """The plateau is measured in every second step, and left with the second measurement, at step 4."""
    monkeypatch.setattr(plateau_module, "MEASURED_EVERY", 2)
    monkeypatch.setattr(plateau_module, "NUM_MEASUREMENTS", 2)
    monkeypatch.setattr(plateau_module, "LEFT_PLATEAU", 1e6)


PHASES = REGULARIZED | {
    "regularization_start": "plateau",
    "regularization_ramp_steps": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 10,
    "save_steps": 1,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
}


def test_resuming_in_each_phase_gives_the_weights_of_an_uninterrupted_run(corpus, tmp_path, eager):
    """It is killed before the plateau is left, between two measurements, and during and after the growth."""
    whole = tmp_path / "whole"
    run(corpus, whole, **PHASES)
    assert json.loads((whole / "training.json").read_text())["plateau_left_at_step"] == 4
    for step in (3, 5, 6, 9):
        resumed = tmp_path / f"resumed-{step}"
        shutil.copytree(whole / f"checkpoint-{step}", resumed / f"checkpoint-{step}")
        run(corpus, resumed, **PHASES, resume_from_checkpoint="true")
        assert_same_weights(whole, resumed)
        assert json.loads((resumed / "training.json").read_text())["plateau_left_at_step"] == 4


class Strengths(TrainerCallback):
    """Keep the strength of each step."""

    def __init__(self):
        self.used: list[float] = []

    def on_substep_end(self, args, state, control, model=None, **kwargs):
        self.used.append(next(part for part in model.modules() if isinstance(part, ConformerDropout)).regularization)

    on_step_end = on_substep_end


def test_a_schedule_scales_the_model_and_leaves_it_at_full_strength(corpus, tmp_path, eager):
    strengths, parts = Strengths(), arguments(corpus, tmp_path / "run", **PHASES | {"gradient_accumulation_steps": 1})
    trainer = fit(prepare(*parts), parts[2], callbacks=[strengths])
    assert strengths.used == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert all(getattr(part, "regularization", 1) == 1 for part in trainer.model.modules())
    config = json.loads((tmp_path / "run" / "checkpoint-6" / "config.json").read_text())
    assert config["layerdrop"] == 0.2 and config["label_smoothing"] == 0.1


def test_without_a_schedule_training_is_as_before_and_the_plateau_is_measured(corpus, tmp_path, eager):
    strengths, parts = Strengths(), arguments(corpus, tmp_path / "run", **REGULARIZED)
    trainer = fit(prepare(*parts), parts[2], callbacks=[strengths])
    assert set(strengths.used) == {1} and trainer.plateau.left_at == 4


SCRIPT = """
import json
from hf_asr.arguments import parse_arguments
from hf_asr.training import plateau
from hf_asr.training.arguments import ConformerTrainingArguments, DataArguments, ModelArguments
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit
import torch

plateau.MEASURED_EVERY, plateau.NUM_MEASUREMENTS, plateau.LEFT_PLATEAU = 1, 3, 1e6

if __name__ == "__main__":
    arguments = parse_arguments((ModelArguments, DataArguments, ConformerTrainingArguments))
    found = fit(prepare(*arguments), arguments[2]).plateau
    args = arguments[2]
    with open(f"{args.output_dir}/plateau-{args.process_index}.json", "w") as file:
        json.dump([found.constant_loss, found.left_at, found.measurements], file)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
"""


def test_two_processes_measure_and_decide_like_one(corpus, tmp_path, torchrun):
    """A step is an epoch: one batch in one process, its halves in two."""
    (tmp_path / "train.py").write_text(SCRIPT)
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        recipe = RECIPE | PHASES | {"dataset_name": str(corpus), "output_dir": str(folder), "use_cpu": True}
        recipe |= {"augmentations": [], "max_batch_seconds": 1000, "gradient_accumulation_steps": 1}
        recipe |= {"max_steps": 5, "save_steps": 5}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        torchrun(tmp_path / "train.py", "--config", tmp_path / "recipe.yaml", processes=processes)
        found[processes] = [json.loads(path.read_text()) for path in sorted(folder.glob("plateau-*.json"))]
    assert len(found[2]) == 2 and found[2][0] == found[2][1]
    (one_constant, one_left, one), (two_constant, two_left, two) = found[1][0], found[2][0]
    assert one_constant == two_constant and one_left == two_left == 3
    assert torch.allclose(torch.tensor(one), torch.tensor(two), rtol=1e-3)
