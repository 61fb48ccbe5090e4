"""Imports a WeNet model directory (encoder and CTC head).

python scripts/import_wenet.py WENET_DIR --output_dir M
"""

import argparse
import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.hub.wenet import import_wenet  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wenet_dir")
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args()
    try:
        import_wenet(arguments.wenet_dir, arguments.output_dir)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.output_dir}: model and processor")
