"""What a person sees while a run goes on, and the curves at its end."""

from pathlib import Path

import matplotlib
import torch
from transformers import TrainerCallback

from ..decoding.recognizer import recognize
from ..files import written_beside


class ShowTranscripts(TrainerCallback):
    """After each evaluation, prints the CER and a few recordings' transcripts against their references."""

    def __init__(self, processor, waveforms: list, references: list[str]):
        self.processor, self.waveforms, self.references = processor, waveforms, references

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        if not state.is_world_process_zero or metrics is None:
            return
        was_training = model.training
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):  # nothing shown may change what is trained
            transcripts = recognize(model, self.processor, self.waveforms)
        model.train(was_training)
        rates = "".join(
            f", {name.upper()} {metrics[f'eval_{name}']:.2%}" for name in ("cer", "wer") if f"eval_{name}" in metrics
        )
        print(f"\nstep {state.global_step}{rates}, loss {metrics.get('eval_loss', float('nan')):.3f}")
        for reference, transcript in zip(self.references, transcripts, strict=True):
            print(f"  said:  {reference}\n  heard: {transcript.text}")


def plot_curves(log_history: list[dict], path: str | Path) -> None:
    """Training and evaluation loss, error rates and learning rate by step, as a PNG."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), constrained_layout=True)
    panels = (
        ("Loss per token", {"loss": "training", "eval_loss": "evaluation"}),
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
