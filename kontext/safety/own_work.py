"""Which artifacts this home has made itself: an HMAC of each manifest, with the home's key.

    runs/<stage>/<digest>/own.json    {"hmac": …, "key": its id}

A stage takes from earlier artifacts what they hold of a picture, a text or a pair, and does not
look at it again: that its scores are low, how its sample looks. An artifact from outside could say
anything, and name today's code in its manifest. So only those that this home has made are asked, or
another home whose key it has (`safety.keys`), and of them only what was made of such, from the
pictures on (`kontext.engine.earlier`).
"""

import hashlib
import hmac
import json
import logging
from pathlib import Path

from kontext.errors import GateError, ObjectNotFound
from kontext.safety.keys import derived, key_id, known_keys, run_key
from kontext.store.artifacts.artifact_store import manifest_bytes, manifest_key, own_key
from kontext.store.objects import ObjectStore
from schemas.manifest import Manifest

CHANGES_RESULTS = False  # what is taken from an artifact is what would be made

_LOG = logging.getLogger("kontext.safety")


def vouch(objects: ObjectStore, home: Path, manifest: Manifest) -> None:
    """Say that this home has made an artifact. Without a key that can be used nothing is said."""
    try:
        key = run_key(home)
    except GateError as error:  # no reason to lose what a stage has made
        _LOG.warning("%s/%s is taken by no later run: %s", manifest.stage, manifest.digest, error)
        return
    said = {"hmac": _hmac(key, manifest_bytes(manifest)), "key": key_id(key)}
    objects.put(_place(manifest), json.dumps(said, sort_keys=True).encode())


def is_own(objects: ObjectStore, home: Path, manifest: Manifest) -> bool:
    """Whether this home, or one whose key it has, has made just this artifact."""
    try:
        said = json.loads(objects.get(_place(manifest)))
        key = known_keys(home).get(said["key"])
        if key is None:
            return False
        data = objects.get(manifest_key(manifest.stage, manifest.digest))
        if not hmac.compare_digest(said["hmac"], _hmac(key, data)):
            return False
        return manifest_bytes(Manifest.model_validate_json(data)) == manifest_bytes(manifest)
    except (ObjectNotFound, GateError, ValueError, KeyError, TypeError):
        return False


def _place(manifest: Manifest) -> str:
    return own_key(manifest.stage, manifest.digest)


def _hmac(key: bytes, data: bytes) -> str:
    return hmac.new(derived(key, b"own work"), data, hashlib.sha256).hexdigest()
