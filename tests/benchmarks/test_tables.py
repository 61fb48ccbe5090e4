"""The tables of long benchmarks are printed from stored results."""

import importlib
import json
import sys
from dataclasses import asdict
from types import ModuleType

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hf_asr import ConformerConfig, ConformerForCTC
from hf_asr.data.espeak import CLEAR_VARIANTS, SAMPLE_RATE, speak
from hf_asr.training.arguments import ModelArguments
from hf_asr.training.building import build
from hf_asr.training.plateau import NUM_MEASUREMENTS, Plateau


@pytest.fixture
def benchmark(repository, monkeypatch):
    """Return a benchmark's module by name; its main() reads the arguments after the name."""
    monkeypatch.syspath_prepend(repository / "benchmarks")
    monkeypatch.chdir(repository)

    def load(name: str, *words: object) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        return importlib.import_module(name)

    return load


def store(path, result: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def test_runs_are_stored_and_not_repeated(benchmark, tmp_path, capsys):
    runs = benchmark("runs")
    store(tmp_path / "a.json", {"found": 1})
    paths = {tmp_path / f"{name}.json": ([("found", place)],) for place, name in enumerate("bac")}
    paths[tmp_path / "c.json"] = ("no pairs",)
    runs.run_missing(dict, paths, workers=1)
    assert runs.read_finished(paths) == [{"found": 0}, {"found": 1}]
    assert "1 of 3 runs are finished" in capsys.readouterr().out


def test_the_plateau_table(benchmark, tmp_path, capsys):
    words = ["--layers", 4, 8, 12, "--widths", 128, "--only_finished", "--output_dir", tmp_path]
    few_hours = benchmark("few_hours", "plateau", *words)
    shared = {"width": 128, "block_type": "conformer", "subsampling_factor": 4, "steps": 1500}
    shared |= {"is_full": False, "seed": 0}
    for layers, remedy, left_at in ((8, "none", None), (8, "both", 300), (4, "none", 800), (18, "none", 900)):
        run = few_hours.PlateauRun(layers=layers, remedy=remedy, **shared)
        found = {"parameters": 3_100_000, "trained_steps": left_at or 1500, "left_at": left_at, "seconds": 90.4}
        store(run.path(tmp_path), asdict(run) | found | {"constant_loss": 5.5, "loss": 5.4, "cer": 0.9})
    few_hours.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| 4 | 128 | none | 3.1 M | 800 | 90 | 800 | 5.40 (constant 5.50) | 90.0 |",
        "| 8 | 128 | none | 3.1 M | not within 1500 |  | 1500 | 5.40 (constant 5.50) | 90.0 |",
        "| 8 | 128 | both | 3.1 M | 300 | 90 | 300 | 5.40 (constant 5.50) | 90.0 |",
    ]


def test_remedies_are_recipes(benchmark):
    few_hours = benchmark("few_hours")
    recipes = {
        remedy: few_hours.PlateauRun(18, 256, remedy, "e_branchformer", 8, steps=10, is_full=True, seed=0).recipe()
        for remedy in few_hours.REMEDIES
    }
    models = {remedy: ConformerConfig(**recipe["model"]) for remedy, recipe in recipes.items()}
    lower = {remedy: list(model.intermediate_ctc_layers) for remedy, model in models.items()}
    assert lower["none"] == lower["both"] == [] and lower["intermediate CTC"] == [3, 6, 9, 12, 15]
    assert not models["both"].apply_spec_augment and models["both"].hidden_dropout == 0
    both = models["both, regularised"]
    assert (
        both.apply_spec_augment and both.hidden_dropout and recipes["both, regularised"]["regularization_start"] is None
    )
    assert recipes["both, regularised off the plateau"]["regularization_start"] == "plateau"


def test_pytorchs_initialisation_is_restored(benchmark):
    few_hours = benchmark("few_hours")
    options = few_hours.PlateauRun(4, 64, "none", "conformer", 4, steps=10, is_full=True, seed=0).recipe()["model"]
    _, model, _ = build(ModelArguments(model=options), ["a b"], resume_from=None)
    output = model.encoder.layers[0].feed_forward1.down_proj.weight
    bound = output.shape[1] ** -0.5
    assert isinstance(model, ConformerForCTC) and output.abs().max() < bound / 3
    few_hours.initialize_as_pytorch(model)
    assert bound * 0.98 < output.abs().max() <= bound
    assert torch.equal(model.encoder.final_norm.weight, torch.ones(64))


@pytest.mark.parametrize(("is_full", "last_step"), [(False, NUM_MEASUREMENTS + 1), (True, 30)])
def test_a_run_ends_when_the_plateau_is_left(benchmark, is_full, last_step):
    watch, plateau = benchmark("few_hours").Watch(steps=30, is_full=is_full), Plateau(constant_loss=5.0)
    state, control = TrainerState(), TrainerControl()
    for callback in (watch, plateau):
        callback.on_train_begin(None, state, control)
    while not control.should_training_stop:
        state.global_step += 1
        if plateau.left_at is None:
            plateau.add(torch.tensor([1.0, 1.0, 0.0, 1.0]))  # a loss of 1 per token
        for callback in (watch, plateau):
            callback.on_step_end(None, state, control)
    assert state.global_step == len(watch.seconds) == last_step and plateau.left_at == NUM_MEASUREMENTS


def test_stand_in_voices_are_not_those_of_warm_start(benchmark):
    variants = benchmark("few_hours").STAND_IN_VARIANTS
    assert not set(variants) & set(CLEAR_VARIANTS) and len(set(variants)) == len(variants)
    speech = [speak("eins", language="de", voice_variant=name, rate_wpm=175, pitch=50) for name in variants]
    assert min(map(len, speech)) > 0.1 * SAMPLE_RATE


def test_sentences_have_no_placeholders_and_are_in_one_split(benchmark):
    few_hours = benchmark("few_hours")
    texts = ["Bitte ändern Sie es. Das ist (fast) neu.", "Bitte ändern sie es!", "%(name)s wurde schon gelöscht"]
    texts += ["Öffnen Sie die <b>Datei</b>", "Zwei Wörter", "Die Gruppen-Übersicht, wie gewünscht:\nGrüße aus dem Büro"]
    found = few_hours.sentences_of(texts, "de")
    assert found == ["Bitte ändern Sie es.", "Grüße aus dem Büro"]
    assert few_hours.sentences_of(["सभी पृष्ठों पर क्लिक करें।", "कोई नया file नहीं"], "hi") == ["सभी पृष्ठों पर क्लिक करें।"]
    splits = few_hours.split_sentences(list(map(str, range(50))), validation=10)
    assert {split: len(set(part)) for split, part in splits.items()} == {"train": 40, "validation": 10}
    assert not set(splits["train"]) & set(splits["validation"])


def test_marks_and_umlauts_are_counted(benchmark):
    few_hours = benchmark("few_hours")
    assert few_hours.special_characters(["gr\u00fcn", "gru\u0308n, “neu”"]) == {"ü": 2}
    assert few_hours.special_characters(["कि"]) == {"क": 1, "ि": 1}


def test_a_missing_package_is_named(benchmark):
    with pytest.raises(SystemExit, match="pip install no-such-package"):
        list(benchmark("few_hours").messages("no-such-package", "de"))


def test_the_table_of_levers(benchmark, tmp_path, capsys):
    words = ["--tasks", "sentences_zh", "spoken", "--seeds", 0, 1, "--only_finished", "--output_dir", tmp_path]
    long = benchmark("ablation_long", *words)
    perfect, wrong, half = [[0, 0, 0, 4]] * 4, [[4, 0, 0, 4]] * 4, [[2, 0, 0, 4]] * 4
    for variant, seed, counts, left_at in (
        ("plain, rate 0.001", 0, wrong, None),
        ("plain, rate 0.003", 0, half, None),
        (long.OUR_START, 0, wrong, None),
        ("recipe", 0, perfect, 700),
        ("recipe", 1, half, None),
    ):
        run = long.Run("sentences_zh", variant, minutes=30.0, seed=seed)
        store(run.path(tmp_path), asdict(run) | {"steps": 3600, "left_at": left_at, "counts": {"clean": counts}})
    store(long.Run("sentences_zh", "recipe", minutes=5.0, seed=0).path(tmp_path), {"another": "time"})
    long.main()
    lines = capsys.readouterr().out.splitlines()
    assert "sentences_zh, 30 minutes; the change is against the best plain loop" in lines
    assert [line for line in lines if line.startswith("| ")][1:] == [
        "| plain, rate 0.001 | 100.0 (100.0-100.0) +100% | 0.50 | 3600 |  | 0 |",
        "| plain, rate 0.003 | 50.0 (50.0-50.0) +0% | 0.50 | 3600 |  | 0 |",
        "| plain, with our initialisation | 100.0 (100.0-100.0) +100% | 0.50 | 3600 |  | 0 |",
        "| recipe | 25.0 (25.0-25.0) -50% | 0.50 | 3600 | 700, no | 0, 1 |",
    ]


@pytest.mark.parametrize("task", ["sentences_zh", "spoken"])
def test_each_lever_changes_the_recipe(benchmark, task):
    long = benchmark("ablation_long")
    recipe = long.load_recipe(long.RECIPE)

    def effective(recipe: dict) -> tuple:
        model_args, data_args, args = long.arguments(long.Task(task, "data", recipe), recipe, "runs/none", 100)
        sounds = model_args.model.get("num_sounds")  # 0 is the default of the configuration, but not that of a recipe
        config = ConformerConfig(**model_args.model).to_dict()
        return config, sounds, data_args, args.ema_decay, args.label_smoothing_factor

    variants = long.variants(task, 100)
    assert ("with synthetic speech" in variants) == (task != "spoken")  # it would speak in the voices of the test
    same = [name for name in variants if effective(long.changed(recipe, variants[name])) == effective(recipe)]
    assert same == ["recipe"]


def test_cr_ctc_costs_a_second_pass_only_off_the_plateau_and_splicing_an_alignment(benchmark):
    long = benchmark("ablation_long")
    rates = {"recipe": 2.0, "plain": 1.0, "with CR-CTC": 1.0, "without splicing": 3.0, "seconds of aligning": 100.0}
    steps = {
        variant: long.steps_of(long.Run("sentences_zh", variant, 30.0, 0), rates, plateau_steps=1000)
        for variant in ("recipe", "plain, rate 0.001", "with CR-CTC", "without splicing")
    }
    assert steps == {
        "recipe": 3400,
        "plain, rate 0.001": 1800,
        "with CR-CTC": 1000 + 1200,
        "without splicing": 5400,
    }


def test_the_plain_loop_trains_on_each_recording_as_it_is(benchmark, corpus, tmp_path):
    ablation = benchmark("ablation")
    recipe = ablation.load_recipe("configs/few_hours.yaml")
    assert recipe["concatenation"] and recipe["augmentations"]
    _, loader = ablation.plain_setup(ablation.Task("spoken", str(corpus), recipe), tmp_path)
    batches = list(loader)
    assert sum(len(batch["labels"]) for batch in batches) == len(list((corpus / "train").rglob("*.flac")))
