"""Text-to-image singles: targets without a context, so the model also learns p(x | c)."""

from collections.abc import Iterator, Sequence

from kontext.data.mine.candidate import Candidate, MinedImage
from schemas.sections.data import MineConfig

VERSION = "1"


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Every image that has a concept, as a pair with an empty context."""
    for image in images:
        if not image.concept:
            continue
        yield Candidate(
            context_ids=(),
            target_id=image.pixel_id,
            relation_class="t2i",
            relation="t2i",
            miner="singles",
            miner_version=VERSION,
            params={
                "subject": image.concept,
                **{f"label.{k}": v for k, v in image.attributes.items()},
            },
            group_key=image.group_key,
            source=image.source,
            license_spdx=image.license_spdx,
        )
