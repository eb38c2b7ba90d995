"""Raw replies of judges on the page of items, from a judge that writes markup."""

import html
import json
from pathlib import Path
from typing import Any

from kontext.evaluate.judges.judging import Judges
from kontext.evaluate.public.editors import Identity
from kontext.evaluate.public.items_page import anchor
from kontext.evaluate.public.run import BenchRequest
from tests.data.chat_server import Say, completion, serving
from tests.evaluate.benches import made
from tests.evaluate.judges.scripted import kind_of
from tests.evaluate.public.test_run import bench, run

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
LONG = "z" * 30_000


def speak(body: dict[str, Any], times: int) -> Say:
    """Hostile and long about the edit; about the picture's quality no JSON, however often."""
    if kind_of(body) == "viescore_quality":
        return completion(f"I will not say {HOSTILE}")
    return completion({"reasons": HOSTILE + LONG, "success": 3, "restraint": 7})


def test_every_item_has_its_replies_whole_and_escaped(tmp_path: Path) -> None:
    made.magicbrush(tmp_path / "data", (2,))
    loaded = bench(tmp_path / "data", "magicbrush")
    with serving(speak) as server:
        judges = Judges(("vlm",), server.url)
        run(BenchRequest(loaded, Identity(), tmp_path / "out", judges=judges), tmp_path / "home")
    page = (tmp_path / "out" / "items.html").read_text()
    assert "<script" not in page and "onerror=alert(2)>" not in page
    for part in page.split("<article ")[1:]:
        assert "viescore_edit" in part and "viescore_quality" in part
        assert "success: 3, restraint: 7" in part
        assert "no scores: malformed" in part and "nothing: malformed" in part
        assert "asked to mend it" in part
        bodies = [html.unescape(one.partition("</pre>")[0]) for one in part.split("<pre>")[1:]]
        told = [json.loads(body)["choices"][0]["message"]["content"] for body in bodies]
        assert any(LONG in one and HOSTILE in one for one in told)  # nothing is cut
        assert any("I will not say" in one for one in told)
    index = (tmp_path / "out" / "index.html").read_text()
    for item in loaded.items:
        assert f'id="{anchor(item.id)}"' in page and f"items.html#{anchor(item.id)}" in index


def test_where_nobody_was_asked_or_answered_the_page_says_so(tmp_path: Path) -> None:
    made.magicbrush(tmp_path / "data", (2,))
    loaded = bench(tmp_path / "data", "magicbrush")
    run(BenchRequest(loaded, Identity(), tmp_path / "alone"), tmp_path / "home")
    assert "No judge was asked" in (tmp_path / "alone" / "items.html").read_text()
    with serving(speak) as server:
        judges = Judges(("vlm",), server.url, budget_requests=1)
        run(BenchRequest(loaded, Identity(), tmp_path / "out", judges=judges), tmp_path / "home")
    page = (tmp_path / "out" / "items.html").read_text()
    assert "There is no reply." in page and "no scores: budget" in page
