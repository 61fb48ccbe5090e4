"""Align transcripts with their recordings.

python scripts/align.py --model_name_or_path M --dataset_name D [--eval_split_name S] --output_dir R
python scripts/align.py --model_name_or_path M --audio FILE --text FILE --output_dir R
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["align", *sys.argv[1:]])
