from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli, pipeline, refresh, stages
from flows.forms import PipelineForm, RefreshForm, StageForm
from flows.names import dataset_label, dataset_tag, is_made_up
from tasks.workspace import open_engine, places, resolve_recipe


class _Run:
    """Stands for prefect.runtime.flow_run."""

    def __init__(self, options: object) -> None:
        self._options = options
        self.name = "Handmade-Gus"

    def get_name(self) -> str:
        return self.name

    def get_parameters(self) -> dict[str, object]:
        return {"options": self._options}


def test_a_run_says_recipe_stage_and_dataset_version(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(resolve_recipe("demo"), places())
    digests = engine.digests()
    coming = f"demo@{digests['index'][:8]}"
    assert dataset_label(engine) == dataset_tag(engine) == coming

    monkeypatch.setattr("prefect.runtime.flow_run", _Run(StageForm()))
    assert stages._name_from_parameters("mine") == f"demo · mine · {coming} · {digests['mine'][:8]}"
    monkeypatch.setattr("prefect.runtime.flow_run", _Run(PipelineForm(until="index")))
    last = digests["distill"][:8]
    assert pipeline._name() == f"demo · pipeline · until index · {coming} · {last}"

    assert CliRunner().invoke(cli.app, ["run", "--direct"]).exit_code == 0
    assert dataset_label(engine) == "demo@v1" and dataset_tag(engine) == coming
    assert pipeline._name() == f"demo · pipeline · until index · demo@v1 · {last}"
    monkeypatch.setattr("prefect.runtime.flow_run", _Run({"force": True}))
    assert stages._name_from_parameters("mine") == "demo · mine · demo@v1 · again"


@pytest.mark.parametrize("name", ["before the holidays", "night-run 3", "Handmade-paintings", ""])
def test_a_name_that_somebody_typed_is_kept(
    toy: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for form, make in ((PipelineForm, pipeline._name), (RefreshForm, refresh._name)):
        run = _Run(form())
        run.name = name
        monkeypatch.setattr("prefect.runtime.flow_run", run)
        shown = make()
        assert shown == name if name else shown.startswith("demo · ")


def test_names_that_the_server_makes_up_are_known() -> None:
    from prefect.utilities.names import generate_slug

    assert all(is_made_up(generate_slug(2)) for _ in range(300))
    assert not is_made_up("demo · mine · demo@v1 · 0123abcd")


def test_a_refresh_says_which_version_it_goes_on_from(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect.runtime.flow_run", _Run(RefreshForm()))
    assert refresh._name() == "demo · refresh · demo"
    words = ["run", "--direct", "--until", "index"]  # a pipeline commits version 1
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert refresh._name() == "demo · refresh · demo after v1"
    monkeypatch.setattr("prefect.runtime.flow_run", _Run(RefreshForm(overrides=["no.such=1"])))
    assert refresh._name() == "demo · refresh"
