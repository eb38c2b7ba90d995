"""The rules that Prefect's run form needs (a form that breaks one shows wrong or empty labels)."""

from enum import StrEnum
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from flows.forms import (
    BackfillForm,
    NightlyForm,
    PipelineForm,
    RefreshForm,
    RetentionForm,
    StageForm,
    StageName,
)
from kontext.stages import STAGES

FORMS = (PipelineForm, StageForm, RefreshForm, BackfillForm, NightlyForm, RetentionForm)


@pytest.mark.parametrize("form", FORMS)
def test_every_field_is_titled_described_and_has_a_default(form: type[BaseModel]) -> None:
    for name, field in form.model_fields.items():
        assert field.title, name
        assert field.description, name
        assert not field.is_required(), name


@pytest.mark.parametrize("form", FORMS)
def test_no_optional_fields_and_no_secrets(form: type[BaseModel]) -> None:
    for name, field in form.model_fields.items():
        assert type(None) not in get_args(field.annotation), name
        assert not any(word in name for word in ("secret", "password", "token", "key")), name
    assert "anyOf" not in str(form.model_json_schema())


@pytest.mark.parametrize("form", FORMS)
def test_choices_are_string_enums(form: type[BaseModel]) -> None:
    for field in form.model_fields.values():
        inner: Any = get_args(field.annotation)[0] if get_args(field.annotation) else None
        for kind in (field.annotation, inner):
            if isinstance(kind, type) and kind not in (str, bool, int, float, list):
                assert issubclass(kind, StrEnum)


def test_enums_follow_the_registries() -> None:
    assert [str(name) for name in StageName] == list(STAGES)


def test_forms_take_what_the_server_stores() -> None:
    form = PipelineForm(overrides=["distill.seed=1"], force=[StageName("distill")])
    assert PipelineForm.model_validate(form.model_dump(mode="json")) == form
    with pytest.raises(ValidationError):
        PipelineForm.model_validate({"recipe": "nope"})
    with pytest.raises(ValidationError):
        PipelineForm.model_validate({"unknown": 1})
