import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_make_runs_keeps_compiled_modules() -> None:
    """Else each process compiles anew: importing torch takes more than twice as long."""
    say = "said: ; @printenv PYTHONDONTWRITEBYTECODE || true"
    done = subprocess.run(
        ["make", "-s", "--eval", say, "said"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
