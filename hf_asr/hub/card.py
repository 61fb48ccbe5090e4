"""Write the card of a published model; every number in it comes from a file of measurements."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from ..scoring.selection import describe_selection

LANGUAGES = {"en": ["en"], "zh": ["zh"], "zh-en": ["zh", "en"]}  # by text normalisation


@dataclass
class CardFacts:
    """The facts of a card.

    Attributes:
        evaluations: Contents of metrics.json, all of exactly these weights; the first is the model's own evaluation.
        training: Content of training.json, if it describes these weights.
        graphs: Entries of export_report.json for the published graphs.
        files: Published files, by their path in the repository.
        examples: Recordings for visitors to try, by their path in the repository.
        language: Language codes; None for those of the text normalisation.
    """

    hub_model_id: str
    model_type: str
    parameters: int
    vocab_size: int
    sampling_rate: int
    text_normalization: str | None
    denoises: bool
    evaluations: Sequence[dict[str, Any]]
    training: dict[str, Any] | None = None
    graphs: Sequence[dict[str, Any]] = ()
    files: Sequence[str] = ()
    examples: Sequence[str] = ()
    language: Sequence[str] | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=lambda: ["hf_asr", "conformer", "ctc", "speech"])


def model_card(facts: CardFacts) -> ModelCard:
    """Return the card with its metadata.

    Raises:
        ValueError: The Hub does not accept the metadata.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hf_asr", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "duration": _duration,
        "known": _known,
        "selection": describe_selection,
    }
    text = environment.get_template("model_card.md").render(facts=facts, card_data=_metadata(facts).to_yaml())
    card = ModelCard(text)  # parses the metadata again
    found = [(result.metric_type, result.metric_value) for result in card.data.eval_results or []]
    expected = [(name, metrics[name]) for metrics in facts.evaluations for name in ("cer", "wer")]
    if sorted(found) != sorted(expected):
        raise ValueError(f"the card has {found}, metrics.json has {expected}: please report this bug")
    return card


def _metadata(facts: CardFacts) -> ModelCardData:
    language = facts.language or LANGUAGES.get(facts.text_normalization)
    training = facts.training or {}
    names = [source["name"] for source in training.get("datasets", [])]
    base = training.get("base_model")
    files = f"{constants.ENDPOINT}/{facts.hub_model_id}/resolve/main"
    widget = [{"example_title": PurePosixPath(path).stem, "src": f"{files}/{path}"} for path in facts.examples]
    return ModelCardData(
        language=language if language is None or len(language) > 1 else language[0],
        license=facts.license,
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=facts.tags,
        datasets=sorted({name for name in names if "/" in name}) or None,
        metrics=["cer", "wer"],
        base_model=base if base and "/" in base else None,
        model_name=facts.hub_model_id.split("/")[1],
        eval_results=[_result(metrics, name) for metrics in facts.evaluations for name in ("cer", "wer")],
        widget=widget or None,
    )


def _result(metrics: dict[str, Any], name: str) -> EvalResult:
    """Return an error rate for the metadata; its value is a fraction, as in metrics.json."""
    decoding, (low, high) = metrics.get("decoding", "greedy"), metrics[f"{name}_interval"]
    selection = describe_selection(metrics)
    return EvalResult(
        task_type="automatic-speech-recognition",
        task_name="Speech Recognition",
        dataset_type=metrics["dataset"],
        dataset_name=metrics["dataset"],
        dataset_config=metrics.get("dataset_config"),
        dataset_split=metrics.get("split"),
        dataset_args={"selection": selection} if selection else None,
        metric_type=name,
        metric_name=", ".join(filter(None, (name.upper(), decoding, selection))),
        metric_value=metrics[name],
        metric_args={"decoding": decoding, "interval_95": [low, high], "utterances": metrics["utterances"]},
    )


def _percent(rate: float | None) -> str:
    return "not measured" if rate is None else f"{100 * rate:.2f} %"


def _known(value: Any) -> str:
    return "not measured" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    if not seconds:
        return "not measured"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
