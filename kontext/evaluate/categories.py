"""The categories that edits are scored in: KontextBench's five, and recolourings apart."""

from schemas.tables import CATEGORIES

# Relations that change colours alone. A palette swap solves them without any model, so they are
# scored apart from the category that they are mined in.
RECOLOURINGS = (
    *("skin_tone", "skin_color", "hair_color", "clothing_color", "color"),
    *("background_color", "time_of_day", "season"),
)
SCORED_CATEGORIES = (*CATEGORIES, "recolouring")
