"""Weight-only quantisation of the transformer for small GPUs, by torchao.

int8 or float8 e4m3, with one scale per output row. Activations stay in their own dtype, so the cost
in quality is the rounding of weights alone: benchmarks/quantize.py measures it. Embedders,
modulation and the output layer keep their precision: errors there reach every token. So does the
last single block's `linear1`, because the model cuts it in two.

Quantised weights are for inference: merge adapters first, and save the model before, not after.
"""

from typing import Any, Literal

from kontext.errors import WeightsError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, adapters, linear_layers
from kontext.models.text.pretrained import without_remarks

Scheme = Literal["int8", "fp8"]


def quantize(model: FluxTransformer, scheme: Scheme) -> FluxTransformer:
    """Quantise the blocks' linear weights in place. Returns the model.

    Args:
        scheme: `int8`, or `fp8` (weights only: the products run in the activations' dtype).

    Raises:
        WeightsError: torchao is missing, an unknown scheme, or adapters that were not merged.
    """
    if adapters(model):
        raise WeightsError("merge the adapters before quantising")
    config = check_scheme(scheme)
    from torchao.quantization import quantize_

    model.requires_grad_(False)
    names = set(quantized_names(model))
    quantize_(model, config, filter_fn=lambda _, name: name in names)
    return model


def check_scheme(scheme: str) -> Any:
    """torchao's configuration of a scheme. Call it before loading weights, to fail early.

    Raises:
        WeightsError: torchao is missing, or an unknown scheme.
    """
    try:
        with without_remarks():
            from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError as error:
        raise WeightsError("quantised inference needs: pip install 'kontext[quantize]'") from error
    configs: dict[str, Any] = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}
    if scheme not in configs:
        raise WeightsError(f"unknown quantisation '{scheme}' (known: {', '.join(configs)})")
    return configs[scheme]()


def quantized_names(model: FluxTransformer) -> list[str]:
    """The linear layers that `quantize` changes."""
    kept = f"single_blocks.{len(model.single_blocks) - 1}.linear1"
    return [name for name in linear_layers(model, BLOCKS) if name != kept]
