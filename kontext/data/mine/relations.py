"""Which attribute change is which relation, and which of the five categories it belongs to."""

BY_REFERENCE = "_by_reference"  # after a relation's name: a second picture shows the wanted value

# attribute label -> (relation, category)
RELATIONS: dict[str, tuple[str, str]] = {
    "skin_tone": ("skin_tone", "local"),
    "skin_color": ("skin_color", "local"),
    "hair": ("hair_style", "local"),
    "hair_color": ("hair_color", "local"),
    "clothing_color": ("clothing_color", "local"),
    "glasses": ("glasses", "local"),
    "accessory": ("accessory", "local"),
    "color": ("color", "local"),
    "clock": ("clock", "local"),
    "direction": ("direction", "local"),
    "object": ("object", "local"),
    "gender": ("gender", "character"),
    "expression": ("expression", "character"),
    "background_color": ("background_color", "global"),
    "time_of_day": ("time_of_day", "global"),
    "season": ("season", "global"),
    "place": ("place", "global"),
    "time": ("day_night", "global"),
    "weather": ("weather", "global"),
    "text": ("text", "text"),
    "art_style": ("art_style", "style"),
    "drawing": ("drawing", "style"),
}


def relation_of(attribute: str) -> tuple[str, str]:
    """(relation, category) of a label; unknown ones are local edits named after themselves."""
    return RELATIONS.get(attribute, (attribute, "local"))
