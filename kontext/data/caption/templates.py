"""The template captioner: exact labels in, one of several natural sentences out.

Paraphrase and carrier phrase are chosen by hash of (pair id, seed). The inverse instruction is the
same paraphrase with the values swapped, so instruction and inverse match in tone.
"""

from dataclasses import dataclass

from kontext.data.caption.base import MAX_WORDS, Caption, CaptionRequest, failed
from kontext.data.caption.relations import (
    ALIASES,
    CARRIERS,
    WORDINGS,
    Wording,
    by_reference,
    generic,
)
from kontext.data.caption.words import (
    WEATHER_ADJECTIVES,
    article,
    describe,
    escaped,
    humanise,
    is_nothing,
    some,
    when,
)
from kontext.data.mine.relations import BY_REFERENCE
from kontext.data.sources.stable import stable_hash
from schemas.sections.data import CaptionConfig


@dataclass
class TemplateCaptioner:
    """Captions from labels alone.

    paraphrases: sentences that a relation uses, at most.
    short_share: of text-to-image singles, those whose text names the subject and no label. People
        ask in few words, and what is not said is the model's to draw.
    carrier_share: of edits, those that are asked for within a carrier phrase ("okay, …").
    """

    paraphrases: int = 40
    seed: int = 0
    short_share: float = 0.0
    carrier_share: float = 0.4
    id = "templates/3"

    def caption(self, request: CaptionRequest) -> Caption:
        """Text for one pair. A relation or labels it cannot word give status `malformed`."""
        values = request.values()
        if values is None:
            return failed(request, "malformed", self.id)
        if request.relation_class == "t2i":
            return self._single(request)
        relation = request.relation.removesuffix(BY_REFERENCE)
        back = wording = wording_of(relation, values)  # the way back has no picture to point at
        if wording is None or back is None or not request.contexts:
            return failed(request, "malformed", self.id)
        if relation != request.relation:
            wording = by_reference(wording, values["attribute"])
        start, end = values["from"], values["to"]
        pick = stable_hash("paraphrase", request.pair_id, self.seed)
        number, instruction = self._sentence(wording, start, end, pick)
        _, inverse = self._sentence(back, end, start, pick)
        if not instruction or not inverse:
            return failed(request, "malformed", self.id)
        attribute = values["attribute"]
        target, context = (
            describe(image.concept, image.attributes, attribute)
            for image in (request.target, request.contexts[0])
        )
        return Caption(
            pair_id=request.pair_id,
            instruction=instruction,
            instruction_short=_fill(wording, wording.of(start, end).short, start, end),
            instruction_inverse=inverse,
            target_caption=target,
            context_caption=context,
            template=f"{request.relation}/{number}",
            status="ok",
            captioner=self.id,
        )

    def _single(self, request: CaptionRequest) -> Caption:
        """A text-to-image single: the instruction is the caption, or its short form."""
        if not request.target.concept.strip():
            return failed(request, "empty", self.id)
        names = sorted(request.target.attributes)
        pick = stable_hash("focus", request.pair_id, self.seed)
        focus = names[pick % len(names)] if names else ""
        text = describe(request.target.concept, request.target.attributes, focus)
        short = describe(request.target.concept, {})
        terse = stable_hash("short", request.pair_id, self.seed) < self.short_share * 2**64
        said, template = (short, "t2i/short") if terse else (text, "t2i/0")
        return Caption(request.pair_id, said, short, "", text, "", template, "ok", self.id)

    def _sentence(self, wording: Wording, start: str, end: str, pick: int) -> tuple[int, str]:
        """(paraphrase number, sentence); the next one that is short enough, or ("", 0) if none."""
        options = wording.of(start, end).sentences[: self.paraphrases]
        for step in range(len(options)):
            number = (pick + step) % len(options)
            sentence = _fill(wording, options[number], start, end)
            if len(sentence.split()) <= MAX_WORDS:
                return number, self._carried(sentence, pick)
        return 0, ""

    def _carried(self, sentence: str, pick: int) -> str:
        """The sentence within a carrier phrase, if its pair has one and it is short enough."""
        draw = stable_hash("carrier", str(pick))
        if draw >= self.carrier_share * 2**64:
            return sentence
        # the draw is below the share's bound, so only its low bits are uniform
        carried = CARRIERS[draw % len(CARRIERS)].replace("{}", sentence)
        return carried if len(carried.split()) <= MAX_WORDS else sentence


def captioner(config: CaptionConfig) -> TemplateCaptioner:
    """The captioner `templates` of a recipe."""
    return TemplateCaptioner(
        config.paraphrases, config.seed, config.short_share, config.carrier_share
    )


def wording_of(relation: str, values: dict[str, str]) -> Wording | None:
    """Sentences for a relation; None where the relation is unknown or its labels are missing.

    A relation named after its own attribute is a folder's label and gets generic sentences.
    """
    if not {"attribute", "from", "to"} <= values.keys() or values["from"] == values["to"]:
        return None
    name = ALIASES.get(relation, relation)
    if name == "weather" and {values["from"], values["to"]} <= WEATHER_ADJECTIVES:
        name = "weather_adjective"
    known = WORDINGS.get(name)
    if known is not None:
        absent = is_nothing(values["from"]) or is_nothing(values["to"])
        if not absent or known.add or known.verbatim:
            return known
    elif values["attribute"] != relation or not relation:
        return None
    return generic(escaped(humanise(values["attribute"])))


def _fill(wording: Wording, sentence: str, start: str, end: str) -> str:
    source, target = (start, end) if wording.verbatim else (humanise(start), humanise(end))
    filled = sentence.format(
        **{"from": source, "to": target},
        a_to=article(target),
        some_to=some(target),
        when=when(target),
        hair="no hair" if target == "bald" else f"{target} hair",
    )
    return " ".join(filled.split())
