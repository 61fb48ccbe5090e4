"""What importing the package does."""

import os
import subprocess
import sys

import pytest

# This program imports hf_asr, prints GOMP_SPINCOUNT at the moment when torch is imported, and ends.
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.exit(os.environ.get("GOMP_SPINCOUNT", "not set"))
sys.meta_path.insert(0, Watch())
import hf_asr
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "not set")],
    ids=str,
)
def test_waiting_threads_sleep_soon_unless_the_user_has_chosen(given, expected):
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", WATCH], env=inherited | given, capture_output=True, text=True)
    assert done.stderr.strip() == expected
