"""The base of every recipe section."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all recipe parts: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
