"The warm-up trains both towers, the text tower alone, or the projections behind frozen towers."

from dataclasses import replace

import open_clip
import pytest
import torch
from PIL import Image

from fashionern.data.images import ImageFinder
from fashionern.data.transforms import Preprocess
from fashionern.data.triplets import Statement, TripletDataset
from fashionern.distributed import World, set_seed
from fashionern.encoders.clip import TINY, ClipEncoder, PooledTrunk, create_clip
from fashionern.encoders.feature_store import extract_features
from fashionern.encoders.words import unknown_words
from fashionern.errors import ErnError
from fashionern.training.config import TrainConfig
from fashionern.training.warmup import text_inputs, warm_up, warmup_tunes

COLOURS = ("red", "green", "blue", "yellow")
TIMM_TOWER = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "mlp", "image_size": 64}
TRANSFORM = Preprocess(size=64, pad="none", resize_mode="squash", regions="pooled")


def pooled_encoder(text: torch.nn.Module | None = None) -> ClipEncoder:
    "An encoder with a tiny timm image tower, and `text` or open_clip's own text tower."
    set_seed(0)
    tiny = create_clip(TINY)
    model = open_clip.CustomTextCLIP(**(open_clip.get_model_config(TINY) | {"vision_cfg": TIMM_TOWER}))
    if text is not None:
        model.text = text
    return ClipEncoder(model, tiny.tokenizer, "pooled", TRANSFORM).eval()


@pytest.fixture
def shop(tmp_path) -> tuple[TripletDataset, TrainConfig]:
    "Twelve noisy images in four colours with descriptions, and the settings of a short warm-up."
    names = [f"{colour}{i}" for colour in COLOURS for i in range(3)]
    for name in names:
        noise = Image.effect_noise((64, 64), 30).convert("RGB")
        Image.blend(noise, Image.new("RGB", (64, 64), name[:-1]), 0.8).save(tmp_path / f"{name}.png")
    descriptions = {name: [name[:-1], f"something {name[:-1]}"] for name in names}
    data = TripletDataset("folder", "train", [], {"all": names}, ImageFinder(tmp_path), descriptions=descriptions)
    settings = {"stages": ("warmup",), "warmup_epochs": 15, "warmup_batch_size": 12, "warmup_lr": 3e-3}
    return data, TrainConfig(root=tmp_path, clip_model_name=TINY, clip_pretrained=None, num_workers=0, **settings)


def run(clip: ClipEncoder, data: TripletDataset, cfg: TrainConfig) -> list[dict]:
    "The log lines of a warm-up."
    lines: list[dict] = []
    source = PooledTrunk(clip) if clip.is_pooled else clip
    features = lambda: extract_features(source, data.images, data.all_images(), cfg.root / "features")
    warm_up(clip, data, cfg, World(), None, lambda **values: lines.append(values), features)
    return lines


def changed(clip: ClipEncoder, before: dict[str, torch.Tensor]) -> set[str]:
    "The parameters and buffers that differ from `before`."
    return {key for key, value in clip.model.state_dict().items() if not torch.equal(value, before[key])}


def copy_of(clip: ClipEncoder) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in clip.model.state_dict().items()}


def test_text_trains_the_text_tower_and_leaves_images_alone(shop):
    data, cfg = shop
    clip = create_clip(TINY)
    before = copy_of(clip)
    lines = run(clip, data, replace(cfg, warmup_tunes="text"))
    names = changed(clip, before)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert "token_embedding.weight" in names and "logit_scale" in names
    assert not any(name.startswith("visual.") for name in names)


def test_text_also_trains_the_projection_of_a_pooled_image_tower(shop):
    data, cfg = shop
    clip = pooled_encoder()
    before = copy_of(clip)
    run(clip, data, replace(cfg, warmup_tunes="text"))
    names = changed(clip, before)
    assert {"visual.head.mlp.fc1.weight", "text.token_embedding.weight"} <= names
    assert not any(name.startswith("visual.trunk.") for name in names), "not even batch-norm statistics"


def test_heads_needs_projections(shop):
    data, cfg = shop
    clip = create_clip(TINY)
    assert warmup_tunes(cfg, clip) == "both"
    with pytest.raises(ErnError, match=r"--warmup-tunes heads.*ern-tiny has none"):
        run(clip, data, replace(cfg, warmup_tunes="heads"))


def test_heads_trains_two_projections_and_nothing_else(shop):
    transformers = pytest.importorskip("transformers")
    data, cfg = shop
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=49408, max_position_embeddings=80, **sizes)
    tower = open_clip.hf_model.HFTextEncoder("bert", 128, config, "mean_pooler", "mlp", pretrained=False)
    clip = pooled_encoder(tower)
    before = copy_of(clip)
    lines = run(clip, data, replace(cfg, warmup_tunes="heads"))
    names = changed(clip, before)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(name.startswith(("visual.head.", "text.proj.", "logit_scale")) for name in names), names
    assert {"visual.head.mlp.fc2.weight", "text.proj.2.weight", "logit_scale"} <= names
    texts = ["a much longer text than the other", "red"]
    with torch.no_grad():
        live = clip.encode_text(clip.tokenize(texts)).embedding
        assert torch.allclose(clip.tower.project(text_inputs(clip, texts, False)), live, atol=1e-6)


@pytest.mark.parametrize("about", ["", "pattern"])
def test_statements_teach_what_descriptions_do_not_name(shop, about):
    data, cfg = shop
    names = data.all_images()
    for name in names[::3]:
        image = Image.open(data.images(name))
        image.paste("black", (8, 24, 56, 40))
        image.save(data.images(name))
    marked = Statement(("has a bar", "with a bar"), tuple(names[::3]), about)
    plain = Statement(("is plain", "without a bar"), tuple(name for name in names if name not in marked.images), about)
    set_seed(0)
    clip = create_clip(TINY)
    run(clip, replace(data, statements=[marked, plain]), replace(cfg, warmup_epochs=40))
    store = extract_features(clip, data.images, names, cfg.root / "features")
    with torch.no_grad():
        texts = clip.encode_text(clip.tokenize(["has a bar", "is plain"])).embedding
    cosines = store[names].embedding @ texts.T
    has_bar = torch.tensor([name in marked.images for name in names])
    assert torch.equal(cosines[:, 0] > cosines[:, 1], has_bar)
    assert unknown_words(clip, "a bar or a maxi") == ["maxi"], "the words of statements are known, too"


@pytest.mark.parametrize("tunes", ["both", "text"])
def test_statements_about_other_images_are_left_out(shop, tunes):
    data, cfg = shop
    clip = create_clip(TINY)
    data = replace(data, statements=[Statement(("is odd",), ("elsewhere",))])
    lines = run(clip, data, replace(cfg, warmup_tunes=tunes))
    assert lines[-1]["loss"] < lines[0]["loss"]
