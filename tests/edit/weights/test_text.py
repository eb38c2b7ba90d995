"""Text encoders of a model that have moved: taken where they are its own, refused in one line."""

from pathlib import Path

import pytest

from kontext.edit.weights.folder import ModelSettings
from kontext.edit.weights.imports import find_source, import_model
from kontext.edit.weights.text import check_text, text_spec, with_text
from kontext.errors import WeightsError
from kontext.models.text.encoders import flux_digest
from tests.edit.tiny_flux import write_checkpoint

GONE = "flux:/gone"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("moved") / "flux")


def settings(text_encoder: str = GONE, text_digest: str = "") -> ModelSettings:
    return ModelSettings(name="own", text_encoder=text_encoder, text_digest=text_digest)


def test_a_folder_is_named_in_any_way_and_must_have_all_of_them(
    flux: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(flux.parent)
    for said in ("flux", "flux:flux", str(flux), f"flux:{flux}"):
        assert text_spec(said) == f"flux:{flux}"
    assert [text_spec(said) for said in ("", "minilm")] == ["", "minilm"]
    with pytest.raises(WeightsError, match=r"vae has no sub-folder text_encoder: .*--text FOLDER"):
        text_spec("flux/vae")


def test_a_new_place_is_taken_where_its_encoders_are_the_models_own(flux: Path) -> None:
    own = settings(text_digest=flux_digest(flux))
    assert with_text(own, "") == own  # nothing is looked at: they may not be needed
    moved = with_text(own, str(flux))
    assert moved == settings(f"flux:{flux}", own.text_digest)
    assert with_text(settings(), str(flux)).text_encoder == f"flux:{flux}"  # it knows no digest
    for model, words in (
        (settings(text_digest="0" * 16), f"{own.text_digest}, and model 'own' was made with 000"),
        (ModelSettings(name="small"), "model 'small' reads its texts with minilm, not with flux:"),
    ):
        with pytest.raises(WeightsError, match=words) as caught:
            with_text(model, str(flux))
        assert "\n" not in str(caught.value)


def test_encoders_that_are_gone_or_were_replaced_are_noticed_where_the_model_says(
    flux: Path,
) -> None:
    check_text(settings(f"flux:{flux}", flux_digest(flux)))
    check_text(ModelSettings(name="small", text_digest="0" * 16))
    with pytest.raises(WeightsError, match="/gone has no sub-folder"):
        check_text(settings())
    with pytest.raises(WeightsError, match="was made with 000"):
        check_text(settings(f"flux:{flux}", "0" * 16))


def test_an_import_remembers_which_encoders_there_were_and_takes_no_others(
    flux: Path, tmp_path: Path
) -> None:
    made = import_model(find_source(flux), tmp_path / "own")
    assert made.settings.text_encoder == f"flux:{flux}"
    assert made.settings.text_digest == flux_digest(flux)
    other = write_checkpoint(tmp_path / "other")
    file = other / "tokenizer_2/tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(WeightsError, match=f"was made with {made.settings.text_digest}"):
        import_model(find_source(tmp_path / "own", text=str(other)), tmp_path / "again")
    assert not (tmp_path / "again").exists()
