"""Print transcripts during training, freeze the encoder, and draw the curves of a run."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from transformers import TrainerCallback

from ..families import is_head_parameter
from ..files import written_beside


class ShowTranscripts(TrainerCallback):
    """Print the error rates after each evaluation, and a few references with their predictions.

    Args:
        trainer: The trainer that has just scored the rows.
        rows: Numbers of the rows to show.
    """

    def __init__(self, trainer, rows: Sequence[int]):
        self.trainer, self.rows = trainer, rows

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not state.is_world_process_zero or metrics is None:
            return
        rates = "".join(
            f", {name.upper()} {metrics[f'eval_{name}']:.2%}" for name in ("cer", "wer") if f"eval_{name}" in metrics
        )
        print(f"\nstep {state.global_step}{rates}")
        for row in self.rows:
            print_transcript(*self.trainer.scored[row])


def print_transcript(reference: str, prediction: str) -> None:
    """Print a reference and its prediction, one below the other."""
    print(f"  reference:  {reference}\n  prediction: {prediction}")


class FreezeEncoder(TrainerCallback):
    """Train only the output head for the first `steps` steps.

    The gradients of all other parameters are dropped, so that these stay equal bit by bit.
    """

    def __init__(self, steps: int):
        self.steps = steps

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step < self.steps:
            for name, parameter in model.named_parameters():
                if not is_head_parameter(name):
                    parameter.grad = None


def plot_curves(log_history: list[dict], path: str | Path, *, constant_loss: float | None = None) -> None:
    """Draw training loss, error rates and learning rate over steps into a PNG file.

    Args:
        constant_loss: Loss per token of the token frequencies alone, which becomes a dashed line.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), constrained_layout=True)
    panels = (
        ("Loss per token", {"loss": "training"}),
        ("Error rate", {"eval_cer": "CER", "eval_wer": "WER"}),
        ("Learning rate", {"learning_rate": "learning rate"}),
    )
    for axis, (title, curves) in zip(axes, panels, strict=True):
        for key, label in curves.items():
            points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if key.startswith("eval") else None, label=label)
        if "loss" in curves and constant_loss is not None:
            axis.axhline(constant_loss, color="grey", linewidth=0.8, linestyle="--", label="token frequencies alone")
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    with written_beside(path) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)
