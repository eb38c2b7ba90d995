import io

import pytest
import torch

from kontext.errors import WeightsError
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, apply_lora, merge
from kontext.models.quantize import Scheme, quantize, quantized_names
from tests.edit.tiny_flux import SHAPE, fill, forward_inputs


def model() -> FluxTransformer:
    made = FluxTransformer(SHAPE)
    fill(made)
    return made.eval()


@torch.no_grad()
def velocity(made: FluxTransformer) -> torch.Tensor:
    given = forward_inputs()
    out: torch.Tensor = made(
        given["tokens"],
        sequence_ids((4, 4), [(2, 2)]),
        given["text"],
        given["pooled"],
        given["timesteps"],
        target_length=16,
        guidance=given["guidance"],
    )
    return out


def size(made: FluxTransformer) -> int:
    """Bytes of the weights as they are held, scales of quantised ones included."""
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    return file.tell()


@pytest.mark.parametrize(("scheme", "bound"), [("int8", 0.02), ("fp8", 0.1)])
def test_quantised_weights_are_close_and_small(scheme: Scheme, bound: float) -> None:
    reference = velocity(model())
    made = quantize(model(), scheme)
    error = float((velocity(made) - reference).norm() / reference.norm())
    assert 1e-5 < error < bound
    assert size(made) < 0.75 * size(model())  # modulation stays in float32
    names = quantized_names(model())
    assert "double_blocks.0.img_attn.qkv" in names and "single_blocks.0.linear1" in names
    assert "single_blocks.1.linear1" not in names and "final_layer.linear" not in names


def test_what_cannot_be_quantised_is_refused() -> None:
    adapted = apply_lora(model(), LoraConfig(rank=1))
    with pytest.raises(WeightsError, match="merge the adapters"):
        quantize(adapted, "int8")
    quantize(merge(adapted), "int8")
    with pytest.raises(WeightsError, match="unknown quantisation 'int4'"):
        quantize(model(), "int4")  # type: ignore[arg-type]
