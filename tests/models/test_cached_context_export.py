import pytest

from kontext.errors import WeightsError
from kontext.models.files.convert import transformer_config
from schemas.sections.models import TransformerShape


def test_a_cached_context_model_is_not_passed_off_as_flux() -> None:
    with pytest.raises(WeightsError, match="no cached contexts"):
        transformer_config(TransformerShape(cached_context=True))
    assert transformer_config(TransformerShape())["num_layers"] == 19
