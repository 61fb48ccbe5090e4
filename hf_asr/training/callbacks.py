"""What a person sees while a run goes on, and the curves at its end."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from transformers import TrainerCallback

from ..files import written_beside


class ShowTranscripts(TrainerCallback):
    """After each evaluation, prints the error rates, and the transcripts of the rows at `places` with their references.

    They are those that `trainer` has just scored.
    """

    def __init__(self, trainer, places: Sequence[int]):
        self.trainer, self.places = trainer, places

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if not state.is_world_process_zero or metrics is None:
            return
        rates = "".join(
            f", {name.upper()} {metrics[f'eval_{name}']:.2%}" for name in ("cer", "wer") if f"eval_{name}" in metrics
        )
        print(f"\nstep {state.global_step}{rates}")
        for place in self.places:
            reference, prediction = self.trainer.scored[place]
            print(f"  said:  {reference}\n  heard: {prediction}")


def plot_curves(log_history: list[dict], path: str | Path) -> None:
    """Training loss, error rates and learning rate by step, as a PNG."""
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
        axis.set(title=title, xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    with written_beside(path) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)
