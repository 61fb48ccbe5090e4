"""Check recordings and transcripts of a dataset.

python scripts/check_data.py --dataset_name D [--split_names S ...] [--model_name_or_path M] --output_dir R
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]])
