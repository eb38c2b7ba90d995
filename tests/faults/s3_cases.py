"""The cases on a real S3 server (SeaweedFS) behind a proxy that misbehaves."""

import threading
import time
import uuid

from tests.faults.cases import Case, two_homes
from tests.faults.lab import Lab, Trouble, check, run, tail
from tests.faults.proxy import FaultProxy

UNTIL = "mine"


class S3:
    """The server's proxy, set by the command before the cases run."""

    proxy: FaultProxy
    keys: dict[str, str]


def _environment(**changed: str) -> dict[str, str]:
    found = {**S3.keys, "AWS_ENDPOINT_URL": S3.proxy.url, "AWS_REGION": "us-east-1"}
    return {**found, **changed}


def _bucket() -> str:
    return f"s3://kontext-test/{uuid.uuid4().hex[:12]}"


def under(name: str, mode: str, share: float = 0.1, seconds: float = 1.0) -> Case:
    """A share of all requests suffers; the command must get through or fail and be repeatable."""

    def case(lab: Lab) -> None:
        home = lab.home_after("", f"s3-{mode}")
        store = _bucket()
        before = S3.proxy.hits
        S3.proxy.mode, S3.proxy.share, S3.proxy.seconds = mode, share, seconds
        try:
            run(home, UNTIL, env=_environment(), extra=("--store", store))
        finally:
            S3.proxy.mode = "ok"
        if S3.proxy.hits == before:
            raise Trouble("no request was hit")
        check(lab, home, UNTIL, store)

    return Case("S3", name, case)


def down(name: str, delay: float) -> Case:
    """The server is away for 30 s, from `delay` seconds after the start."""

    def case(lab: Lab) -> None:
        home = lab.home_after("", f"s3-down-{delay:g}")
        store = _bucket()
        if delay:
            threading.Timer(delay, S3.proxy.down_for, (30.0,)).start()
        else:
            S3.proxy.down_for(30.0)
        first = run(home, UNTIL, env=_environment(), extra=("--store", store), expect=None)
        if first.returncode and "Traceback" in first.stderr:
            raise Trouble(f"a traceback instead of one clear line: {tail(first)}")
        while S3.proxy.mode == "down":
            time.sleep(0.5)
        run(home, UNTIL, env=_environment(), extra=("--store", store))
        check(lab, home, UNTIL, store)

    return Case("S3", name, case)


def wrong_secret(lab: Lab) -> None:
    """A clear line about the credentials, then the right ones."""
    home = lab.home_after("", "s3-secret")
    store = _bucket()
    wrong = _environment(AWS_SECRET_ACCESS_KEY="wrong")
    failed = run(home, UNTIL, env=wrong, extra=("--store", store), expect=1)
    if "Traceback" in failed.stderr:
        raise Trouble(f"a traceback instead of one clear line: {tail(failed)}")
    run(home, UNTIL, env=_environment(), extra=("--store", store))
    check(lab, home, UNTIL, store)


def two_machines(lab: Lab) -> None:
    """Two homes as on two machines: conditional puts decide who wrote a manifest."""
    first, second = (lab.home_after("", f"s3-two-{n}") for n in (1, 2))
    two_homes(lab, [first, second], UNTIL, _bucket(), env=_environment())


S3_CASES = [
    down("down for 30 s from the start", 0.0),
    down("down for 30 s in the middle", 4.0),
    under("10 % of requests answered 500", "error"),
    under("10 % of requests 2 s slow", "slow", seconds=2.0),
    under("10 % of connections reset", "reset"),
    under("10 % of answers cut in half", "cut"),
    Case("S3", "wrong secret, then the right one", wrong_secret),
    Case("two at once", "two machines, one bucket", two_machines),
]
