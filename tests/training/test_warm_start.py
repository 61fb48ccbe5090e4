"""Training on synthetic speech first, or mixed in: resuming, the vocabulary, and what is recorded."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml

from hf_asr.cli import main
from hf_asr.data import spoken
from hf_asr.model.spelling_conformer import spell_mandarin
from hf_asr.training.arguments import DataArguments
from hf_asr.training.prepare import prepare
from hf_asr.training.run import fit
from hf_asr.training.trainer import ConformerTrainer

from .test_resuming import SCRIPT
from .test_run import RECIPE, arguments, assert_same_weights, run

# Of six steps, the first two use synthetic speech only, the next ones some of it, and the last one none.
WARM_START = {"steps": 2, "share": 0.75, "fade_steps": 3, "voices": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def cached(home, monkeypatch) -> None:
    monkeypatch.setattr(spoken, "HF_HOME", str(home))


def test_the_first_steps_are_trained_on_synthetic_speech_only(corpus, tmp_path, monkeypatch):
    """Each line of the text file has a character that the recordings do not have: its batches can be recognised."""
    (tmp_path / "words.txt").write_text("\n".join(f"龙{spell_mandarin(n)}" for n in range(40)), encoding="utf-8")
    warm_start = WARM_START | {"texts": str(tmp_path / "words.txt"), "transcripts": False, "augmentations": []}
    prepared = prepare(*arguments(corpus, tmp_path / "run", warm_start=warm_start, gradient_accumulation_steps=2))
    args = arguments(corpus, tmp_path / "run", gradient_accumulation_steps=2)[2]
    dragon = prepared.processor.tokenizer.convert_tokens_to_ids("龙")
    assert dragon != prepared.processor.tokenizer.unk_token_id  # the vocabulary covers the texts
    taken, original = [], ConformerTrainer.training_step

    def step(trainer, model, inputs, *rest, **options):
        taken.append((trainer.state.global_step + 1, bool((inputs["labels"] == dragon).any(dim=1).all())))
        return original(trainer, model, inputs, *rest, **options)

    monkeypatch.setattr(ConformerTrainer, "training_step", step)
    trainer = fit(prepared, args)
    planned = trainer.batch_sampler().are_synthetic(2)[: len(taken)]
    assert [is_synthetic for _, is_synthetic in taken] == planned.tolist()
    assert all(is_synthetic for number, is_synthetic in taken if number <= 2)
    assert 0 < sum(is_synthetic for number, is_synthetic in taken if number > 2) < len(taken) - 4
    assert [number for number, _ in taken][:4] == [1, 1, 2, 2]


def test_synthetic_speech_is_concatenated_like_recordings(corpus, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"龙{spell_mandarin(n)}" for n in range(10)), encoding="utf-8")
    options = {"warm_start": WARM_START | {"texts": str(tmp_path / "words.txt"), "transcripts": False}}
    alone = prepare(*arguments(corpus, tmp_path / "run", **options)).warm_start
    options["concatenation"] = {"share": 0.5, "max_seconds": 8, "max_gap_seconds": 0.2}
    prepared = prepare(*arguments(corpus, tmp_path / "run", **options))
    joined = prepared.warm_start
    assert len(alone.dataset) == 10 < len(joined.dataset) == len(joined.durations)
    dragon = prepared.processor.tokenizer.convert_tokens_to_ids("龙")
    counts = [joined.dataset[0, i]["labels"].count(dragon) for i in range(len(joined.dataset))]
    assert counts[:10] == [1] * 10 and min(counts[10:]) >= 1 and max(counts[10:]) > 3
    assert joined.figures() == alone.figures()  # only what was spoken counts


@pytest.fixture(scope="module", params=[1, 2], ids=["", "accumulated"])
def whole(corpus, home, request, tmp_path_factory) -> tuple[Path, dict]:
    """A run of six steps, and its options."""
    options = {"warm_start": WARM_START, "gradient_accumulation_steps": request.param}
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(spoken, "HF_HOME", str(home))
        run(corpus, folder, **options)
    return folder, options


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(whole, corpus, tmp_path, step, caplog):
    """It was stopped at the end of the first phase, or while the share fades."""
    folder, options = whole
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / "run" / f"checkpoint-{step}")
    run(corpus, tmp_path / "run", resume_from_checkpoint="true", dataloader_num_workers=1, **options)
    assert_same_weights(folder / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    assert "the batches are not those of the first run" not in caplog.text


def test_two_processes_speak_the_transcripts_once(corpus, home, tmp_path, torchrun):
    (tmp_path / "train.py").write_text(SCRIPT)
    options = {"warm_start": WARM_START, "max_steps": 4, "use_cpu": True, "max_batch_seconds": 10}
    recipe = RECIPE | {"dataset_name": str(corpus), "output_dir": str(tmp_path / "run")} | options
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = (tmp_path / "train.py", "--config", tmp_path / "recipe.yaml")
    torchrun(*command, processes=2, timeout=600, HF_HOME=str(tmp_path / "home"))
    assert len([path for path in (tmp_path / "home" / "hf_asr" / "spoken").iterdir() if path.is_dir()]) == 1
    assert (tmp_path / "run" / "checkpoint-4").is_dir()


def test_a_run_records_how_much_synthetic_speech_it_used(whole):
    folder, _ = whole
    record = json.loads((folder / "training.json").read_text())
    figures = record["synthetic_speech"]
    assert record["utterances"] == 40 and record["recipe"]["warm_start"] == WARM_START
    assert (figures["voice"], figures["utterances"], figures["sentences"]) == ("cmn", 40, 40)
    assert 5 < figures["speakers"] <= 40 and 0 < figures["hours"] < 0.1
    assert 2 / 6 <= figures["share_of_batches"] < 5 / 6
    page = (folder / "data_report.html").read_text(encoding="utf-8")
    assert f"{figures['hours']:.2f} hours, 40 sentences, {figures['speakers']} voices (cmn)" in page


def test_without_warm_start_nothing_is_recorded(corpus, tmp_path):
    run(corpus, tmp_path / "run", max_steps=2)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["synthetic_speech"] is None and record["recipe"]["warm_start"] is None
    assert "synthetic speech" not in (tmp_path / "run" / "data_report.html").read_text(encoding="utf-8")


def test_validation_transcripts_are_not_spoken_and_silent_lines_are_findings(corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="hf_asr")
    lines = (corpus / "validation" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    scored = [json.loads(line)["text"] for line in lines]
    texts = [scored[0].upper() + ".", "客厅的龙", "???"]
    (tmp_path / "words.txt").write_text("\n".join(texts), encoding="utf-8")
    warm_start = WARM_START | {"texts": [str(tmp_path / "words.txt")]}
    prepared = prepare(*arguments(corpus, tmp_path / "run", warm_start=warm_start))
    assert "1 lines of texts are left out: they are validation transcripts" in caplog.text
    sentences = set(prepared.splits.spoken.rows["text"])
    assert len(sentences) == 41 and "客厅的龙" in sentences and not sentences & set(scored)
    assert "龙" in prepared.processor.tokenizer.get_vocab()
    assert len(prepared.durations) == len(prepared.train_dataset) == 40  # recordings only
    findings = [json.loads(line) for line in (tmp_path / "run" / "data_report.jsonl").read_text().splitlines()]
    assert [(item["split"], item["reason"]) for item in findings] == [("synthetic speech", "not spoken")]


def test_feature_statistics_are_those_of_the_recordings(corpus, tmp_path):
    plain, warm = (
        prepare(*arguments(corpus, tmp_path / name, **options)).model.encoder
        for name, options in (("plain", {}), ("warm", {"warm_start": WARM_START}))
    )
    assert (plain.feature_mean == warm.feature_mean).all() and (plain.feature_istd == warm.feature_istd).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_start": {"steps": 6}}, r"steps \(6\) must be fewer than max_steps \(6\)"),
        ({"warm_start": {"steps": 1}, "streaming": True}, "leave streaming out"),
        ({"warm_start": {"steps": 1, "augmentations": [{"name": "Gian"}]}}, "did you mean Gain"),
        ({"warm_start": {"steps": 1, "language": "klingon"}}, "does not speak the language 'klingon'"),
        ({"warm_start": {"steps": 1, "texts": "none.txt"}}, "none.txt cannot be read"),
        ({"warm_start": {"stepz": 1}}, "WarmStartArguments has no stepz"),
        ({"warm_start": "[steps]"}, "warm_start must be a mapping"),
    ],
)
def test_wrong_options_are_errors(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(corpus, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_epochs_of_synthetic_speech_only_are_an_error(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"steps \(99\) are the whole training \(num_train_epochs 2\)"):
        run(corpus, tmp_path / "run", max_steps=-1, num_train_epochs=2, warm_start=WARM_START | {"steps": 99})
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_the_option_is_yaml_on_the_command_line(corpus, tmp_path):
    assert DataArguments(warm_start="{steps: 3, share: 0.2}").warm_start_arguments().share == 0.2
    with pytest.raises(SystemExit) as stopped:
        options = ["--output_dir", str(tmp_path / "run"), "--warm_start", "{voices: 3}"]
        main(["train", "--dataset_name", str(corpus), *options])
    assert "warm_start: set steps or share" in stopped.value.code
