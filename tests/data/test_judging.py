"""A home's own key vouches for texts that passed, and for the very code and data that said so."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from kontext.data import judging
from kontext.data.judging import judged_texts, judging_code
from kontext.errors import CanaryError, GateError
from kontext.safety import judged_texts as module
from kontext.safety.judged_texts import FILE
from kontext.safety.keys import HEADS, KEY_FILE, run_key
from kontext.safety.texts import CANARIES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import load_recipe
from schemas.tables import JUDGED_TEXTS
from tests.stages.stage_harness import Harness

LAMP = "a lamp"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    judging_code.cache_clear()
    yield
    judging_code.cache_clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "home"
    found.mkdir()
    return found


def kept(folder: Path, table: pa.Table) -> Artifact:
    place = Harness(folder, load_recipe("ci"))
    return place.make("caption", lambda out: out.add_table(FILE, table))


def passed(home: Path, *texts: str) -> Artifact:
    """What a run keeps of the texts that it let pass."""
    judged = judged_texts(home, ())
    judged(texts)
    return kept(home.parent, judged.table())


def asks(home: Path, made: Artifact, patch: pytest.MonkeyPatch, limit: float = 0.5) -> bool:
    """Whether the lamp is judged again."""
    judged, asked = judged_texts(home, [made], limit), list[str]()

    def ask(texts: list[str], limit: float) -> list[None]:
        asked.extend(texts)
        return [None] * len(texts)

    with patch.context() as inner:
        inner.setattr(module, "judge_texts", ask)
        judged([LAMP])
    return bool(asked)


def test_what_the_home_let_pass_is_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = passed(home, LAMP)
    assert not asks(home, made, monkeypatch)
    assert asks(home, made, monkeypatch, limit=0.4)
    elsewhere = home.parent / "elsewhere"
    elsewhere.mkdir()
    assert asks(elsewhere, made, monkeypatch)  # another home has another key


def test_a_home_that_lost_its_key_knows_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = passed(home, LAMP)
    before = run_key(home)
    (home / KEY_FILE).unlink()
    assert asks(home, made, monkeypatch) and run_key(home) != before
    (home / KEY_FILE).unlink()
    head = home / HEADS / "store/ledger/seq/1.json"
    head.parent.mkdir(parents=True)
    head.write_text("{}")
    with pytest.raises(GateError, match="is gone, but decisions were signed with it"):
        judged_texts(home, [made])


def test_all_that_decides_is_vouched_for_by_content(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, packages, _ = json.loads(judging_code())
    assert {
        "kontext.safety.text:text_rules.json",
        "kontext.safety.wording.classifier:weights.safetensors",
        "kontext.safety.text", "kontext.safety.texts",
        "kontext.safety.wording.classifier", "kontext.safety.wording.encoder",
        "kontext.safety.wording.packed", "kontext.safety.wording.pieces",
    } <= modules.keys() and "numpy" in packages  # fmt: skip
    made, real = passed(home, LAMP), judging.modules_of
    for name in modules:
        with monkeypatch.context() as patch:
            patch.setattr(judging, "modules_of", lambda *of, n=name: {**real(*of), n: "0" * 16})
            judging_code.cache_clear()
            assert asks(home, made, patch), name
    judging_code.cache_clear()
    assert not asks(home, made, monkeypatch)


def test_a_canary_that_is_known_ends_the_run(home: Path) -> None:
    """Say that somebody with the key, or a broken classifier, once let it pass."""
    known = pa.table([[judged_texts(home, ()).hmac(CANARIES[0])]], schema=JUDGED_TEXTS)
    with pytest.raises(CanaryError, match="1 of 10 canaries were taken for known texts"):
        judged_texts(home, [kept(home.parent, known)])
