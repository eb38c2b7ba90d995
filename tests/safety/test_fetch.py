"""Lists are fetched from real servers that speak as the exchanges do; the hashes are benign."""

import datetime as dt
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from kontext.errors import ExchangeError, GateError
from kontext.safety.canaries import canary_image, canary_png
from kontext.safety.exchanges.configured import configured
from kontext.safety.fetch import Fetched, fetch
from kontext.safety.hashes import HashGate, load_hash_list
from kontext.safety.ids import Outcome, Reason
from kontext.safety.list_files import STANDING, lists_digest
from kontext.safety.sealed import KEY_FILE
from schemas.sections.data import IngestConfig
from tests.safety.exchanges.servers import (
    KEYS,
    PASSWORD,
    USER,
    Ncmec,
    StopNcii,
    Tat,
    served,
)

pytest.importorskip("threatexchange")

ONE, TWO = canary_png(17), canary_png(18)  # canaries that are not in the bank
PLAIN = np.full((64, 64, 3), 128, np.uint8)
STRICT = IngestConfig(allow_unlisted=False)
NOW = int(time.time()) - 1000


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def pdq(number: int) -> str:
    """As the exchanges' own library hashes a picture."""
    from threatexchange.signal_type.pdq.pdq_hasher import pdq_from_bytes

    return pdq_from_bytes(canary_png(number))[0]


def put(home: Path, name: str, **settings: str) -> None:
    folder = home / "exchanges"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.touch(0o600)
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))


def ncmec(home: Path, url: str, **more: str) -> None:
    account = f"{USER}:{PASSWORD}"
    put(home, "ncmec", **{"kind": "ncmec", "environment": "test_Industry", "url": url,
                          "credentials": account, **more})  # fmt: skip


def stopncii(home: Path, url: str, **more: str) -> None:
    put(home, "stopncii", **{"kind": "stopncii", "url": url, "credentials": KEYS, **more})


def tat(home: Path, url: str, **more: str) -> None:
    account = f"{USER}:{PASSWORD}"
    settings = {"kind": "tech-against-terrorism", "url": url, "credentials": account}
    put(home, "tat", **{**settings, **more})


def run(home: Path, name: str, **options: object) -> Fetched:
    return fetch(configured(home)[name], home, **options)  # type: ignore[arg-type]


def listed(home: Path, name: str) -> set[str]:
    found = load_hash_list(home / STANDING / f"{name}.age", home)
    exact = {f"{kind} {one.hex()}" for kind, own in found.exact.items() for one in own}
    return exact | {f"pdq {row.tobytes().hex()}" for row in found.pdq}


def stops(home: Path, data: bytes, rgb: np.ndarray = PLAIN) -> bool:
    return HashGate.from_config(STRICT, home).check(data, rgb).reason is Reason.HASH_MATCH


def entry(number: int, **fingerprints: str) -> dict:
    own = {"member": 42, "id": f"image{number}", "type": "image", "at": NOW + number}
    return {**own, "fingerprints": fingerprints} if fingerprints else own


def record(value: str, at: int = 50, status: str = "Active", kind: str = "ImagePDQ") -> dict:
    own = {"lastModtimestamp": at, "signalType": kind, "hashValue": value}
    return {**own, "hashStatus": status, "caseNumbers": {}}


def result(number: int, digest: str, kind: str = "MD5", deleted: bool = False) -> dict:
    return {"hash_digest": digest, "algorithm": kind, "ideology": "all", "file_type": "png",
            "deleted": deleted, "updated_on": 1000.5 + number, "created_on": "2025-03-03 23:05:22",
            "id": number}  # fmt: skip


def test_a_list_of_ncmec_stops_what_it_names_until_it_is_withdrawn(tmp_path: Path) -> None:
    with served(Ncmec) as server:
        ncmec(tmp_path, server.url)
        first = entry(1, md5=md5(ONE).upper(), sha1=hashlib.sha1(ONE).hexdigest(), pdna="AQID")
        server.entries = [first, entry(2, pdq=pdq(20)), entry(3, md5="not a hash")]
        got = run(tmp_path, "ncmec")
        assert (got.hashes, got.added, got.removed, got.malformed) == (3, 3, 0, 1)
        assert got.unused == {"pdna": 1} and got.whole
        assert stops(tmp_path, ONE) and not stops(tmp_path, TWO)
        assert stops(tmp_path, b"x", np.asarray(canary_image(20)))

        asked = len(server.asked)
        server.entries = [first, {**entry(1), "at": NOW + 20}, entry(4, md5=md5(TWO))]
        server.entries[2]["at"] = NOW + 30
        got = run(tmp_path, "ncmec")
        assert (got.hashes, got.added, got.removed, got.whole) == (2, 1, 2, False)
        assert listed(tmp_path, "ncmec") == {f"md5 {md5(TWO)}", f"pdq {pdq(20)}"}
        assert not stops(tmp_path, ONE) and stops(tmp_path, TWO)
        assert "from=1970" not in server.asked[asked]


def test_all_pages_of_ncmec_are_fetched_and_other_databases_anew(tmp_path: Path) -> None:
    with served(Ncmec) as server:
        ncmec(tmp_path, server.url)
        server.page = 2
        # of one second, which no shorter range of time divides
        server.entries = [{**entry(n, md5=md5(bytes([n]))), "at": NOW} for n in range(7)]
        assert run(tmp_path, "ncmec").hashes == 7
        assert any("start=" in path for path in server.asked)
        ncmec(tmp_path, server.url, environment="test_NGO")
        server.entries = [entry(9, md5=md5(b"of the other"))]
        got = run(tmp_path, "ncmec")
        assert got.whole and (got.hashes, got.removed) == (1, 7)


def test_stopncii_keeps_what_partners_say_and_drops_what_is_withdrawn(tmp_path: Path) -> None:
    with served(StopNcii) as server:
        stopncii(tmp_path, server.url)
        odd = {"source": "a partner", "feedbackValue": "SomethingNew", "tags": []}
        server.page = 2
        server.entries = [
            {**record(pdq(20)), "CSPFeedbacks": [odd], "caseNumbers": []},
            record(md5(ONE), kind="VideoMD5"),
            record("00ff", kind="VideoTMK"),
            record("https://example.org", kind="URL"),
            record(pdq(19)),
        ]
        got = run(tmp_path, "stopncii")
        assert got.unused == {"url": 1, "videotmk": 1}
        assert listed(tmp_path, "stopncii") == {
            f"md5 {md5(ONE)}", f"pdq {pdq(20)}", f"pdq {pdq(19)}"
        }  # fmt: skip
        server.entries += [record(pdq(20), 90, "Withdrawn"), record(pdq(19), 90, "Deleted")]
        got = run(tmp_path, "stopncii")
        assert listed(tmp_path, "stopncii") == {f"md5 {md5(ONE)}"} and got.removed == 2
        server.entries.append(record(md5(ONE), 120, "Deleted", "VideoMD5"))
        with pytest.raises(ExchangeError, match="no hash that can be matched"):
            run(tmp_path, "stopncii")
        assert listed(tmp_path, "stopncii") == {f"md5 {md5(ONE)}"}


def test_tech_against_terrorism(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Tat) as server:
        tat(tmp_path, server.url, credentials="")
        with pytest.raises(ExchangeError, match="PYTX_TAT_CREDENTIALS"):
            run(tmp_path, "tat")
        monkeypatch.setenv("PYTX_TAT_CREDENTIALS", f"{USER}:{PASSWORD}")
        server.page = 2
        server.entries = [
            result(1, md5(ONE)), result(2, pdq(20), "PDQ"), result(3, "x", "TMK"),
            result(4, md5(ONE)),
        ]  # fmt: skip
        got = run(tmp_path, "tat")
        assert (got.hashes, got.unused) == (2, {"tmk": 1})
        server.entries.append({**result(1, md5(ONE), deleted=True), "updated_on": 2000.0})
        assert run(tmp_path, "tat").removed == 0  # another record has it too
        server.entries.append({**result(4, md5(ONE), deleted=True), "updated_on": 3000.0})
        assert run(tmp_path, "tat").removed == 1
        assert listed(tmp_path, "tat") == {f"pdq {pdq(20)}"}


def test_a_local_file_is_as_old_as_it_was_written(tmp_path: Path) -> None:
    put(tmp_path, "ours", kind="local-file", path="signals.txt")
    file = tmp_path / "signals.txt"
    file.write_text(f"pdq {pdq(20)}\nvideo_md5 {md5(ONE)}\nurl https://example.org\n")
    assert run(tmp_path, "ours").unused == {"url": 1}
    assert stops(tmp_path, ONE)
    file.write_text(f"pdq {pdq(20)}\n")
    old = time.time() - 40 * 86_400
    os.utime(file, (old, old))
    got = run(tmp_path, "ours")
    assert got.removed == 1
    with pytest.raises(GateError, match=r"hash list ours@\w+ is (39|40) days old"):
        HashGate.from_config(STRICT, tmp_path)
    file.unlink()
    with pytest.raises(ExchangeError, match="cannot be read"):
        run(tmp_path, "ours")


def test_what_has_not_changed_is_the_same_version_with_a_new_date(tmp_path: Path) -> None:
    def at(day: int) -> dt.datetime:
        return dt.datetime(2026, 3, day, tzinfo=dt.UTC)

    with served(StopNcii) as server:
        stopncii(tmp_path, server.url)
        server.entries = [record(pdq(20))]
        first = run(tmp_path, "stopncii", now=at(1))
        path = tmp_path / STANDING / "stopncii.age"
        before, digest = path.read_bytes(), lists_digest((), tmp_path)
        second = run(tmp_path, "stopncii", now=at(20))
        assert (second.version, second.added, second.removed) == (first.version, 0, 0)
        assert (first.date, second.date) == ("2026-03-01", "2026-03-20")
        assert path.read_bytes() != before and lists_digest((), tmp_path) == digest
        HashGate.from_config(STRICT, tmp_path, dt.date(2026, 4, 10))
        for today, said in ((dt.date(2026, 4, 30), "days old"), (dt.date(2026, 3, 1), "ahead")):
            with pytest.raises(GateError, match=said):
                HashGate.from_config(STRICT, tmp_path, today)
        server.entries.append(record(pdq(19), 90))
        assert run(tmp_path, "stopncii", now=at(21)).version != first.version
        assert lists_digest((), tmp_path) != digest
        # what was withdrawn in a long pause may be forgotten there
        server.entries = [record(pdq(19), 90)]
        late = run(tmp_path, "stopncii", now=at(21) + dt.timedelta(days=31))
        assert late.whole and (late.hashes, late.removed) == (1, 1)


@pytest.mark.parametrize(
    ("broken", "after", "said"),
    [
        ("401", 0, r"refuses the credentials \(HTTP 401\)"),
        ("404", 1, r"answers with an error \(HTTP 404\)"),
        ("429", 1, "errors again and again"),
        ("hang", 1, "no answer for 1 s"),
        ("trickle", 1, "no answer for 1 s"),
        ("garbage", 1, "not in their form"),
        ("html", 1, "not in their form"),
    ],
)
def test_a_fetch_that_fails_leaves_the_last_whole_list(
    tmp_path: Path, broken: str, after: int, said: str
) -> None:
    with served(StopNcii) as server:
        stopncii(tmp_path, server.url)
        server.entries = [record(pdq(20))]
        run(tmp_path, "stopncii")
        path = tmp_path / STANDING / "stopncii.age"
        before = path.read_bytes()
        server.entries = [record(pdq(19), 90), record(md5(ONE), 90, kind="VideoMD5")]
        server.page, server.asked[:], server.broken, server.after = 1, [], broken, after
        with pytest.raises(
            ExchangeError, match=f"exchange stopncii: .*{said}.*stays as it is"
        ) as e:
            run(tmp_path, "stopncii", patience=1.0 if broken in ("hang", "trickle") else 100.0)
        assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]
        assert not any(secret in str(e.value) for secret in (*KEYS.split(","), pdq(19), server.url))


@pytest.mark.parametrize(
    ("kind", "set_up", "name", "broken", "said"),
    [
        (Ncmec, ncmec, "ncmec", "401", r"HTTP 401"),
        (Ncmec, ncmec, "ncmec", "html", "not in their form"),
        (Tat, tat, "tat", "500", r"HTTP 500"),
        (Tat, tat, "tat", "garbage", "not in their form"),
    ],
)
def test_other_exchanges_fail_as_plainly(tmp_path, kind, set_up, name, broken, said) -> None:
    with served(kind) as server:
        set_up(tmp_path, server.url)
        server.broken = broken
        with pytest.raises(ExchangeError, match=said):
            run(tmp_path, name)
    assert not (tmp_path / STANDING).exists() and not (tmp_path / KEY_FILE).exists()


def test_what_failed_is_said_without_what_was_answered() -> None:
    import requests

    from kontext.safety.exchanges.child import what_failed

    told = {
        requests.ConnectionError("at an address"): "it cannot be reached (ConnectionError)",
        requests.ReadTimeout("at an address"): "it cannot be reached (ReadTimeout)",
        ModuleNotFoundError("threatexchange"): "pip install 'kontext[exchanges]'",
        MemoryError(): "its answer is too large",
        KeyError("a hash"): "its settings or its answer are not in their form (KeyError)",
    }
    for error, said in told.items():
        assert said in what_failed(error)


def test_no_hash_and_no_credential_lies_open(tmp_path: Path) -> None:
    with served(StopNcii) as server:
        stopncii(tmp_path, server.url)
        server.entries = [record(pdq(20)), record(md5(ONE), kind="VideoMD5")]
        run(tmp_path, "stopncii")
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / STANDING / "stopncii.age").stat().st_mode & 0o777 == 0o600
    gate = HashGate.from_config(STRICT, tmp_path)
    assert gate.check(ONE, PLAIN).outcome is Outcome.DROP
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for open_ in (pdq(20), md5(ONE)):
            assert open_.encode() not in data and bytes.fromhex(open_) not in data, path
        assert KEYS.encode() not in data or path.parent.name == "exchanges"
