"""Turn a public corpus into a dataset for training.

python scripts/prepare_data.py aishell1|aishell3|thchs30|wenetspeech|librispeech|common_voice|fleurs --output_dir D
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.cli import main  # noqa: E402

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
