"""Export a checkpoint to a graph for other runtimes, and check that both give the same result.

python scripts/export.py --model_name_or_path M --output_dir D --target onnx|sherpa-onnx|tensorrt|openvino|wenet
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
