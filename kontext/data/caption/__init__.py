"""Captions: instruction, short form, inverse and captions for every mined pair.

Two captioners behind one protocol: templates over exact attributes (the default, deterministic and
free) and any vision-language model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

from kontext.data.caption.base import MAX_WORDS, Caption, Captioner, CaptionRequest, ImageFacts
from kontext.data.caption.chat import ChatCaptioner
from kontext.data.caption.template import TemplateCaptioner

__all__ = [
    "MAX_WORDS",
    "Caption",
    "CaptionRequest",
    "Captioner",
    "ChatCaptioner",
    "ImageFacts",
    "TemplateCaptioner",
]
