"""Score, report and record the result of a training run."""

from pathlib import Path

from ..decoding.recognizer import Recognizer, load
from ..files import (
    CURVES,
    DATA_REPORT,
    DATA_REPORT_PAGE,
    METRICS,
    PREDICTIONS,
    REPORT,
    TRAINING,
)
from ..hub.arguments import PublishArguments
from ..hub.publish import publish
from ..hub.upload import open_repository
from ..provenance import measured_on
from ..scoring.evaluation import evaluate_rows, write_results
from ..scoring.report import write_error_report
from ..scoring.selection import describe_selection
from .arguments import ConformerTrainingArguments
from .callbacks import plot_curves, print_transcript
from .data_used import write_data_arguments
from .prepare import Prepared
from .record import train_seconds, training_record, write_record
from .replay import score_after
from .trainer import ConformerTrainer


def record_results(trainer: ConformerTrainer, prepared: Prepared, *, command: str | None = None) -> dict:
    """Score the saved model, write all result files into the output folder, and return the metrics.

    Processes other than the main one return an empty dict.

    Args:
        command: Command line that started the run, for training.json.
    """
    if not trainer.is_world_process_zero():
        return {}
    args, data_args, rows = trainer.args, prepared.data_args, prepared.splits.evaluation
    output_dir = Path(args.output_dir)
    plateau = trainer.plateau
    plot_curves(trainer.state.log_history, output_dir / CURVES, constant_loss=plateau and plateau.constant_loss)
    # The saved model is scored: trainer.model computes in the precision of training, or is sharded.
    recognizer = load(output_dir, device=args.device)
    metrics, records = evaluate_rows(recognizer, rows)
    metrics |= run_facts(trainer, prepared, recognizer)
    if prepared.scores_before:
        metrics |= score_after(recognizer, prepared.splits, prepared.scores_before)
    write_results(output_dir, metrics, records)
    write_error_report(output_dir / REPORT, metrics, records, rows, title=str(output_dir))
    record = training_record(
        prepared.model_args,
        data_args,
        args,
        trainer.state,
        scored={name: metrics[name] for name in ("dataset", "dataset_config", "split", "selection")},
        durations=None if data_args.streaming else prepared.training.durations,
        is_resumed=prepared.resume_from is not None,
        synthetic_speech=synthetic_speech(trainer),
        plateau_left_at=plateau and plateau.left_at,
        command=command,
    )
    write_record(output_dir, record)
    write_data_arguments(output_dir, data_args, seed=args.seed)
    print_summary(metrics, [records[row] for row in prepared.evaluation.kept[:3]], output_dir)
    return metrics


def synthetic_speech(trainer: ConformerTrainer) -> dict | None:
    """Return how much synthetic speech was used, and its share of the batches; None without `warm_start`."""
    if trainer.warm_start is None:
        return None
    share = trainer.batch_sampler().synthetic_share(trainer.state.global_step)
    return trainer.warm_start.figures() | {"share_of_batches": round(share, 4)}


def run_facts(trainer: ConformerTrainer, prepared: Prepared, recognizer: Recognizer) -> dict:
    """Return what metrics.json contains besides the scores: data, hardware, steps and time."""
    args, data_args, splits = trainer.args, prepared.data_args, prepared.splits
    return {
        **measured_on(
            args.output_dir,
            [source.name for source in data_args.sources()],
            decoding=recognizer.decoder.name,
            config_name=data_args.config_names(),
            device=args.device,
        ),
        "split": splits.split,
        "selection": splits.selection,
        "train_seconds": train_seconds(trainer.state.log_history),
        "steps": trainer.state.global_step,
        "skipped_steps": trainer.skipped_steps,
        "precision": args.precision,
        "parameters": recognizer.model.num_parameters(),
    }


def print_summary(metrics: dict, records: list[dict], output_dir: Path) -> None:
    """Print the scores, a few transcripts with their references, and the files that were written."""
    (low, high), selection = metrics["cer_interval"], describe_selection(metrics)
    print(
        f"\nCER {metrics['cer']:.2%} (95 % interval {low:.2%} to {high:.2%}), WER {metrics['wer']:.2%}, "
        f"real-time factor {metrics['real_time_factor']:.3f}, "
        f"on {metrics['utterances']} utterances of {metrics['split']!r}{f' ({selection})' if selection else ''}"
    )
    for record in records:
        print_transcript(record["reference"], record["prediction"])
    files = (METRICS, TRAINING, PREDICTIONS, REPORT, CURVES, DATA_REPORT_PAGE, DATA_REPORT)
    print(f"{output_dir}: the model and its processor; {', '.join(files)}")
    print(f"next: python scripts/transcribe.py --model_name_or_path {output_dir} FILE")


def open_result_repository(args: ConformerTrainingArguments) -> None:
    """Create the repository of `hub_model_id` if it does not exist, so that a refusal is reported before training.

    Raises:
        ValueError: There is no token, or the Hub refuses it or cannot be reached.
    """
    if args.process_index == 0:
        open_repository(args.hub_model_id, public=args.hub_private_repo is False, token=args.hub_token)


def push_result(args: ConformerTrainingArguments) -> None:
    """Publish the model in the output folder with its card, as `scripts/publish.py` does.

    Raises:
        ValueError: The Hub refuses it; the message names the command that publishes the model later.
    """
    options = {"public": args.hub_private_repo is False, "token": args.hub_token, "revision": args.hub_revision}
    try:
        publish(PublishArguments(Path(args.output_dir), args.hub_model_id, **options))
    except ValueError as error:
        later = f"python scripts/publish.py --model_name_or_path {args.output_dir} --hub_model_id {args.hub_model_id}"
        raise ValueError(f"the result is in {args.output_dir}, but not on the Hub: {error}; later: {later}") from error
