"""Compare TensorRT, CUDA and PyTorch on an NVIDIA GPU: seconds of audio per second, and equal tokens.

    pip install onnxruntime-gpu tensorrt
    python benchmarks/tensorrt.py --model_name_or_path runs/digits --dataset_name ../shared/data/digits_en

A batch has `--batch` recordings of the same length, with precomputed features. Times are medians of interleaved rounds.
The time for building the engine is printed separately. Without a GPU, the script prints what is missing and ends.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import datasets
import numpy as np
import torch

from hf_asr import ConformerForCTC
from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import Source, read_row
from hf_asr.decoding.greedy import GreedyDecoder
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.providers import PROFILE, open_session, tensorrt_profile

Run = Callable[[], np.ndarray]


def graph_runs(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, Run]:
    """Return a function that runs the graph on each provider that is available; print when each is ready."""
    runs: dict[str, Run] = {}
    for provider in ("tensorrt", "cuda"):
        started = time.perf_counter()
        try:
            session = open_session(path, provider=provider)
        except ValueError as error:
            print(f"{provider}: not measured: {error}")
            continue
        runs[provider] = lambda session=session: session.run(None, inputs)[0]
        runs[provider]()
        print(f"{provider}: ready after {time.perf_counter() - started:.1f} s")
    return runs


def pytorch_run(model: ConformerForCTC, inputs: dict[str, np.ndarray]) -> Run:
    """Return a function that runs the model on the GPU in float16."""
    on_gpu = deepcopy(model).to("cuda")
    tensors = {name: torch.from_numpy(value).to("cuda") for name, value in inputs.items()}

    @torch.inference_mode()
    def run() -> np.ndarray:
        with torch.autocast("cuda", torch.float16):
            return on_gpu(**tensors).logits.float().log_softmax(-1).cpu().numpy()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each recording; several are joined")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    model, processor = load_checkpoint(args.model_name_or_path, device="cpu")
    rows = Source(args.dataset_name).load(args.eval_split_name)
    speech = np.concatenate([read_row(row, sampling_rate=16000) for row in rows])
    waveforms = np.resize(speech, (args.batch, int(16000 * args.seconds)))
    features = processor(list(waveforms), sampling_rate=16000, return_tensors="np")
    inputs = {"input_features": features["input_features"], "attention_mask": features["attention_mask"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, processor.feature_extractor, path)
        (path.parent / PROFILE).write_text(json.dumps(tensorrt_profile(model.config.num_mel_bins)))
        runs = graph_runs(path, inputs)
        if torch.cuda.is_available():
            runs["PyTorch float16"] = pytorch_run(model, inputs)
        if not runs:
            raise SystemExit("nothing was measured: there is no GPU that onnxruntime or PyTorch can use")
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(args.rounds + 3):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if round_ >= 3:  # the first rounds warm up
                    times[name].append(time.perf_counter() - started)
        audio = args.batch * args.seconds
        with torch.inference_mode():
            exact = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
        decoder = GreedyDecoder(processor.tokenizer.pad_token_id)
        tokens = [decoder.keep(torch.from_numpy(part)).tokens for part in exact]  # (frames,) for each utterance
        results = {}
        for name, run in runs.items():
            found = [decoder.keep(torch.from_numpy(part)).tokens for part in run()]
            same = float(np.mean(np.stack(found) == np.stack(tokens)))
            results[name] = {"audio_per_s": audio / statistics.median(times[name]), "same_tokens": same}
            rate = results[name]["audio_per_s"]
            print(f"  {name:16} {rate:9.0f} s of audio per second, same token in {same:.2%} of frames")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
