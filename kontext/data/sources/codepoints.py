"""What an emoji's Unicode code points say: a base key, skin tone, gender and hair."""

import re

_TONES = {
    "1f3fb": "light",
    "1f3fc": "medium-light",
    "1f3fd": "medium",
    "1f3fe": "medium-dark",
    "1f3ff": "dark",
}
_HAIR = {"1f9b0": "red", "1f9b1": "curly", "1f9b2": "bald", "1f9b3": "white"}
_PERSON = {"1f468": "man", "1f469": "woman", "1f9d1": "person"}
_SIGN = {"2642": "man", "2640": "woman"}
# Kept out of a demo that edits people: intimacy, rude gestures, nursing and swimwear.
EXCLUDED = re.compile(
    r"kiss|couple|middle-finger|feeding|pregnan|bikini|bath|no-one-under|sauna|underwear"
)


def parse_codes(codes: str) -> tuple[str, dict[str, str]]:
    """Split `1f469-1f3fd-200d-1f680` into a base key and labels (skin_tone, gender, hair).

    Emoji with two skin tones keep the second in the base key, so they never pair with others.
    """
    labels: dict[str, str] = {}
    base: list[str] = []
    for code in codes.split("-"):
        if code in _TONES and "skin_tone" not in labels:
            labels["skin_tone"] = _TONES[code]
        elif code in _HAIR:
            labels["hair"] = _HAIR[code]
        elif code in _PERSON and "gender" not in labels:
            labels["gender"] = _PERSON[code]
            base.append("person")
        elif code in _SIGN:
            labels["gender"] = _SIGN[code]
        elif code not in ("fe0f", "200d"):
            base.append(code)
    return "-".join(base), labels
