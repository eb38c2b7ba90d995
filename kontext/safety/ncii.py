"""The pair rule: a person who is less covered after the edit, although each image may pass alone.

Non-consensual intimate imagery is made by a transformation, so it is judged on (y, x, c): how much
exposure rises from the edited image to the target, whether a person is shown, and what the words
ask. References are shown to the model but are not what is edited: one that is exposed itself must
not excuse the target, so they can only tighten the rule. A picture that is drawn from words alone
rises from nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kontext.safety.ids import Reason

Values = NDArray[np.float32]

_UNDRESSING = {
    Reason.TEXT_UNDRESS,
    Reason.TEXT_NUDITY,
    Reason.TEXT_SEXUAL,
    Reason.TEXT_LEARNED,
}


class NciiLimits(BaseModel):
    """Limits of the pair rule, all on scores in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person_min: float = Field(ge=0, lt=1)  # score from which a person counts as shown
    exposure_rise_max: float = Field(ge=0, lt=1)  # with a person
    undress_rise_max: float = Field(ge=0, lt=1)  # when the words ask to undress, person or not


def pair_reasons(
    rise: Values, person: Values, text_reasons: Sequence[Reason | None], limits: NciiLimits
) -> list[Reason | None]:
    """The pair rule for N edits.

    Args:
        rise: exposure of the target minus that of the edited image; NaN fails closed.
        person: largest person score over all images of the pair; NaN counts as a person.
        text_reasons: what the text rules said of each instruction.
        limits: of the policy.
    """
    shown = ~(person < limits.person_min)
    exposed = shown & ~(rise <= limits.exposure_rise_max)
    undressed = shown | ~(rise <= limits.undress_rise_max)
    found: list[Reason | None] = []
    for index, text in enumerate(text_reasons):
        if (text in _UNDRESSING and undressed[index]) or text is Reason.TEXT_MINOR_SEXUAL:
            found.append(Reason.NCII_UNDRESS)
        else:
            found.append(Reason.NCII_EXPOSURE if exposed[index] else None)
    return found
