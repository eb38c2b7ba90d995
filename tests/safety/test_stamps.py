"""The ledger is stamped by an authority on this machine (openssl), and stamps are checked."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kontext.errors import LedgerError
from kontext.safety import stamps
from kontext.safety.ledger import EDITS, claim_key
from kontext.safety.stamps import check_stamps, stamp
from tests.safety.test_ledger import decisions
from tests.safety.test_ledger_check import Place

pytest.importorskip("rfc3161_client")
OPENSSL = shutil.which("openssl")

CONFIG = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[tsa]
extendedKeyUsage = critical, timeStamping
[ts]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
ess_cert_id_alg = sha256
"""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run([str(OPENSSL), *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ca.pem, tsa.pem and tsa.key of an authority, and a stranger's ca2.pem."""
    if OPENSSL is None:
        pytest.skip("the authority of the tests is openssl")
    folder = tmp_path_factory.mktemp("tsa")
    (folder / "config").write_text(CONFIG.format(folder=folder))
    (folder / "serial").write_text("01\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "config")
    for ca in ("ca", "ca2"):
        own = ("-x509", "-extensions", "ca", "-subj", f"/CN={ca}", "-keyout", f"{ca}.key")
        openssl(folder, "req", *new, *own, "-out", f"{ca}.pem")
    openssl(folder, "req", *new, "-subj", "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "config")
    openssl(
        folder, "x509", "-req", "-in", "tsa.csr", *signed, "-extensions", "tsa", "-out", "tsa.pem"
    )
    return folder


@pytest.fixture
def url(authority: Path) -> Iterator[str]:
    class Tsa(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/broken":
                return self.answer(200, b"no stamp")
            if self.path == "/busy":
                return self.answer(503, b"")
            (authority / "query").write_bytes(asked)
            own = ("-section", "ts", "-signer", "tsa.pem", "-inkey", "tsa.key", "-config", "config")
            openssl(authority, "ts", "-reply", *own, "-queryfile", "query", "-out", "reply")
            self.answer(200, (authority / "reply").read_bytes())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tsa)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_stamp_holds_until_its_claim_is_another(
    tmp_path: Path, authority: Path, url: str
) -> None:
    place, roots = Place(tmp_path), authority / "ca.pem"
    assert stamp(place.ledger, url, roots) is None  # there is nothing yet
    place.decide("screen", "d0", decisions(2))
    made = stamp(place.ledger, url, roots)
    assert made is not None and (made.seq, made.chain) == (0, "ledger")
    assert stamp(place.ledger, url, roots) is None
    place.decide("screen", "d1", decisions(2))
    assert stamp(place.ledger, url, roots).seq == 1  # type: ignore[union-attr]
    found = check_stamps(place.ledger, roots)
    assert (len(found.stamps), found.problems, found.notes) == (2, (), ())
    assert found.stamps[0] == made
    assert check_stamps(place.ledger.of_chain(EDITS), roots).stamps == ()
    assert "set KONTEXT_TSA_ROOTS" in check_stamps(place.ledger, None).notes[0]
    # somebody with the key writes another claim, and its copy
    segment = place.ledger.segments()[1]
    place.objects.put(claim_key(1), segment.claim() + b" ")
    assert (
        "segment 1: its time stamp does not hold" in check_stamps(place.ledger, roots).problems[0]
    )
    place.objects.delete(claim_key(1))
    assert check_stamps(place.ledger, roots).problems == (
        "segment 1 is gone, and has a time stamp",
    )


def test_only_an_authority_that_is_believed_counts(
    tmp_path: Path, authority: Path, url: str
) -> None:
    place = Place(tmp_path)
    place.decide("screen", "d0", decisions(1))
    (authority / "none.pem").write_text("no certificate")
    for address, roots, said in (
        (url, "ca2.pem", "Verification"),
        (url, "none.pem", "no certificates"),
        (url, "missing.pem", "no certificates"),
        (f"{url}/broken", "ca.pem", "ValueError"),
        (f"{url}/busy", "ca.pem", "503"),
        ("http://127.0.0.1:9", "ca.pem", "does not answer"),
    ):
        with pytest.raises(LedgerError, match=said):
            stamp(place.ledger, address, authority / roots)
    assert not place.ledger.heads.list(place.ledger.head_key("ledger/stamps/"))
    assert stamp(place.ledger, url, authority / "ca.pem") is not None
    assert "does not hold" in check_stamps(place.ledger, authority / "ca2.pem").problems[0]


def test_the_roots_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stamps.ROOTS, raising=False)
    assert stamps.roots_file() is None
    monkeypatch.setenv(stamps.ROOTS, "/some/roots.pem")
    assert stamps.roots_file() == Path("/some/roots.pem")
