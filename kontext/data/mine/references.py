"""The reference miner: an attribute pair, and a second picture that shows what it should become.

"Use the hair color of the second picture": what should change is said by a picture of another
subject with the wanted value, so the words do not name it. A pair whose reference ends up in
another split is dropped by stage shard.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from kontext.data.caption.words import is_nothing
from kontext.data.licenses import strictest_license
from kontext.data.mine import attributes
from kontext.data.mine.candidate import Candidate, MinedImage
from kontext.data.mine.relations import BY_REFERENCE
from kontext.data.sources.stable import stable_hash
from schemas.sections.data import MineConfig

VERSION = "2"


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Every attribute pair whose wanted value another group shows too, with one such picture."""
    showing: dict[tuple[str, str, str], array[int]] = defaultdict(lambda: array("q"))  # places
    for row, image in enumerate(images):
        for name, value in image.attributes.items():
            showing[image.source, name, value].append(row)
    for pair, target in attributes.with_targets(images, config):
        name, wanted = str(pair.params["attribute"]), str(pair.params["to"])
        # a picture of the wanted words is no easier to follow than the words
        if name == "text" or is_nothing(wanted):
            continue
        able = showing[target.source, name, wanted]
        first = stable_hash("reference", pair.pair_id, config.seed) % len(able)
        for image in (images[row] for row in attributes.in_turn_from(able, first)):
            if image.group_key != target.group_key:
                yield replace(
                    pair,
                    context_ids=(*pair.context_ids, image.pixel_id),
                    relation=pair.relation + BY_REFERENCE,
                    miner="references",
                    miner_version=VERSION,
                    params={**pair.params, "reference": image.concept},
                    license_spdx=strictest_license(pair.license_spdx, image.license_spdx),
                )
                break
