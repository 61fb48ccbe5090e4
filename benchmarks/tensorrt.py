"""TensorRT beside CUDA and PyTorch on an NVIDIA GPU: seconds of audio a second, and what the texts become.

    pip install onnxruntime-gpu tensorrt
    python benchmarks/tensorrt.py --model_name_or_path runs/digits --dataset_name ../shared/data/digits_en

Batches of `--batch` recordings, all of one length, features computed beforehand; interleaved rounds, medians. The time
that building the engine takes is told apart. Without a GPU it says what is missing and measures nothing.
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

from hf_asr.checkpoint import load_checkpoint
from hf_asr.data.sources import load_source, read_row
from hf_asr.export.onnx import export_onnx
from hf_asr.runtime.providers import PROFILE, open_session, tensorrt_profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--eval_split_name", default="validation")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each recording; several are put together")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    model, processor = load_checkpoint(args.model_name_or_path, device="cpu")
    rows = load_source(args.dataset_name, split=args.eval_split_name)
    speech = np.concatenate([read_row(row, sampling_rate=16000) for row in rows])
    waveforms = np.resize(speech, (args.batch, int(16000 * args.seconds)))
    features = processor(list(waveforms), sampling_rate=16000, return_tensors="np")
    inputs = {"input_features": features["input_features"], "attention_mask": features["attention_mask"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, processor.feature_extractor, path)
        (path.parent / PROFILE).write_text(json.dumps(tensorrt_profile(model.config.num_mel_bins)))
        runs: dict[str, Callable[[], np.ndarray]] = {}
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
        if torch.cuda.is_available():
            on_gpu = deepcopy(model).to("cuda")
            tensors = {name: torch.from_numpy(value).to("cuda") for name, value in inputs.items()}

            @torch.inference_mode()
            def pytorch() -> np.ndarray:
                with torch.autocast("cuda", torch.float16):
                    return on_gpu(**tensors).logits.float().log_softmax(-1).cpu().numpy()

            runs["PyTorch float16"] = pytorch
        if not runs:
            raise SystemExit("nothing was measured: there is no GPU that onnxruntime or PyTorch can use")
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(args.rounds + 3):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if round_ >= 3:  # the first warm up
                    times[name].append(time.perf_counter() - started)
        audio = args.batch * args.seconds
        with torch.inference_mode():
            exact = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
        results = {}
        for name, run in runs.items():
            same = float((run().argmax(-1) == exact.argmax(-1)).mean())
            results[name] = {"audio_per_s": audio / statistics.median(times[name]), "same_tokens": same}
            rate = results[name]["audio_per_s"]
            print(f"  {name:16} {rate:9.0f} s of audio a second, same token in {same:.2%} of frames")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
