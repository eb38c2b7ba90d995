"""The weights that a recipe names: found in one way, told apart by content, fitting each other."""

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.engine.outside import Outside
from kontext.errors import RecipeError, WeightsError
from kontext.models.files.lora_files import save_lora
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, lora_of
from kontext.models.text.encoders import flux_digest
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import ArtifactStore, ArtifactWriter
from kontext.store.objects import open_store
from kontext.train.start.autoencoder import autoencoder_at
from kontext.train.start.digest import weights_digests
from kontext.train.start.fit import found, placed, require_all, with_given_shapes
from kontext.train.start.transformer import transformer_at
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from schemas.sections.training import FinetuneConfig
from schemas.sections.weights import WeightsConfig
from tests.edit.tiny_flux import AE_SHAPE, SHAPE, networks, write_checkpoint
from tests.models.test_lora import model, with_adapters


def nobody(said: str) -> object:
    raise AssertionError(said)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("given") / "flux")


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{tmp_path}/store"), tmp_path / "cache")


def recipe(**weights: str) -> Recipe:
    return Recipe(name="own", weights=WeightsConfig(**weights))


def whole(folder: Path) -> WeightsConfig:
    return WeightsConfig.model_validate(str(folder))


def test_one_folder_is_all_three_parts_and_each_is_found_in_it(
    checkpoint: Path, store: ArtifactStore
) -> None:
    given = whole(checkpoint)
    assert given.named == dict.fromkeys(("transformer", "autoencoder", "text"), str(checkpoint))
    assert found(given, Recipe(weights=given), store) == given
    path, model = transformer_at(given.transformer, nobody)
    assert path == checkpoint / "transformer" and model.shape == SHAPE  # its shift from scheduler/
    path, codec = autoencoder_at(given.autoencoder, nobody)
    assert path == checkpoint / "vae" and codec.shape == AE_SHAPE
    assert (codec.scale, codec.shift) == (0.7, 0.1)


def test_a_model_folder_of_ours_and_its_artifact_are_all_three_parts(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    settings = ModelSettings(name="own", text_encoder=f"flux:{checkpoint}")
    save_model_folder(tmp_path / "own", *networks(), settings)
    writer = store.writer("import", "a" * 16)
    for path in sorted((tmp_path / "own").iterdir()):
        writer.add_file(f"model/{path.name}", path)
    commit(store, writer)
    for said in (str(tmp_path / "own"), "own"):  # a path, and the name of an import
        given = placed(WeightsConfig.model_validate(said), store)
        assert given.text == str(checkpoint)
        assert transformer_at(given.transformer, store.show)[1].shape == SHAPE
        codec = autoencoder_at(given.autoencoder, store.show)[1]
        assert codec.config() == networks()[1].config()
    assert given.transformer == given.autoencoder == f"import/{'a' * 16}"


def test_a_model_that_reads_texts_with_the_small_encoder_gives_none(
    tmp_path: Path, store: ArtifactStore
) -> None:
    save_model_folder(tmp_path / "own", *networks(), ModelSettings(name="own"))
    assert placed(whole(tmp_path / "own"), store).text == ""
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="has no text encoders") as caught:
        placed(WeightsConfig(text=str(tmp_path / "empty")), store)
    assert "\n" not in str(caught.value)


def test_digests_are_of_the_content_and_not_of_its_place(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, copy)
    before = weights_digests(whole(checkpoint))
    assert set(before) == {"transformer", "autoencoder", "text"} and weights_digests(whole(copy))
    assert weights_digests(whole(copy)) == before
    for part, name in (
        ("transformer", "transformer/diffusion_pytorch_model.safetensors"),
        ("autoencoder", "vae/config.json"),
        ("text", "tokenizer_2/tokenizer.json"),
    ):
        path = copy / name
        path.write_bytes(path.read_bytes() + b" ")
        after = weights_digests(whole(copy))
        assert {one for one in before if before[one] != after[one]} == {part}
        before = after
    ref = WeightsConfig(transformer=f"import/{'0' * 16}")
    assert weights_digests(ref) == {"transformer": ref.transformer}
    missing = WeightsConfig(text="/no/where", transformer=ref.transformer)
    assert weights_digests(missing)["text"] == "not there: /no/where"
    with pytest.raises(RecipeError, match=r"weights\.text: '/no/where' is neither") as caught:
        require_all(missing)
    assert "\n" not in str(caught.value)


def test_of_a_model_folder_neither_its_name_nor_the_place_of_its_texts_counts(
    checkpoint: Path, tmp_path: Path
) -> None:
    own = ModelSettings(name="own", text_encoder=f"flux:{checkpoint}")
    moved = ModelSettings(name="moved", text_encoder="flux:/elsewhere")
    networks_of = networks()
    before, after = (tmp_path / settings.name for settings in (own, moved))
    save_model_folder(before, *networks_of, own)
    save_model_folder(after, *networks_of, moved)
    parts = ("transformer", "autoencoder")
    given = [WeightsConfig(**dict.fromkeys(parts, str(place))) for place in (before, after)]
    assert weights_digests(given[0]) == weights_digests(given[1])
    networks_of[1].scale *= 2
    save_model_folder(after, *networks_of, moved)
    digests = [weights_digests(one) for one in given]
    assert [digests[0][part] == digests[1][part] for part in parts] == [True, False]


def test_a_model_is_trained_with_the_text_encoders_that_it_was_made_with(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    texts = tmp_path / "texts"
    shutil.copytree(checkpoint, texts)
    encoder = {"text_encoder": f"flux:{texts}", "text_digest": flux_digest(texts)}
    save_model_folder(tmp_path / "own", *networks(), ModelSettings(name="own", **encoder))
    given = whole(tmp_path / "own")
    assert placed(given, store).text == str(texts)
    words = texts / "tokenizer_2/tokenizer.json"
    words.write_bytes(words.read_bytes() + b" ")
    with pytest.raises(
        WeightsError, match=f"with the text encoders {flux_digest(checkpoint)}, and"
    ) as caught:
        placed(given, store)
    assert "\n" not in str(caught.value) and str(texts) in str(caught.value)
    chosen = given.model_copy(update={"text": str(texts)})
    assert placed(chosen, store).text == str(texts)  # said outright, so meant
    shutil.rmtree(texts)
    assert placed(given, store).text == str(texts)  # where nothing is, the stage that reads it says


def test_a_stage_sees_and_counts_only_the_parts_that_it_takes(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    outside = Outside(Recipe(weights=whole(checkpoint)), store, tmp_path)
    taken = {name: set(outside.weights(stage).named) for name, stage in STAGES.items()}
    assert {name: parts for name, parts in taken.items() if parts} == {
        "train-autoencoder": {"autoencoder"},
        "encode": {"text"},
        "finetune": {"transformer"},  # and adapters, where they are given
        "exclude": {"text"},
        "evaluate": {"text"},
        "publish": {"text"},
    }
    for name, parts in taken.items():
        if parts:
            assert set(outside.of(STAGES[name])["weights"]) == parts
    plain = Outside(Recipe(), store, tmp_path)
    assert not any("weights" in plain.of(STAGES[name]) for name in ("encode", "finetune"))


def test_what_does_not_fit_is_refused_before_any_stage_runs(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    flux = str(checkpoint)
    for given, words in (
        ({"transformer": flux}, "image tokens of 16 channels, and there are 64; text tokens of 16"),
        (
            {"transformer": flux, "autoencoder": flux},
            "text tokens of 16 channels, and there are 384",
        ),
        ({"text": flux}, "text tokens of 384 channels, and there are 16"),
        ({"autoencoder": flux}, "image tokens of 64 channels, and there are 16"),
    ):
        with pytest.raises(RecipeError, match=words) as caught:
            found(WeightsConfig(**given), recipe(**given), store)
        assert "\n" not in str(caught.value)
        with pytest.raises(RecipeError, match="channels"):
            Outside(recipe(**given), store, tmp_path).of(STAGES["train-autoencoder"])


def test_adapters_are_looked_at_before_any_stage_runs(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    lora, path = lora_of(with_adapters(LoraConfig(rank=2))), tmp_path / "given.safetensors"
    save_lora(lora, path, model())
    adamw = FinetuneConfig(optimizer="adamw", lora_rank=0)
    weights = WeightsConfig(**whole(checkpoint).named, adapter=str(path))
    own = Recipe(weights=weights, finetune=adamw)
    assert found(own.weights, own, store).adapter == str(path)
    section = with_given_shapes(own, store).finetune  # what is planned with
    assert section.lora_rank == 2
    assert {f"{name}.weight" for name in section.lora_targets} == set(lora.adapters)
    other = own.model_copy(update={"finetune": adamw.model_copy(update={"lora_rank": 4})})
    with pytest.raises(RecipeError, match=r"has rank 2, and finetune\.lora_rank is 4"):
        found(own.weights, other, store)
    before = weights_digests(own.weights)
    assert weights_digests(WeightsConfig(adapter=str(tmp_path))) == {"adapter": before["adapter"]}
    path.write_bytes(path.read_bytes() + b" ")
    after = weights_digests(own.weights)
    assert {one for one in before if before[one] != after[one]} == {"adapter"}
    artifact = f"finetune/{'0' * 16}"
    merged = WeightsConfig(transformer=artifact, adapter=artifact)
    with pytest.raises(RecipeError, match="has its adapters merged already"):
        found(merged, own.model_copy(update={"weights": merged}), store)


def test_an_artifact_that_is_taken_as_it_is_is_what_widths_are_compared_with(
    checkpoint: Path, tmp_path: Path, store: ArtifactStore
) -> None:
    flux = str(checkpoint)
    codec, texts, flow = "c" * 16, "e" * 16, "f" * 16
    writer = store.writer("train-autoencoder", codec)
    writer.add_json("config.json", networks()[1].config())
    commit(store, writer)
    for digest, spec in ((texts, f"flux:{flux}"), ("d" * 16, "flux:/of/another/machine")):
        writer = store.writer("encode", digest)
        writer.metric("text_encoder", spec)
        commit(store, writer)
    writer = store.writer("finetune", flow)
    commit(store, writer)
    given = recipe(transformer=flux)  # with MiniLM and an autoencoder of its own it does not fit
    codec_and = {"train-autoencoder": codec}

    def check(pins: dict[str, str]) -> None:
        Outside(given, store, tmp_path, pins).of(STAGES["finetune"])

    for pins, words in (
        ({}, "image tokens of 16 channels, and there are 64; text tokens of 16"),
        (codec_and, "takes text tokens of 16 channels, and there are 384"),
        ({"encode": texts}, "takes image tokens of 16 channels, and there are 64: "),
    ):
        with pytest.raises(RecipeError, match=words):
            check(pins)
    check({**codec_and, "encode": texts})
    check({**codec_and, "encode": "d" * 16})  # its encoders cannot be looked at here
    check({"finetune": flow})  # nothing is trained


def test_text_encoders_are_looked_at_before_any_stage_runs(
    checkpoint: Path, tmp_path: Path
) -> None:
    require_all(whole(checkpoint))
    t5, clip = "text_encoder_2/model.safetensors", "text_encoder/model.safetensors"
    for name, damage, words in (
        ("tokenizer", shutil.rmtree, "has no sub-folder tokenizer: "),
        ("tokenizer_2/tokenizer.json", Path.unlink, "tokenizer_2 has no vocabulary"),
        (t5, Path.unlink, "text_encoder_2: no weights here"),
        (clip, lambda file: file.write_bytes(file.read_bytes()[:100]), "cannot be read as safe"),
    ):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(checkpoint, copy)
        damage(copy / name)
        weights = WeightsConfig(text=str(copy))
        with pytest.raises(WeightsError, match=words) as caught:
            require_all(weights)
        assert "\n" not in str(caught.value) and str(copy) in str(caught.value)
    (copy / clip).rename(copy / "text_encoder/pytorch_model.bin")
    require_all(weights)  # they have no headers to look at


def test_guidance_is_not_distilled_twice(checkpoint: Path, store: ArtifactStore) -> None:
    """[dev] has the embedding already: said before the flow's steps are paid for."""
    own = Recipe(weights=whole(checkpoint))
    section = own.finetune.model_copy(
        update={"guidance_distill": own.finetune.guidance_distill.model_copy(update={"steps": 5})}
    )
    with pytest.raises(RecipeError, match="adds a guidance embedding, and the transformer has one"):
        found(own.weights, own.model_copy(update={"finetune": section}), store)


def test_what_needs_given_weights_or_dropout_is_refused_with_the_recipe() -> None:
    for changes, words in (
        ({"finetune": {"lora_rank": 4, "optimizer": "adamw"}}, "set weights.transformer too"),
        ({"autoencoder": {"given": "decoder"}}, "set weights.autoencoder too"),
        ({"finetune": {"lora_rank": 4}, "weights": "x"}, "optimizer=adamw"),
        ({"weights": {"adapter": "x"}}, "adapters of given weights: set weights.transformer"),
        ({"weights": {"adapter": "x", "transformer": "y"}}, "weights.adapter needs"),
        (
            {"finetune": {"text_dropout": 0, "guidance_distill": {"steps": 1}}},
            "guidance_distill needs text_dropout",
        ),
    ):
        with pytest.raises(ValidationError, match=words):
            Recipe.model_validate({"name": "own", **changes})


def test_weights_that_are_no_transformer_are_said_to_be_none(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="is an autoencoder, not a transformer"):
        transformer_at(str(checkpoint / "vae"), nobody)
    with pytest.raises(WeightsError, match="is a transformer, not an autoencoder"):
        autoencoder_at(str(checkpoint / "transformer"), nobody)
    with torch.device("meta"):
        assert FluxTransformer(SHAPE).shape == SHAPE


def commit(store: ArtifactStore, writer: ArtifactWriter) -> None:
    """Finish an artifact; an import is named `own`."""
    manifest = Manifest(
        stage=writer.stage,
        digest=writer.digest,
        code_digest="",
        config={"name": "own"},
        inputs={},
        files=list(writer.files.values()),
        metrics=writer.metrics,
        notes=[],
        recipe="",
        created_at="2026-01-01T00:00:00+00:00",
        seconds=0,
        git_commit="",
        packages={},
        kernels={},
    )
    writer.commit(manifest)
    if writer.stage == "import":
        store.tag("import@own", "import", writer.digest)
