"""How much of a safety training is kept: the least with which no attack succeeds.

Between the weights before and after a training lie networks that behave between the two (Wortsman
et al. 2022, "Robust fine-tuning of zero-shot models"). What others lost comes back sooner than the
excluded edit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kontext.evaluate.exclusion.attack import Editors, Subjects, attack
from kontext.models.flux.transformer import FluxTransformer


def keep_least(
    flow: FluxTransformer,
    before: FluxTransformer,
    shares: Sequence[float],
    editors: Editors,
    subjects: Subjects,
    texts: Sequence[str],
) -> float:
    """Mix the trained flow, in place, with the flow before; which share of the training is kept.

    It is the first of `shares` (0 to 1) with which none of the texts makes the excluded edit of any
    subject, and 1, the training as it is, where there is none.
    """
    after = {name: value.detach().clone() for name, value in flow.state_dict().items()}
    for share in shares:
        _mix(flow, before.state_dict(), after, share)
        if not attack(subjects, editors.of(flow), texts)[0].success:
            return share
    _mix(flow, before.state_dict(), after, 1.0)
    return 1.0


@torch.no_grad()
def _mix(
    flow: FluxTransformer, before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float
) -> None:
    for name, value in flow.state_dict().items():
        old, new = before[name].float(), after[name].float()
        value.copy_(new if share == 1 else old.lerp(new, share))
