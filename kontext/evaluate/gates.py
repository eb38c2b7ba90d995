"""What the safety checks of one edit do, to be timed: nothing is refused or written down by it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kontext.errors import KontextError
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # times are no results; the checks of edits are `kontext.safety.edits`


def gates(
    home: Path, instruction: str, context: Picture, made: Picture
) -> tuple[Callable[[], object] | None, str]:
    """The checks of an instruction, a context and a result by the default policy, as a function;
    or None, and why it cannot be had here.
    """
    try:
        from kontext.safety.classifiers import load_classifier
        from kontext.safety.hashes import HashGate
        from kontext.safety.policy import load_policy
        from schemas.sections.data import IngestConfig

        policy = load_policy("default")
        gate = HashGate.from_config(IngestConfig(), home)
        classifiers = [load_classifier(name, threads=2) for name in policy.classifiers]
        work = partial(_checks, gate, classifiers, policy.texts.limit, instruction, (context, made))
        work()
    except (ImportError, KontextError) as error:
        return None, str(error)
    return work, ""


def _checks(gate, classifiers, limit, instruction, pictures) -> None:  # type: ignore[no-untyped-def]
    from kontext.safety.classifiers.base import score_images
    from kontext.safety.texts import judge_text

    judge_text(instruction, limit)
    for picture in pictures:
        gate.check(b"", picture)
        for classifier in classifiers:
            score_images(classifier, [picture])
