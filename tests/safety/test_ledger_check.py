"""Forgeries by somebody who knows the format and can write to the store, but has no key."""

import hashlib
import hmac
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.engine.remake import import_artifacts
from kontext.errors import LedgerError
from kontext.safety import ledger as ledgers
from kontext.safety.keys import KEY_FILE
from kontext.safety.ledger import ARTIFACTS, EDITS, HEADS_URL, Ledger, Segment, claim_key
from kontext.safety.ledger_check import LedgerReport, check_ledger, restart
from kontext.safety.own_work import vouch
from kontext.safety.witness import WRITTEN
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.catalog import LEDGER
from schemas.manifest import Manifest
from tests.safety.test_ledger import decisions

WRONG_KEY = hashlib.sha256(b"a guess").digest()


class Place:
    """A store with artifacts and their ledger, and the home that wrote them."""

    def __init__(self, folder: Path, chain: str = ARTIFACTS) -> None:
        self.folder, self.chain = folder, chain  # what forgeries are of
        self.objects = open_store(f"file://{folder}/store")
        self.artifacts = ArtifactStore(self.objects, folder / "cache")
        self.ledger = Ledger(self.objects, folder / "home")

    def decide(self, stage: str, digest: str, table: pa.Table) -> None:
        """As the engine does: decisions, ledger, manifest."""
        writer = self.artifacts.writer(stage, digest)
        writer.add_table("decisions.parquet", table)
        self.ledger.append(stage, digest, table, run="r")
        manifest = Manifest(
            stage=stage, digest=digest, code_digest="c", config={}, inputs={}, seconds=1.0,
            files=list(writer.files.values()), metrics={}, notes=[], kernels={}, packages={},
            recipe="ci", created_at="2026-01-01T00:00:00Z", git_commit="",
        )  # fmt: skip
        writer.commit(manifest)

    def check(self) -> LedgerReport:
        return check_ledger(self.ledger, self.artifacts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    place = Place(folder)
    for number in range(6):
        stage = ("ingest", "screen")[number % 2]
        outcome = ("pass", "drop")[number % 3 == 0]
        place.decide(stage, f"{number:016x}", decisions(2 + number, outcome))
    return folder


@pytest.fixture
def edited(tmp_path: Path) -> Place:
    """A home that has made edits alone."""
    place = Place(tmp_path, EDITS)
    for number in range(6):
        place.ledger.of_chain(EDITS).add("edit", decisions(2 + number))
    return place


@pytest.fixture
def place(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A copy at the same place: heads know a store by where it lies."""
    aside = tmp_path / "aside"
    shutil.copytree(whole, aside)
    yield Place(whole)
    shutil.rmtree(whole)
    shutil.copytree(aside, whole)


def test_a_whole_ledger(place: Place) -> None:
    assert place.check() == LedgerReport(6, sum(range(2, 8)), ())


# --- forgeries: each takes the store and a random number generator -------------------------------


def claim(place: Place, seq: int) -> dict[str, Any]:
    return dict(json.loads(place.objects.get(claim_key(seq, place.chain))))


def put_claim(place: Place, seq: int, fields: dict[str, Any]) -> None:
    place.objects.put(claim_key(seq, place.chain), json.dumps(fields, sort_keys=True).encode())


def resigned(fields: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """With a signature of the right form, by another key, by none, or the old one."""
    segment = Segment(**fields)
    kinds = (segment.signed(WRONG_KEY).signature, "", fields["signature"], "0" * 64)
    return asdict(replace(segment, signature=draw.choice(kinds)))


def rewrite(
    place: Place, seq: int, change: Callable[[list[dict[str, Any]]], object], draw: random.Random
) -> None:
    """Change a segment's rows and chain them anew, as well as it can be done without the key."""
    fields = claim(place, seq)
    rows = read_parquet(place.objects.get(fields["key"])).to_pylist()
    change(rows)
    previous, keyed = fields["first_prev_hash"], draw.random() < 0.5
    for row in rows:
        row["prev_hash"] = previous
        text = json.dumps([str(row[name]) for name in LEDGER.names if name != "row_hash"]).encode()
        plain = hashlib.sha256(text).hexdigest()
        previous = row["row_hash"] = ledgers._row_hash(row, WRONG_KEY) if keyed else plain
    name = f"{place.chain}/{seq:012d}-{previous}.parquet"
    place.objects.put(name, parquet_bytes(pa.Table.from_pylist(rows, LEDGER)))
    fields |= {"key": name, "rows": len(rows), "last_hash": previous}
    put_claim(place, seq, resigned(fields, draw))


def all_pass(place: Place, draw: random.Random) -> None:
    for seq in range(6):
        rewrite(
            place, seq, lambda rows: [row.update(outcome="pass", reason="") for row in rows], draw
        )


def one_row(place: Place, draw: random.Random) -> None:
    field, value = draw.choice(
        [("outcome", "pass!"), ("reason", "x"), ("score", 0.123), ("subject_hmac", "f" * 64),
         ("policy_version", "9"), ("run", "other"), ("artifact", "screen/other")]
    )  # fmt: skip
    seq = draw.randrange(6)
    fields = claim(place, seq)
    table = read_parquet(place.objects.get(fields["key"]))
    rows = table.to_pylist()
    rows[draw.randrange(len(rows))][field] = value
    place.objects.put(fields["key"], parquet_bytes(pa.Table.from_pylist(rows, table.schema)))


def rows_gone(place: Place, draw: random.Random) -> None:
    rewrite(place, draw.randrange(6), lambda rows: rows.pop(draw.randrange(len(rows))), draw)


def rows_moved(place: Place, draw: random.Random) -> None:
    rewrite(place, draw.randrange(6), lambda rows: rows.reverse(), draw)


def rows_added(place: Place, draw: random.Random) -> None:
    rewrite(place, draw.randrange(6), lambda rows: rows.append(dict(rows[0])), draw)


def cut(place: Place, draw: random.Random) -> None:
    """The last segments go, claims and rows."""
    for seq in range(draw.randrange(6), 6):
        place.objects.delete(claim(place, seq)["key"])
        place.objects.delete(claim_key(seq, place.chain))


def everything_deleted(place: Place, draw: random.Random) -> None:
    for key in place.objects.list(f"{place.chain}/"):
        place.objects.delete(key)


def cut_with_its_artifacts(place: Place, draw: random.Random) -> None:
    """The end goes, and the manifests that would miss it."""
    first = draw.randrange(6)
    for seq in range(first, 6):
        stage, digest = claim(place, seq)["artifact"].split("/")
        place.objects.delete(f"runs/{stage}/{digest}/manifest.json")
        place.objects.delete(claim_key(seq, place.chain))


def claim_changed(place: Place, draw: random.Random) -> None:
    seq = draw.randrange(6)
    field, value = draw.choice(
        [("artifact", "screen/ffff"), ("rows", 0), ("seq", 9), ("key_id", "0" * 16),
         ("last_hash", "0" * 64), ("first_prev_hash", "1" * 64), ("key", "ledger/other.parquet")]
    )  # fmt: skip
    put_claim(place, seq, resigned(claim(place, seq) | {field: value}, draw))


def claimed_beforehand(place: Place, draw: random.Random) -> None:
    """The next number, for an artifact that will come, with no rows."""
    fields = claim(place, 5) | {"seq": 6, "rows": 0, "artifact": f"screen/{draw.randrange(99)}"}
    fields |= {"first_prev_hash": fields["last_hash"], "key": "ledger/none.parquet"}
    put_claim(place, 6, resigned(fields, draw))


def two_swapped(place: Place, draw: random.Random) -> None:
    one, other = draw.sample(range(6), 2)
    a, b = claim(place, one), claim(place, other)
    put_claim(place, one, b)
    put_claim(place, other, a)


def rows_of_another(place: Place, draw: random.Random) -> None:
    one, other = draw.sample(range(6), 2)
    place.objects.put(claim(place, one)["key"], place.objects.get(claim(place, other)["key"]))


def garbage(place: Place, draw: random.Random) -> None:
    seq = draw.randrange(6)
    name = draw.choice([claim_key(seq, place.chain), claim(place, seq)["key"]])
    place.objects.put(name, draw.choice([b"", b"{}", b"[]", b"null", draw.randbytes(200)]))


def unsigned_format(place: Place, draw: random.Random) -> None:
    """All of it in the format from before, whose chain anybody can compute."""
    for seq in range(6):
        fields = claim(place, seq)
        put_claim(place, seq, {k: v for k, v in fields.items() if k not in ("key_id", "signature")})


def artifacts_rewritten(place: Place, draw: random.Random) -> None:
    """The decisions that an artifact holds, with its manifest: the ledger is left alone."""
    stage, digest = claim(place, draw.randrange(6))["artifact"].split("/")
    key = f"runs/{stage}/{digest}/manifest.json"
    manifest = json.loads(place.objects.get(key))
    data = parquet_bytes(decisions(2, "forged"))
    sha256 = hashlib.sha256(data).hexdigest()
    place.objects.put(f"blobs/sha256/{sha256[:2]}/{sha256}", data)
    for file in manifest["files"]:
        file |= {"sha256": sha256, "size": len(data)}
    if draw.random() < 0.3:
        manifest["files"] = []
    place.objects.put(key, json.dumps(manifest).encode())


def artifact_put_in(place: Place, draw: random.Random) -> None:
    """An artifact that no ledger knows, made for a digest that will be asked for."""
    stage, digest = claim(place, draw.randrange(6))["artifact"].split("/")
    manifest = json.loads(place.objects.get(f"runs/{stage}/{digest}/manifest.json"))
    manifest["digest"] = f"{draw.getrandbits(64):016x}"
    place.objects.put(
        f"runs/{stage}/{manifest['digest']}/manifest.json", json.dumps(manifest).encode()
    )


def damaged_page(place: Place, draw: random.Random) -> None:
    """Some bytes of a table other than they were: Arrow has many names for that."""
    key = claim(place, draw.randrange(6))["key"]
    data = bytearray(place.objects.get(key))
    for _ in range(4):
        data[draw.randrange(8, len(data) // 2)] ^= 0xFF
    data[-draw.randrange(20, 200)] ^= 0xFF
    place.objects.put(key, bytes(data))


def other_types(place: Place, draw: random.Random) -> None:
    """Rows under the names of a ledger's columns that no row of it could have."""
    key = claim(place, draw.randrange(6))["key"]
    table = read_parquet(place.objects.get(key))
    name = draw.choice(table.schema.names)
    column = pa.array([b"\xff"] * table.num_rows, pa.binary())
    table = table.set_column(table.schema.names.index(name), name, column)
    place.objects.put(key, parquet_bytes(table.replace_schema_metadata(None)))


def claim_no_parser_likes(place: Place, draw: random.Random) -> None:
    seq = draw.randrange(6)
    fields = claim(place, seq)
    odd = ("é", "\ud800", [], {}, None, 1e999)
    claims = [
        *(json.dumps(fields | {key: one}) for one in odd for key in ("signature", "key_id")),
        "[" * 100_000, json.dumps(fields)[:-1] + ', "rows": 1}', '{"seq": ' + "9" * 5000 + "}",
    ]  # fmt: skip
    place.objects.put(
        claim_key(seq, place.chain), draw.choice(claims).encode("utf-8", "surrogatepass")
    )


def artifact_of_another_form(place: Place, draw: random.Random) -> None:
    """Its decisions and their digest in its manifest are others, and no decisions at all."""
    stage, digest = claim(place, draw.randrange(6))["artifact"].split("/")
    key = f"runs/{stage}/{digest}/manifest.json"
    manifest = json.loads(place.objects.get(key))
    writer = place.artifacts.writer(stage, digest)
    table = pa.table({"a": [1]}) if draw.random() < 0.5 else None
    writer.add_bytes("decisions.parquet", parquet_bytes(table) if table else b"PAR1 no table")
    manifest["files"] = [file.model_dump() for file in writer.files.values()]
    place.objects.put(key, json.dumps(manifest).encode())


FORGERIES = (
    damaged_page, other_types, claim_no_parser_likes, artifact_of_another_form,
    all_pass, one_row, rows_gone, rows_moved, rows_added, cut, everything_deleted,
    cut_with_its_artifacts, claim_changed, claimed_beforehand, two_swapped, rows_of_another,
    garbage, unsigned_format, artifacts_rewritten, artifact_put_in,
)  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
@pytest.mark.parametrize("seed", range(7))
def test_every_forgery_is_found(place: Place, forge: Any, seed: int) -> None:
    forge(place, random.Random(f"{forge.__name__} {seed}"))
    assert place.check().problems


OF_EDITS = (
    damaged_page, other_types, claim_no_parser_likes, all_pass, one_row, rows_gone, rows_moved,
    rows_added, cut, everything_deleted, claim_changed, claimed_beforehand, two_swapped,
    rows_of_another, garbage, unsigned_format,
)  # fmt: skip


@pytest.mark.parametrize("forge", OF_EDITS, ids=lambda forge: forge.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_every_forgery_of_the_edits_is_found(edited: Place, forge: Any, seed: int) -> None:
    assert edited.check() == LedgerReport(6, 27, (), (), 6)
    forge(edited, random.Random(f"{forge.__name__} {seed}"))
    assert edited.check().problems


def without_heads(place: Place) -> None:
    for name in place.ledger.heads.list():
        place.ledger.heads.delete(name)


@pytest.mark.parametrize("forge", [cut, everything_deleted])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_goes_together_with_its_heads_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Any, elsewhere: bool
) -> None:
    if elsewhere:
        monkeypatch.setenv(HEADS_URL, f"file://{tmp_path}/bucket")
    place = Place(tmp_path, EDITS)
    chain = place.ledger.of_chain(EDITS)
    for number in range(6):
        chain.add("edit", decisions(2 + number))
    forge(place, random.Random(0))
    without_heads(place)
    found = place.check().problems
    assert "edits: segment 5 was written and is gone" in found
    with pytest.raises(LedgerError, match="has lost segments"):
        place.ledger.of_chain(EDITS).add("edit", decisions(1))
    restart(place.ledger, place.artifacts)  # on purpose
    assert place.check() == LedgerReport(0, 0, (), place.check().notes)
    place.ledger.of_chain(EDITS).add("edit", decisions(1))
    assert place.check().problems == ()


def test_verify_fails_where_the_edits_went_with_their_heads(
    edited: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(edited.folder / "home"))
    words = ["safety", "verify", "--store", f"file://{edited.folder}/store"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    everything_deleted(edited, random.Random(0))
    without_heads(edited)
    said = CliRunner().invoke(cli.app, words)
    assert said.exception is not None and "whole" not in said.output


def test_a_number_that_is_none_is_no_ledger_of_nothing(edited: Place) -> None:
    (path,) = (edited.folder / "home" / WRITTEN).glob("*/*")
    path.write_text("many")
    with pytest.raises(LedgerError, match="is damaged"):
        edited.check()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("forge", [artifacts_rewritten, artifact_put_in, artifact_of_another_form])
def test_a_restart_takes_no_forgery_over(place: Place, forge: Any, seed: int) -> None:
    forge(place, random.Random(f"{forge.__name__} {seed}"))
    before = sorted(place.objects.list("ledger/"))
    with pytest.raises(LedgerError, match="decisions"):
        restart(place.ledger, place.artifacts)
    assert sorted(place.objects.list("ledger/")) == before and place.check().problems


def test_decisions_that_nobody_signed_are_marked(place: Place) -> None:
    unsigned_format(place, random.Random(0))
    stage, digest = place.artifacts.list()[0].stage, place.artifacts.list()[0].digest
    vouch(place.objects, place.folder / "home", place.artifacts.list()[0])
    restart(place.ledger, place.artifacts)
    marked: dict[bool, set[bool]] = {True: set(), False: set()}
    for row in place.ledger.table().to_pylist():
        own = row["artifact"] == f"{stage}/{digest}"
        marked[own].add(row["run"].endswith(", unsigned"))
    assert marked == {True: {False}, False: {True}}


def test_a_forged_artifact_does_not_come_back_by_import(place: Place, tmp_path: Path) -> None:
    """Of one that was removed here the ledger knows what was decided."""
    shutil.copytree(place.folder / "store", tmp_path / "outside")
    outside = Place(tmp_path / "outside")
    outside.objects = open_store(f"file://{tmp_path}/outside")
    outside.artifacts = ArtifactStore(outside.objects, tmp_path / "cache")
    artifacts_rewritten(outside, random.Random(0))
    for key in place.objects.list("runs/"):
        place.objects.delete(key)
    home = place.folder / "home"
    with pytest.raises(LedgerError, match="other decisions"):
        import_artifacts(outside.artifacts, place.artifacts, None, home=home)
    assert not place.objects.list("runs/")


def test_without_heads_the_report_says_what_it_cannot_see(place: Place) -> None:
    without_heads(place)
    problems = place.check().problems
    assert len(problems) == 1 and "copy of segment 5's claim is gone" in problems[0]
    place.ledger.forget()  # as of a store that was moved, or written by another home
    report = place.check()
    assert report.problems == () and "a cut end would not be seen" in report.notes[0]


def test_segments_without_a_copy_are_named(place: Place) -> None:
    """Who deletes the last copies could cut the store's end next."""
    kept = place.ledger.heads.list()
    for name in kept[-2:]:
        place.ledger.heads.delete(name)
    assert "copy of segment 5's claim is gone" in place.check().problems[0]
    place.ledger.forget()
    report = place.check()
    assert report.problems == () and report.notes[0].startswith("2 segments have no copy")


def test_a_score_that_is_no_number_is_what_was_written(place: Place) -> None:
    table = decisions(2).set_column(4, "score", pa.array([float("nan"), 1.0], pa.float32()))
    place.decide("screen", "e" * 16, table.cast(decisions(1).schema))
    assert place.check().problems == ()


def test_two_restarts_keep_both_ledgers(place: Place) -> None:
    restart(place.ledger, place.artifacts)
    restart(place.ledger, place.artifacts)
    assert len([key for key in place.objects.list("ledger-before-") if "/seq/" in key]) == 12


def test_a_restart_sets_the_old_one_aside_and_enters_every_artifact(place: Place) -> None:
    all_pass(place, random.Random(0))
    assert restart(place.ledger, place.artifacts) == 6
    assert place.check() == LedgerReport(6, sum(range(2, 8)), ())
    assert len([key for key in place.objects.list("ledger-before-") if "/seq/" in key]) == 6


def test_a_lost_key_needs_a_restart(place: Place) -> None:
    (place.folder / "home" / KEY_FILE).unlink()
    assert len([p for p in place.check().problems if "this home does not have" in p]) == 6
    with pytest.raises(LedgerError, match="this home does not have"):
        place.decide("ingest", "a" * 16, decisions(1))
    restart(place.ledger, place.artifacts)
    assert place.check().problems == ()


def test_signatures_are_hmacs_by_the_homes_key(place: Place) -> None:
    """So that a reader of the format can check them without this code."""
    key = bytes.fromhex((place.folder / "home" / KEY_FILE).read_text())
    signing = hmac.new(key, b"kontext safety ledger", hashlib.sha256).digest()
    fields = claim(place, 2)
    text = json.dumps(fields | {"signature": ""}, sort_keys=True, separators=(",", ":"))
    mac = hmac.new(signing, b"claim " + text.encode(), hashlib.sha256).hexdigest()
    assert fields["signature"] == mac


def test_the_chain_of_edits_is_checked_and_goes_on_after_a_restart(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "own")
    place = Place(tmp_path / "own")
    edits = place.ledger.of_chain(EDITS)
    for _ in range(3):
        edits.add("edit", decisions(2))
    before, found = edits.segments(), place.check()
    assert (found.edits, found.segments) == (3, 9)
    restart(place.ledger, place.artifacts)
    assert edits.segments() == before
    place.objects.delete(before[1].key)
    assert any("edits: segment 1" in problem for problem in place.check().problems)
    restart(place.ledger, place.artifacts)
    assert edits.segments() == [] and place.check().problems == ()
