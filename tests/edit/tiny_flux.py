"""A complete FLUX.1 Kontext in miniature: both networks, T5, CLIP and their tokenizers, offline."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kontext.edit.weights.exports import export_model
from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from schemas.sections.models import AutoencoderShape, TransformerShape

SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=12,
    context_in_dim=16,
    hidden_size=32,
    num_heads=2,
    depth=2,
    depth_single_blocks=2,
    axes_dim=(4, 6, 6),
    timestep_shift=(1.0, 2.0),  # not FLUX.1's, so that losing it shows
)
AE_SHAPE = AutoencoderShape(
    ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def fill(model: nn.Module, seed: int = 0, scale: float = 0.15) -> None:
    """Random weights everywhere, so that no layer is the identity."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale)


def networks() -> tuple[FluxTransformer, Autoencoder]:
    transformer, autoencoder = FluxTransformer(SHAPE), Autoencoder(AE_SHAPE, 0.7, 0.1)
    fill(transformer)
    fill(autoencoder, 1, 0.1)
    return transformer.eval(), autoencoder.eval()


def write_text_encoders(folder: Path) -> None:
    """`text_encoder`, `tokenizer`, `text_encoder_2` and `tokenizer_2`, random and tiny."""
    import transformers as hf

    models: Any = hf
    torch.manual_seed(0)
    ends = ["<|startoftext|>", "<|endoftext|>"]
    clip_vocab = {w: i for i, w in enumerate([*LETTERS, *(f"{c}</w>" for c in LETTERS), *ends])}
    models.CLIPTokenizer(vocab=clip_vocab, merges=[], model_max_length=77).save_pretrained(
        folder / "tokenizer"
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    t5_vocab = [*pieces, *((c, -3.0) for c in LETTERS)]
    models.T5TokenizerFast(vocab=t5_vocab, extra_ids=0, model_max_length=512).save_pretrained(
        folder / "tokenizer_2"
    )
    clip = models.CLIPTextConfig(
        vocab_size=len(clip_vocab),
        hidden_size=SHAPE.vec_in_dim,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=clip_vocab[ends[0]],
        eos_token_id=clip_vocab[ends[1]],
        pad_token_id=clip_vocab[ends[1]],
    )
    models.CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
    t5 = models.T5Config(
        vocab_size=len(t5_vocab),
        d_model=SHAPE.context_in_dim,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    models.T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")


def write_checkpoint(folder: Path, guidance_embed: bool = True) -> Path:
    """A whole random checkpoint in diffusers' layout, as FLUX.1's are published; returns `folder`.

    `transformer`, `vae`, `scheduler`, both text encoders and tokenizers, `model_index.json`.

    Args:
        guidance_embed: as in [dev]; without as in [schnell].
    """
    parts = folder.with_name(f"{folder.name}-parts")
    write_text_encoders(parts / "text")
    transformer, autoencoder = networks()
    if not guidance_embed:
        transformer = FluxTransformer(SHAPE.model_copy(update={"guidance_embed": False}))
        fill(transformer)
    settings = ModelSettings(name="tiny", text_encoder=f"flux:{parts / 'text'}", text_length=512)
    save_model_folder(parts / "model", transformer, autoencoder, settings)
    export_model(parts / "model", folder, "diffusers")
    (folder / "kontext.json").unlink()  # ours: published checkpoints have none
    shutil.rmtree(parts)
    return folder


def forward_inputs(seed: int = 3) -> dict[str, torch.Tensor]:
    """Tokens of a 4 x 4 target and a 2 x 2 context, text, pooled text, time, guidance."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "tokens": torch.randn(1, 20, SHAPE.in_channels, generator=draw),
        "text": torch.randn(1, 5, SHAPE.context_in_dim, generator=draw),
        "pooled": torch.randn(1, SHAPE.vec_in_dim, generator=draw),
        "timesteps": torch.tensor([0.6]),
        "guidance": torch.tensor([2.5]),
    }


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
