"""The rules that Prefect's run form needs (a form that breaks one shows wrong or empty labels)."""

import re
from enum import StrEnum
from pathlib import Path
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
from schemas.recipes import RECIPES

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
    schema = form.model_json_schema()
    schema["properties"].pop("recipe", None)  # one box with a choice and one for other versions
    assert "anyOf" not in str(schema)


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
        PipelineForm.model_validate({"unknown": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "dmo"}, "unknown recipe 'dmo'; did you mean 'demo'?"),
        ({"recipe": "../demo"}, "unknown recipe '../demo'; did you mean 'demo'?"),
        ({"overrides": ["distill.sede=1"]}, "no key 'sede' in distill; did you mean 'seed'?"),
        ({"overrides": ["distil.seed=1"]}, "no section 'distil'; did you mean 'distill'?"),
        ({"overrides": ["distill.seed=x"]}, "distill.seed: Input should be a valid integer"),
        ({"overrides": ["distill"]}, "override 'distill' is not of the form section.key=value"),
    ],
)
def test_what_does_not_fit_is_a_failed_state_of_one_line(
    given: dict[str, Any], said: str, toy: Path
) -> None:
    refused = PipelineForm.model_validate(given).refused()
    assert refused is not None and refused.is_failed()
    assert str(refused.message).startswith(f"refused: {said}") and "\n" not in str(refused.message)
    assert PipelineForm().refused() is None


def test_the_form_offers_the_named_recipes_and_takes_versions_of_others() -> None:
    choice, version = PipelineForm.model_json_schema()["properties"]["recipe"]["anyOf"]
    assert choice["enum"] == list(RECIPES)
    for text, fits in (("mine@0123abcd", True), ("mine", True), ("a/b", False), ("@0123", False)):
        assert bool(re.search(version["pattern"], text)) == fits, text
