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


needs_nsfwjs = pytest.mark.skipif(not has("nsfwjs"), reason="run `make safety-models` (npm)")
