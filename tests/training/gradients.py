"""Run one optimiser step and write the gradients to a file; test_trainer.py starts it, alone or with torchrun."""

import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from hf_asr import ConformerProcessor
from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.dataset import SpeechCollator, SpeechDataset
from hf_asr.data.sources import Source
from hf_asr.training.arguments import ConformerTrainingArguments
from hf_asr.training.trainer import ConformerTrainer


class Keep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def main(checkpoint: str, corpus: str, output: str, max_batch_seconds: float, accumulation: int) -> None:
    torch.manual_seed(0)
    model, processor = load_checkpoint(checkpoint, device="cpu")
    assert isinstance(processor, ConformerProcessor)
    rows = Source(corpus).load("train").select(range(10))
    keep = Keep()
    trainer = ConformerTrainer(
        model=model,
        args=ConformerTrainingArguments(
            output_dir=str(Path(output).parent / "trainer"),
            max_steps=1,
            max_batch_seconds=max_batch_seconds,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=1e9,
            precision="fp32",
            use_cpu=True,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            report_to="none",
            logging_steps=1,
            dataloader_num_workers=0,
            cpu_threads=1,
        ),
        train_dataset=SpeechDataset(rows, processor=processor),
        train_durations=rows["duration"],
        data_collator=SpeechCollator(processor),
        callbacks=[keep],
    )
    trainer.train()
    if trainer.is_world_process_zero():
        loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
        batches = len(trainer.get_train_dataloader())
        gradients = {name.removeprefix("module."): value for name, value in keep.gradients.items()}
        torch.save(
            {"gradients": gradients, "loss": loss, "world_size": trainer.args.world_size, "batches": batches}, output
        )
    if torch.distributed.is_initialized():  # all end together: gloo may abort a process whose peer has ended
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
