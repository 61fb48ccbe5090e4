"""Train a recogniser and score it.

accelerate launch scripts/train.py --config configs/quickstart.yaml
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
