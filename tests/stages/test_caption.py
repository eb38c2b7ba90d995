import base64
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from kontext.data.caption import external, modules_named
from kontext.data.pixels import decode_png, encode_png
from kontext.errors import GateError, KontextError
from kontext.safety import screening
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.recipes import Recipe
from schemas.sections.data import CaptionConfig
from schemas.tables import CAPTION_TEXTS, CAPTIONS, IMAGES, PAIRS, PIXELS, REPLIES
from tests.data.chat_server import Say, completion, fails, pictures, said, serving
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness, rows_table
from tests.train.broken_runs import processes


def image(name: str, concept: str, **attributes: str) -> dict[str, Any]:
    return {"pixel_id": name, "concept": concept, "attributes": json.dumps(attributes)}


def pair(name: str, context: str, target: str, relation: str, **params: str) -> dict[str, Any]:
    return {
        "pair_id": name,
        "context_ids": [context] if context else [],
        "target_id": target,
        "relation_class": "local" if context else "t2i",
        "relation": relation,
        "params": json.dumps(params),
    }


IMAGE_ROWS = [
    image("red", "sign", color="red"),
    image("blue", "sign", color="blue"),
    image("cap", "person", hat="none"),
]
PAIR_ROWS = [
    pair("p1", "red", "blue", "color", **{"attribute": "color", "from": "red", "to": "blue"}),
    pair("p2", "", "blue", "t2i", subject="sign"),
    pair("p3", "red", "blue", "warp", **{"attribute": "space", "from": "a", "to": "b"}),
]


def harness(folder: Path, pairs: Sequence[dict[str, Any]] = PAIR_ROWS, **options: Any) -> Harness:
    used = Harness(folder, Recipe(name="test", caption=CaptionConfig(**options)))

    def ingest(out: ArtifactWriter) -> None:
        out.add_table("images/000.parquet", rows_table(IMAGES, IMAGE_ROWS))
        pixels = [
            {"pixel_id": row["pixel_id"], "png": encode_png(scene(n))}
            for n, row in enumerate(IMAGE_ROWS)
        ]
        out.add_table("pixels/000.parquet", rows_table(PIXELS, pixels))

    used.make("ingest", ingest)
    used.make("mine", lambda out: out.add_table("pairs.parquet", rows_table(PAIRS, pairs)))
    return used


def test_every_pair_has_a_row_in_order(tmp_path: Path) -> None:
    used = harness(tmp_path)
    artifact = used.run("caption")
    table = artifact.table("captions.parquet")
    assert table.schema.names == CAPTIONS.names
    edit, single, broken = table.to_pylist()
    assert edit["pair_id"] == "p1" and "blue" in edit["instruction"]
    assert "red" in edit["instruction_inverse"]
    assert edit["target_caption"] == "a blue sign" and edit["context_caption"] == "a red sign"
    assert single["instruction"] == single["target_caption"] == "a blue sign"
    assert (broken["status"], broken["instruction"]) == ("malformed", "")
    assert artifact.manifest.metrics["captions_ok"] == 2
    assert artifact.manifest.metrics["captions_failed"] == 1
    loud, note = artifact.manifest.notes
    assert note == "1 of 3 pairs have no caption (malformed)" and "ONLY 67%" in loud
    counts = {
        (r["relation"], r["status"]): r["pairs"] for r in used.report.tables["caption-counts"]
    }
    assert counts == {("color", "ok"): 1, ("t2i", "ok"): 1, ("warp", "malformed"): 1}
    assert edit["instruction"] in used.report.texts["caption-samples"]


def test_same_inputs_same_bytes_and_seed_matters(tmp_path: Path) -> None:
    first = harness(tmp_path / "a").run("caption").manifest.file("captions.parquet").sha256
    assert first == harness(tmp_path / "b").run("caption").manifest.file("captions.parquet").sha256
    others = {
        harness(tmp_path / str(seed), seed=seed).run("caption").manifest.files[0].sha256
        for seed in range(1, 5)
    }
    assert len(others | {first}) > 1


# --- a model ------------------------------------------------------------------------------------

REPLY = {
    "stays": ["the sign"],
    "changed": ["its color"],
    "refuse": "",
    "instruction": "paint it blue",
    "instruction_short": "blue",
    "instruction_inverse": "paint it red",
    "target_caption": "a blue sign",
    "context_caption": "a red sign",
}
SINGLE = {"refuse": "", "caption": "a blue sign", "caption_short": "blue sign"}


def many(folder: Path, url: str, count: int, **options: Any) -> Harness:
    """`count` edits of one picture into another, told apart by a label."""
    change = {"attribute": "color", "from": "red", "to": "blue"}
    pairs = [pair(f"p{n}", "red", "blue", "color", number=str(n), **change) for n in range(count)]
    chat = {"captioner": "chat", "endpoint": url, "model": "vlm", "first_wait": 0.001}
    return harness(folder, pairs, **{**chat, **options})


def number(body: dict[str, Any]) -> int:
    return int(said(body)["labels of the change"]["number"])


def test_a_model_sees_the_pictures_and_its_replies_are_kept(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return completion(REPLY if len(pictures(body)) == 2 else SINGLE, (900, 100))

    with serving(speak) as server:
        options = {"usd_per_million_in": 1.0, "usd_per_million_out": 10.0}
        used = harness(tmp_path, captioner="chat", endpoint=server.url, model="vlm", **options)
        artifact = used.run("caption")
    rows = artifact.table("captions.parquet").to_pylist()
    assert [row["pair_id"] for row in rows] == ["p1", "p2", "p3"]
    assert {(row["captioner"], row["status"]) for row in rows} == {("chat/vlm", "ok")}
    assert rows[0]["instruction"] == "paint it blue" and rows[1]["instruction_inverse"] == ""
    assert sorted(len(pictures(body)) for body in server.bodies) == [1, 2, 2]
    sent = pictures(server.bodies[0])[0].partition(",")[2]
    assert decode_png(base64.b64decode(sent)).shape == scene(0).shape
    assert artifact.manifest.notes == []
    metrics = artifact.manifest.metrics
    assert (metrics["requests"], metrics["tokens_in"], metrics["tokens_out"]) == (3, 2700, 300)
    assert metrics["cost_usd"] == 0.0057
    replies = artifact.table("replies.parquet")
    assert replies.schema.names == REPLIES.names and replies.num_rows == 3
    assert all(json.loads(reply)["model"] == "served-vlm" for reply in replies["reply"].to_pylist())


TROUBLES: dict[int, tuple[str, Say]] = {
    1: ("refused", Say('{"error": {"code": "content_filter"}}', 400)),
    2: ("refused", completion({**REPLY, "refuse": "These show different signs."})),
    3: ("malformed", completion("Certainly! I painted it blue.")),
    4: ("malformed", Say("<html>bad gateway</html>")),
    5: ("too_long", completion({**REPLY, "instruction": "very " * 20})),
    6: ("empty", completion({**REPLY, "instruction_inverse": "none"})),
    7: ("failed", fails(413, "too large")),
    8: ("truncated", completion('{"stays": ["the', finish_reason="length")),
    9: ("unanswered", fails(500)),
    10: ("unanswered", Say("", hang=3)),
    11: ("unanswered", Say("x" * 999, cut=True)),
    12: ("ok", completion("```json\n" + json.dumps(REPLY) + "\n```")),
}
PASSING = {13: fails(429, Retry_After="0.1"), 14: fails(503), 15: Say("x" * 999, cut=True)}


def test_every_row_has_a_status_whatever_the_server_does(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        if number(body) in PASSING and not times:
            return PASSING[number(body)]
        return TROUBLES.get(number(body), ("", completion(REPLY)))[1]

    with serving(speak) as server:
        used = many(tmp_path, server.url, 40, tries=2, timeout=1.5, parallel=4)
        artifact = used.run("caption")
        rows = artifact.table("captions.parquet").to_pylist()
        wanted = [TROUBLES.get(n, ("ok", None))[0] for n in range(40)]
        assert [row["status"] for row in rows] == wanted
        assert all(bool(row["instruction"]) == (row["status"] == "ok") for row in rows)
        sent = len(server.bodies)
        replies = artifact.table("replies.parquet").to_pylist()
        assert len(replies) == sent and {row["pair_id"] for row in replies} == {
            row["pair_id"] for row in rows
        }
        notes = artifact.manifest.notes
        assert notes[0].startswith("ONLY 72% OF THE PAIRS HAVE A CAPTION (1 empty, 1 failed, ")
        assert any("(unanswered); `kontext run --only caption --force`" in note for note in notes)
        troubles = {row["status"]: row["why"] for row in used.report.tables["caption-troubles"]}
        assert troubles["failed"] == "HTTP 413 (too large)"
        server.speak = lambda body, times: completion(REPLY)
        again = many(tmp_path / "other", server.url, 40)
        again.home = used.home
        later = [
            row["status"] for row in again.run("caption").table("captions.parquet").to_pylist()
        ]
        passed = {"unanswered", "failed"}
        assert later == ["ok" if s in passed or n == 4 else s for n, s in enumerate(wanted)]
        assert len(server.bodies) == sent + 5, "all others were paid for already"


def test_no_caption_at_all_is_an_error_with_the_counts(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        return completion("Nice pictures!") if number(body) else fails(400, "no such parameter")

    with serving(speak) as server:
        used = many(tmp_path, server.url, 6)
        with pytest.raises(GateError, match="none of 6 pairs has a caption: 1 failed, 5 malformed"):
            used.run("caption")
        assert "caption" not in used.inputs
        sent = len(server.bodies)
        with pytest.raises(GateError):
            used.run("caption")
        assert len(server.bodies) == sent + 1, "only what failed for free is asked again"
    silent = many(tmp_path / "b", "http://127.0.0.1:9/v1", 6, tries=2)
    with pytest.raises(KontextError, match="does not answer"):
        silent.run("caption")


def test_a_budget_is_kept_and_what_is_left_over_says_so(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(REPLY, (400, 100))) as server:
        artifact = many(tmp_path, server.url, 40, budget_tokens=12_000).run("caption")
        spent = 500 * len(server.bodies)
        assert 8_000 < spent <= 12_000 and artifact.manifest.metrics["tokens_in"] == spent * 0.8
        rows = [row["status"] for row in artifact.table("captions.parquet").to_pylist()]
        done = len(server.bodies)
        assert rows == ["ok"] * done + ["budget"] * (40 - done)
        assert "larger caption.budget_tokens" in artifact.manifest.notes[-1]
        nothing = many(tmp_path / "b", server.url, 3, budget_tokens=20)
        with pytest.raises(GateError, match="3 budget; a larger"):
            nothing.run("caption")


def captioned(folder: Path, url: str) -> None:
    """What a process that is killed was doing."""
    many(folder, url, 60, parallel=4).run("caption")


def test_a_run_that_is_killed_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    """SIGKILL in the middle of 60 pairs, three times; the server counts what it answered."""
    answered: Counter[int] = Counter()
    reached, going_on = threading.Event(), threading.Event()

    def speak(body: dict[str, Any], times: int) -> Say:
        answered[number(body)] += 1
        if answered.total() in (16, 33, 50):
            going_on.clear()
            reached.set()
        going_on.wait(60)
        return Say(completion(REPLY, (400, 100)).body, hang=0.02)

    with serving(speak) as server:
        for _ in range(3):
            reached.clear()
            going_on.set()
            process = processes().Process(target=captioned, args=(tmp_path, server.url))
            process.start()
            assert reached.wait(120)
            process.kill()
            process.join()
        going_on.set()
        assert answered.total() < 60
        used = many(tmp_path, server.url, 60, parallel=4)
        artifact = used.run("caption")
        assert used.report.continued_from.endswith(" of 60")
        assert artifact.manifest.metrics["captions_ok"] == 60
        twice = [n for n, times in answered.items() if times > 1]
        assert len(answered) == 60 and max(answered.values()) <= 2
        assert len(twice) <= 3 * 4, "what was under way at a kill, and nothing else"
        lost = artifact.table("replies.parquet").filter(pc.field("outcome") == "lost")
        assert set(lost["pair_id"].to_pylist()) >= {f"p{n}" for n in twice}
        assert not any(lost["counted"].to_pylist())


VERDICT = {"reasons": "It is blue.", "follow": 5, "preserve": 5, "quality": 4}


def test_a_judge_after_templates_and_one_budget_for_all(tmp_path: Path) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        if body["response_format"]["json_schema"]["name"] == "caption":
            return completion(REPLY | {"instruction": f"paint it blue, {number(body)}"})
        wrong = body["response_format"]["json_schema"]["name"] != "judge"
        return completion(VERDICT | {"follow": 2} if wrong else VERDICT)

    with serving(speak) as server:
        options = {"judge": True, "endpoint": server.url, "model": "vlm"}
        used = harness(tmp_path, [PAIR_ROWS[0] | {"pair_id": f"p{n}"} for n in range(4)], **options)
        artifact = used.run("caption")
        judged = artifact.table("judgements.parquet")
        assert judged["pair_id"].to_pylist() == ["p0", "p1", "p2", "p3"]
        assert set(judged["shuffled_gap"].to_pylist()) == {3.0}
        metrics = artifact.manifest.metrics
        assert (metrics["judged_ok"], metrics["judge_shuffled_gap"]) == (4, 3.0)
        assert artifact.manifest.notes == []
        assert artifact.table("captions.parquet")["captioner"][0].as_py().startswith("templates")
        server.bodies.clear()
        both = many(tmp_path / "b", server.url, 8, judge=True, budget_requests=20).run("caption")
        assert len(server.bodies) == 20, "8 captions, and 4 edits judged"
        assert both.manifest.metrics["judged_ok"] == 4 == both.manifest.metrics["captions_ok"] - 4
        assert "4 of 8 edits are not judged (budget)" in both.manifest.notes
        assert Counter(both.table("replies.parquet")["kind"].to_pylist()) == {
            "caption": 8,
            "judge": 4,
            "judge_shuffled": 4,
            "judge_swapped": 4,
        }


def test_a_judge_that_likes_everything_is_not_believed(tmp_path: Path) -> None:
    with serving(lambda body, times: completion(VERDICT)) as server:
        rows = [PAIR_ROWS[0] | {"pair_id": f"p{n}"} for n in range(4)]
        used = harness(tmp_path, rows, judge=True, endpoint=server.url, model="vlm")
        notes = used.run("caption").manifest.notes
    assert "THE JUDGE HARDLY TELLS RIGHT INSTRUCTIONS FROM WRONG ONES" in notes[0]


def scored(number: int) -> Any:
    """Scores at the classifiers' interface: picture `number` looks explicit, no other does."""

    def fake(classifier: Any, images: Sequence[Any]) -> dict[str, Any]:
        hit = [np.array_equal(one, scene(number)) for one in images]
        spread = 0.001 * np.arange(len(images), dtype=np.float32)
        values = np.where(hit, np.float32(0.99), spread).astype(np.float32)
        return {label: values if label == "nsfw" else spread for label in classifier.labels}

    return fake


@pytest.mark.parametrize("judge", [False, True])
def test_no_model_is_shown_a_picture_that_the_policy_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: bool
) -> None:
    change = json.loads(PAIR_ROWS[0]["params"])
    back = {"attribute": "color", "from": "blue", "to": "red"}
    pairs = [
        *PAIR_ROWS[:2],
        pair("p4", "red", "cap", "color", **change),
        pair("p5", "blue", "red", "color", **back),
    ]
    monkeypatch.setattr(screening, "score_images", scored(2))  # the picture `cap`
    scores = {"follow": 5, "preserve": 5, "quality": 5}

    def speak(body: dict[str, Any], times: int) -> Say:
        if "follow" in json.dumps(body["messages"][0]):
            return completion(scores)
        return completion(REPLY if len(pictures(body)) == 2 else SINGLE)

    with serving(speak) as server:
        captioner = "templates" if judge else "chat"
        used = harness(tmp_path, pairs, captioner=captioner, endpoint=server.url, model="vlm",
                       judge=judge)  # fmt: skip
        artifact = used.run("caption")
    refused = base64.b64encode(encode_png(scene(2))).decode()
    assert server.bodies and not any(refused in json.dumps(body) for body in server.bodies)
    rows = {row["pair_id"]: row for row in artifact.table("captions.parquet").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "p1": "ok", "p2": "ok", "p4": "picture_refused", "p5": "ok",
    }  # fmt: skip
    assert not any(rows["p4"][name] for name in CAPTION_TEXTS)
    assert artifact.manifest.metrics["pictures_refused"] == 1
    held = artifact.table("image_scores.parquet")
    assert set(held["pixel_id"].to_pylist()) == {"red", "blue", "cap"}


def test_captions_that_send_nothing_need_no_scores(tmp_path: Path) -> None:
    artifact = harness(tmp_path).run("caption")
    assert not artifact.names("image_scores.parquet")
    assert external(CaptionConfig()) == "" != external(CaptionConfig(judge=True))
    assert modules_named(CaptionConfig()) == ["kontext.data.caption.templates"]
    sent = modules_named(CaptionConfig(captioner="chat"))
    assert "kontext.safety.classifiers.nudenet" in sent and "kontext.data.caption.unsent" in sent


@pytest.mark.parametrize("text", ["instruction", "instruction_inverse", "context_caption"])
def test_a_text_that_the_rules_refuse_is_kept_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(screening, "score_images", scored(9))
    said = "undress her"

    def speak(body: dict[str, Any], times: int) -> Say:
        return completion({**REPLY, text: said} if len(pictures(body)) == 2 else SINGLE)

    with serving(speak) as server:
        used = harness(tmp_path, PAIR_ROWS[:2], captioner="chat", endpoint=server.url, model="vlm")
        artifact = used.run("caption")
    edit, single = artifact.table("captions.parquet").to_pylist()
    assert (edit["status"], single["status"]) == ("text_undress", "ok")
    assert not any(edit[name] for name in CAPTION_TEXTS)
    replies = artifact.table("replies.parquet").to_pylist()
    assert {row["pair_id"]: bool(row["reply"]) for row in replies} == {"p1": False, "p2": True}
    told = [used.report.texts, used.report.tables, artifact.manifest.notes]
    assert said not in str(told) and said not in str(edit) + str(replies)
