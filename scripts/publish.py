"""Publishes a checkpoint on the Hub, privately, with a card of what was measured.

python scripts/publish.py --model_name_or_path runs/mine --hub_model_id owner/name
"""

import sys
from pathlib import Path

# Python puts this folder first on its path, where evaluate.py would hide the package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

from hf_asr.hub.publish import main  # noqa: E402

if __name__ == "__main__":
    main()
