"""Where the tests find the models of npm packages, and what they do where these are missing."""

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


_WHY = "run `make safety-models` (npm)"
needs_nsfwjs = pytest.mark.skipif(not has("nsfwjs"), reason=_WHY)
needs_face_api = pytest.mark.skipif(not has("@vladmandic/face-api"), reason=_WHY)
