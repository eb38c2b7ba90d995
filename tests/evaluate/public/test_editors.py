import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kontext.errors import BenchError
from kontext.evaluate.public.editors import Command, FailedEdit, Identity

PICTURE = np.full((12, 16, 3), 90, np.uint8)
INVERTS = """
import sys
from PIL import Image, ImageOps
source, said, output, seed = sys.argv[1:]
open({log!r}, "a").write(said + " " + seed + chr(10))
ImageOps.invert(Image.open(source)).save(output)
"""


def script(folder: Path, text: str) -> str:
    path = folder / "an editor.py"
    path.write_text(text)
    return f"{sys.executable} '{path}'"


def test_identity_does_nothing() -> None:
    assert Identity().make([PICTURE], "make it blue", 0) is PICTURE


def test_a_command_gets_picture_words_and_seed_and_no_shell(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = script(tmp_path, INVERTS.format(log=str(log)))
    editor = Command(program + " {input} {instruction} {output} {seed}")
    said = "a; touch {output} '$(ls)' `ls`"
    assert (editor.make([PICTURE], said, 7) == 165).all()
    assert log.read_text() == f"{said} 7\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["an editor.py", "log"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys; print('no weights'); sys.exit(3)", "ended with 3: no weights"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("", "wrote no output"),
        ("import sys; open(sys.argv[2], 'w').write('prose')", "output is no picture"),
        ("import time; time.sleep(60)", "more than 1 s"),
    ],
)
def test_what_a_command_does_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    editor = Command(script(tmp_path, text) + " {instruction} {output}", timeout=1)
    with pytest.raises(FailedEdit, match=says):
        editor.make([PICTURE], "make it blue", 0)


def test_a_command_that_cannot_work_ends_the_run() -> None:
    with pytest.raises(BenchError, match=r"no \{output\}"):
        Command("prog {input} {instruction}")
    with pytest.raises(BenchError, match="split into words: No closing quotation"):
        Command("prog '{instruction} {output}")
    with pytest.raises(BenchError, match="cannot start no-such-program"):
        Command("no-such-program {instruction} {output}").make([PICTURE], "a", 0)


def test_a_command_reads_nothing_of_ours_and_leaves_nothing_running(tmp_path: Path) -> None:
    text = (
        "import subprocess, sys; from PIL import Image; assert not sys.stdin.read()\n"
        "sleeper = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(sleeper.pid))\n"
        "Image.new('RGB', (16, 12), 'red').save(sys.argv[2])\n"
    )
    editor = Command(script(tmp_path, text) + " {instruction} {output}", timeout=50)
    assert (editor.make([PICTURE], "make it red", 0) == (255, 0, 0)).all()
    _wait_for_the_end_of(int((tmp_path / "pid").read_text()))


def test_a_command_ends_with_the_process_that_runs_the_bench(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    text = f"import os, time; open({str(pid)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(60)"
    program = script(tmp_path, text) + " {instruction} {output}"
    own = (
        "import numpy as np; from kontext.evaluate.public.editors import Command\n"
        f"Command({program!r}).make([np.zeros((8, 8, 3), np.uint8)], 'a', 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", own]) as bench:
        while not (pid.exists() and pid.read_text().endswith(" ")):
            assert bench.poll() is None
            time.sleep(0.02)
        bench.send_signal(signal.SIGKILL)
    _wait_for_the_end_of(int(pid.read_text()))


def _wait_for_the_end_of(pid: int) -> None:
    """Until a process is gone, or is only waited for by whoever has inherited it."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} still runs")
