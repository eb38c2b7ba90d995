"""Captions: instruction, short form, inverse and captions for every mined pair.

To add a captioner, write one file here with `captioner(config)`, which gives a `Captioner`;
`caption.captioner` of a recipe names it by its file. Heavy packages are imported in functions,
because every recipe looks here for names. May import the relations of kontext.data.mine,
kontext.data.sources, kontext.safety, kontext.errors and schemas.
"""

from importlib import import_module
from pathlib import Path

from kontext.data.caption.base import Captioner, Judge, RemoteCaptioner
from schemas.discovery import plugins
from schemas.sections.data import CaptionConfig

_JUDGE = "kontext.data.caption.judge"
UNSENT = "kontext.data.caption.unsent"  # by name: it counts only where pictures may be sent
_AT_HOME = ("templates",)  # captioners that are known to send nothing


def captioner_for(config: CaptionConfig) -> Captioner | RemoteCaptioner:
    """The captioner a recipe asks for. Raises RecipeError where its settings are incomplete."""
    found: Captioner | RemoteCaptioner = plugins(__name__, "captioner")[config.captioner].captioner(
        config
    )
    return found


def judge_for(config: CaptionConfig) -> Judge | None:
    """The judge a recipe asks for, if it does. By name: it counts only where it is asked for."""
    found: Judge | None = import_module(_JUDGE).judge(config) if config.judge else None
    return found


def modules_named(config: CaptionConfig) -> list[str]:
    """Modules of the plug-ins that the section names."""
    named = [plugins(__name__, "captioner")[config.captioner].__name__]
    if config.judge:
        named.append(_JUDGE)
    if _may_send(config):
        classifiers = import_module(UNSENT).classifiers(config)
        named += [UNSENT, *(module.__name__ for module in classifiers)]
    return named


def external(config: CaptionConfig, home: Path | None = None) -> str:
    """Digest of the policy that pictures meet before they are sent; empty where none is."""
    return str(import_module(UNSENT).fingerprint(config)) if _may_send(config) else ""


def _may_send(config: CaptionConfig) -> bool:
    return config.judge or config.captioner not in _AT_HOME
