"""Transcribe recordings, folders and datasets.

python scripts/transcribe.py --model_name_or_path M a.wav folder/ --output_format srt
accelerate launch scripts/transcribe.py --model_name_or_path M --dataset_name D --output_dir R
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["transcribe", *sys.argv[1:]])
