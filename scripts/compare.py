"""Report which of two checkpoints is better on the same data.

python scripts/compare.py A B [--dataset_name D --eval_split_name validation]
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
