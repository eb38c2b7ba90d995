"""Which of the five categories a given edit is in: by its set's name for it, else by its words.

The categories are KontextBench's: local, global, text, style (a picture's manner), character (the
same character, changed or elsewhere). Words decide by a fixed order, so the answer is reproducible;
what no rule knows is local, like most edits.
"""

import re

# parts of names that published sets use: OmniEdit's task, AnyEdit's edit_type, ImgEdit's, …
_NAMES = (
    ("text", r"text|ocr|word|font"),
    ("style", r"style|artist|cartoon|anime|sketch|paint"),
    ("character", r"action|pose|motion|expression|emotion|person|human|portrait|face|subject|"
                  r"character|movement|age\b"),
    ("global", r"background|season|weather|environment|tone|light|global|scene|time|viewpoint|"
               r"rotat|resize|outpaint|relation|color.?grad|filter|env\b"),
    ("local", r"add|remov|delet|replac|swap|object|color|colour|attribute|attr|material|appearance|"
              r"local|count|extract|texture|alter|visual_|size"),
)  # fmt: skip

_QUOTED = re.compile(r"""["“”«»‘’'][^"“”«»‘’']+["“”«»‘’']""")
_TEXT_WORDS = re.compile(
    r"\b(?:text|texts|word|words|letter|letters|lettering|caption|slogan|logo|label|title|headline|"
    r"sign|signs|read|reads|say|says|saying|write|writes|writing|written|spell|spells|font|"
    r"typography|number|digits?)\b",
    re.IGNORECASE,
)
_TEXT_ALONE = re.compile(
    r"\b(?:the |this |all |any )?(?:text|lettering|caption|slogan|headline|font|typography)\b", re.I
)
_STYLE = re.compile(
    r"\b(?:style|styled|stylize[ds]?|painting|painted by|oil paint|watercolou?r|sketch|drawing|"
    r"cartoon|anime|manga|comic|ghibli|pixar|pixel art|line art|illustration|impressionis[mt]|"
    r"cubis[mt]|van gogh|monet|picasso|mosaic|origami|claymation|low.?poly|3d render|cyberpunk|"
    r"vintage photo|black.and.white|gr[ae]y.?scale|sepia|engraving|woodcut|ukiyo-e|lego|pencil|"
    r"charcoal|pastel|vector art|pop art|render(?:ed)? as)\b",
    re.IGNORECASE,
)
_GLOBAL = re.compile(
    r"\b(?:background|backdrop|scenery|weather|season|winter|summer|autumn|spring|fall foliage|"
    r"snow(?:y|ing|fall)?|rain(?:y|ing)?|fog(?:gy)?|storm(?:y)?|sunny|sunset|sunrise|dawn|dusk|"
    r"night(?:time)?|day(?:time)?|sky|lighting|brighter|darker|exposure|contrast|saturation|"
    r"colou?r grading|whole (?:image|picture|scene)|entire (?:image|picture|scene)|zoom|camera|"
    r"viewpoint|perspective|desert|beach|forest|space|underwater|as if it were)\b",
    re.IGNORECASE,
)
_PERSON = (
    r"(?:man|woman|boy|girl|person|people|child|kid|baby|guy|lady|he|she|they|his|her|their|him|"
    r"them|character|face|portrait|subject|dog|cat|animal)"
)
_CHARACTER = re.compile(
    r"\b(?:smil(?:e|es|ing)|laugh(?:s|ing)?|cry(?:ing)?|cries|frown(?:s|ing)?|angry|happy|sad|"
    r"surprised|expression|pose|posing|older|younger|turn (?:his|her|their) head|look(?:s|ing)? "
    r"(?:at|away|up|down|left|right|angry|happy|sad)|same (?:person|character|man|woman)|"
    rf"(?:make|have|let) (?:the |this |that )?{_PERSON} (?:\w+ ){{0,2}}"
    r"(?:run|sit|stand|jump|walk|dance|wave|sleep|eat|ride|hold|look|sitting|standing|running|"
    r"jumping|walking|dancing|waving|sleeping|eating|riding|holding))\b",
    re.IGNORECASE,
)


def category_of(kind: str, instruction: str) -> tuple[str, str]:
    """(category, "name" or "words": what said so).

    >>> category_of("background_change", "put it on the moon"), category_of("", "Add a hat")
    (('global', 'name'), ('local', 'words'))
    """
    name = kind.lower().strip()
    for category, pattern in _NAMES:
        if name and re.search(pattern, name):
            return category, "name"
    return _by_words(instruction), "words"


def _by_words(text: str) -> str:
    if _TEXT_ALONE.search(text) or (_QUOTED.search(text) and _TEXT_WORDS.search(text)):
        return "text"
    for category, pattern in (("style", _STYLE), ("character", _CHARACTER), ("global", _GLOBAL)):
        if pattern.search(text):
            return category
    return "local"
