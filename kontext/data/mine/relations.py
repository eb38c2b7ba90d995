"""Which attribute change is which relation, and which of the five categories it belongs to."""

BY_REFERENCE = "_by_reference"  # after a relation's name: a second picture shows the wanted value

_BY_CATEGORY = {
    "local": "skin_tone skin_color hair hair_color clothing_color glasses accessory plant ring "
    "color clock direction object",
    "character": "gender expression moment",
    "global": "background_color time_of_day season place time weather viewpoint",
    "text": "text",
    "style": "art_style drawing",
}
_OTHER_NAMES = {"hair": "hair_style", "time": "day_night"}  # relations not named after their label
# attribute label -> (relation, category)
RELATIONS: dict[str, tuple[str, str]] = {
    label: (_OTHER_NAMES.get(label, label), category)
    for category, labels in _BY_CATEGORY.items()
    for label in labels.split()
}


def relation_of(attribute: str) -> tuple[str, str]:
    """(relation, category) of a label; unknown ones are local edits named after themselves."""
    return RELATIONS.get(attribute, (attribute, "local"))
