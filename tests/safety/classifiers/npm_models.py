"""Where the tests find the models of npm packages, and what they do where these are missing."""

from collections.abc import Iterable

import pytest

from kontext.errors import GateError
from kontext.safety.classifiers.npm_files import package_folder


def has(package: str) -> bool:
    """Whether `make safety-models` has been run."""
    try:
        package_folder(package, "the test")
    except GateError:
        return False
    return True


def missing(classifiers: Iterable[str]) -> bool:
    """Whether npm's model of one of these classifiers is not there."""
    packages = {"nsfwjs": "nsfwjs", "face-api-age": "@vladmandic/face-api"}
    return any(not has(packages[name]) for name in classifiers if name in packages)


def skip_without(classifiers: Iterable[str]) -> None:
    """Skip the test where it is not."""
    if missing(classifiers):
        pytest.skip(_WHY)


_WHY = "run `make safety-models` (npm)"
needs_nsfwjs = pytest.mark.skipif(not has("nsfwjs"), reason=_WHY)
needs_face_api = pytest.mark.skipif(not has("@vladmandic/face-api"), reason=_WHY)
