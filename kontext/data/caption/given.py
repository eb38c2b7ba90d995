"""The instructions that pairs bring with them: nobody is asked, and no letter is changed."""

from kontext.data.caption.base import Caption, CaptionRequest

CAPTIONER = "given/1"


def caption_given(request: CaptionRequest) -> Caption:
    """The text of a pair that brings its own; an inverse only where that was brought as well."""
    assert request.given is not None
    edits = bool(request.contexts)
    return Caption(
        pair_id=request.pair_id,
        instruction=request.given,
        instruction_short=request.given,
        instruction_inverse=request.given_inverse,
        target_caption=request.given_caption if edits else request.given,
        context_caption="",
        template=request.relation,
        status="ok" if request.given.strip() else "empty",
        captioner=CAPTIONER,
    )
