import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kontext.data.chat.replies import Cost, Exchange, Replies
from kontext.errors import StoreError


def test_a_reply_is_there_after_the_process_has_died(tmp_path: Path) -> None:
    """Killed without a word: what was finished is kept, what was under way is lost, and counts."""
    path = tmp_path / "cache" / "replies.sqlite"
    script = f"""
import os, signal
from pathlib import Path
from kontext.data.chat.replies import *
replies = Replies(Path({str(path)!r}))
one = replies.begin("r1", 0, Cost(100, 50))
replies.finish(one, Exchange("answered", 200, "the body", "m", Cost(7, 3)))
replies.begin("r2", 0, Cost(100, 50))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    replies = Replies(path)
    found = replies.final("r1", 0)
    assert found is not None and found.body == "the body" and found.usage == Cost(7, 3)
    assert replies.final("r2", 0) is None
    one, two = replies.sent(["r1", "r2"])
    assert (one.cost.tokens, two.cost.tokens) == (10, 150)
    assert two.exchange.outcome == "lost" and two.reached == 1


@pytest.mark.parametrize(
    ("exchange", "final", "tokens"),
    [
        (Exchange("answered", 200, "x"), True, 15),
        (Exchange("filtered", 400, "x"), True, 15),
        (Exchange("garbled", 200, "x"), False, 15),
        (Exchange("lost"), False, 15),
        (Exchange("error", 500), False, 0),
        (Exchange("unreached"), False, 0),
        (Exchange("answered", 200, "x", usage=Cost(2, 1)), True, 3),
    ],
)
def test_what_settles_a_request_and_what_it_costs(
    tmp_path: Path, exchange: Exchange, final: bool, tokens: int
) -> None:
    replies = Replies(tmp_path / "r")
    replies.finish(replies.begin("r", 0, Cost(10, 5)), exchange)
    assert (replies.final("r", 0) == exchange) == final
    assert replies.final("r", 1) is None
    assert [sent.cost.tokens for sent in replies.sent(["r"])] == [tokens]


def test_many_threads_and_two_files_at_once(tmp_path: Path) -> None:
    both = [Replies(tmp_path / "r"), Replies(tmp_path / "r")]

    def work(number: int) -> None:
        own = both[number % 2]
        entry = own.begin(f"r{number}", 0, Cost(1, 1))
        own.finish(entry, Exchange("answered", 200, f"body {number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(60)))
    bodies = [sent.exchange.body for sent in both[0].sent([f"r{n}" for n in range(60)])]
    assert bodies == [f"body {n}" for n in range(60)]


def test_a_file_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"something else" * 200)
    with pytest.raises(StoreError, match="replies cannot be kept"):
        Replies(tmp_path / "r")
