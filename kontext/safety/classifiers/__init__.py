"""Image classifiers, one file each, named by the file ("open-nsfw" is open_nsfw.py).

A new one is one new file here: `RISKS` (what it finds: each risk becomes a column of scores, a
limit and a reason) and `load(threads)`, which gives an `ImageClassifier`. It runs where
`screen.classifiers` and the policy name it. Packages are imported in functions, because every table
asks for the risks. May import kontext.errors, kontext.safety.canaries and schemas.
"""

from functools import lru_cache

from kontext.errors import GateError
from kontext.safety.classifiers.base import ImageClassifier
from schemas.discovery import plugins
from schemas.sections.data import ScreenConfig


@lru_cache(maxsize=8)
def load_classifier(name: str, threads: int = 1) -> ImageClassifier:
    """A classifier with `threads` intra-op threads, loaded once per process.

    Raises:
        GateError: unknown name, or its package is not installed.
    """
    found = plugins(__name__, "load")
    if name not in found:
        raise GateError(f"unknown classifier '{name}' (known: {', '.join(found)})")
    classifier: ImageClassifier = found[name].load(threads)
    return classifier


def modules_named(config: ScreenConfig) -> list[str]:
    """Modules of the plug-ins that the section names."""
    return [plugins(__name__, "load")[name].__name__ for name in config.classifiers]
