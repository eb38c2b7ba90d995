"""The choice between image sources. Their settings are in their files, in kontext/data/sources.

Imports point down, so nothing here imports a source: the package is looked into by its name, when
the first recipe is validated.
"""

from functools import cache
from typing import Annotated, Any, Union

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from schemas.discovery import plugins
from schemas.sections.base import Section

PACKAGE = "kontext.data.sources"


class SourceConfig(Section):
    """Base of a source's settings. A subclass narrows `kind` to one Literal, which names it."""

    kind: str
    canvases: tuple[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], ...] = Field(
        (),
        title="Shapes of canvases that images are put on, as [width, height]; a group of related "
        "images has one of them (none: images are as they are)",
    )


class PathSource(SourceConfig):
    """Base of the settings of a source that is somebody's own files."""

    path: str = Field(title="Path")

    @field_validator("path")
    @classmethod
    def _a_path(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path cannot hold a NUL character")
        return path


@cache
def source_kinds() -> dict[str, type[SourceConfig]]:
    """Kind -> settings class, of every module in kontext/data/sources that has a `plan`."""
    return {
        kind: next(
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, SourceConfig)
            and value.__module__ == module.__name__
        )
        for kind, module in plugins(PACKAGE, "plan").items()
    }


@cache
def _adapter() -> TypeAdapter[Any]:
    union: Any = Union[tuple(source_kinds().values())]  # noqa: UP007 - known at run time only
    kinds: Any = Annotated[union, Field(discriminator="kind")]
    return TypeAdapter(kinds)


class _Discovered:
    """Validates as the union of all kinds would, built when it is first needed."""

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: _adapter().validate_python(value)
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(_adapter().core_schema)


Source = Annotated[SourceConfig, _Discovered()]
