import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff(repository, command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
