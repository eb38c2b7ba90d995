"""Captions: instruction, short form, inverse and captions for every mined pair.

To add a captioner, write one file here with `captioner(config)`, which gives a `Captioner`;
`caption.captioner` of a recipe names it by its file. Heavy packages are imported in functions,
because every recipe looks here for names. May import the relations of kontext.data.mine,
kontext.data.sources, kontext.errors and schemas.
"""

from importlib import import_module

from kontext.data.caption.base import Captioner, Judge, RemoteCaptioner
from schemas.discovery import plugins
from schemas.sections.data import CaptionConfig

_JUDGE = "kontext.data.caption.judge"


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
    captioner = plugins(__name__, "captioner")[config.captioner].__name__
    return [captioner, _JUDGE] if config.judge else [captioner]
