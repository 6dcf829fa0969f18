"`ern-laptop`: pretrained towers from two packages, which are optional."

import copy
import csv
import dataclasses
import io
import zipfile

import pytest
import torch
from PIL import Image
from torchvision.models._meta import _IMAGENET_CATEGORIES

from fashionern.encoders import laptop
from fashionern.encoders.clip import create_clip
from fashionern.encoders.laptop import IMAGE_PACKAGE, LAPTOP, TEXT_PACKAGE, package_file
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.cost import check_words
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.weights import read_weights


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(laptop, "find_spec", lambda name: None)
    with pytest.raises(ErnError, match=r'pip install "fashionern\[laptop\]"'):
        create_clip(LAPTOP)


@pytest.fixture(scope="module")
def clip(request):
    request.getfixturevalue("laptop")  # `laptop` is also the module that this file tests
    torch.manual_seed(0)
    return create_clip(LAPTOP)


@torch.inference_mode()
def test_texts_are_those_of_the_sentence_encoder(clip, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    with zipfile.ZipFile(io.BytesIO(package_file(TEXT_PACKAGE).read_bytes())) as z:
        z.extractall(tmp_path)
    model = AutoModel.from_pretrained(tmp_path).eval()
    texts = ["is red with long sleeves", "the same but cheaper, please"]
    batch = AutoTokenizer.from_pretrained(tmp_path)(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    expected = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    assert torch.allclose(clip.tower.pooled(clip.tokenize(texts)), expected, atol=1e-5)


@torch.inference_mode()
def test_the_image_tower_is_pretrained(clip):
    "Its batch-norm statistics fit natural inputs: random weights would give features of another size."
    trunk = clip.model.visual.trunk
    assert trunk.bn1.running_var.std() > 0.01, "not the ones of a fresh layer"
    features = trunk.forward_features(torch.zeros(1, 3, 192, 192))
    assert features.shape == (1, 1280, 6, 6)
    assert 0 < features.mean() < 6


def test_image_weights_are_matched_by_name(clip, monkeypatch):
    "The order in the file does not matter; another name is refused."
    path = package_file(IMAGE_PACKAGE)
    published = read_weights(path)
    trunk = copy.deepcopy(clip.model.visual.trunk)
    monkeypatch.setattr(laptop, "read_weights", lambda _: dict(reversed(published.items())))
    reordered = laptop._image_state(trunk)
    assert all(torch.equal(tensor, clip.model.visual.trunk.state_dict()[name]) for name, tensor in reordered.items())
    assert len(reordered) == 245  # without the classifier
    for changes, words in (
        ({"_bn0.weight": None}, "bn1.weight is missing"),
        ({"_bn9.weight": torch.zeros(32)}, "unexpected tensor _bn9.weight"),
        ({"_bn0.scale": torch.zeros(32)}, "bn1.scale is missing, unexpected or of another shape"),
        ({"_bn0.weight": torch.zeros(31)}, "bn1.weight is missing, unexpected or of another shape"),
    ):
        state = {name: tensor for name, tensor in {**published, **changes}.items() if tensor is not None}
        monkeypatch.setattr(laptop, "read_weights", lambda _, state=state: state)
        with pytest.raises(ErnError, match=words) as error:
            laptop._image_state(trunk)
        assert str(path) in str(error.value)


@torch.inference_mode()
def test_the_image_tower_recognises_products(clip, shared):
    "With its classifier, which only weights in their right places do: a random guess is right once in a thousand."
    archive = shared / "catalogue" / "images.zip"
    if not archive.is_file():
        pytest.skip(f"the shared files contain no product photos: no file {archive}")
    published = read_weights(package_file(IMAGE_PACKAGE))
    trunk = clip.model.visual.trunk
    types = {}
    with (shared / "catalogue" / "styles.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            types.setdefault(row["articleType"], []).append(f"images/{row['id']}.jpg")
    with zipfile.ZipFile(archive) as z:
        present = set(z.namelist())
        for kind, label, top, least in (("Sunglasses", "sunglass", 1, 0.75), ("Sports Shoes", "running shoe", 5, 0.6)):
            names = [name for name in types[kind] if name in present][:40]
            photos = [Image.open(io.BytesIO(z.read(name))).convert("RGB") for name in names]
            views = torch.stack([clip.preprocess.global_view(photo) for photo in photos])
            pooled = trunk(clip.preprocess.normalise(views))
            logits = pooled @ published["_fc.weight"].T + published["_fc.bias"]
            best = logits.topk(top).indices == _IMAGENET_CATEGORIES.index(label)
            assert best.any(1).float().mean() > least, kind


def test_pseudo_words_are_known_to_fit_before_the_encoder_was_ever_loaded(laptop, monkeypatch):
    "The text tower's configuration comes from the installed package, never from the hub."
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_words(LAPTOP, download=True)


@torch.inference_mode()
def test_encoders_and_retrievers_are_saved_without_a_path_of_this_machine(clip, tmp_path):
    Encoders(clip).save(tmp_path / "encoders.safetensors")
    loaded = load_encoders(LAPTOP, tmp_path / "encoders.safetensors").clip
    assert loaded.preprocess == clip.preprocess and loaded.image_fingerprint() == clip.image_fingerprint()
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim))
    retriever.save_pretrained(tmp_path / "saved")
    again = Retriever.from_pretrained(tmp_path / "saved")
    query = {"image": Image.new("RGB", (60, 80), "red"), "text": "is blue"}
    assert abs(again.encode(query) - retriever.encode(query)).max() < 1e-6
    config = (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")
    assert str(laptop.text_folder().parent) not in config


EARLY = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "test_efficientnet",
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": 64,
        "early_stages": [0, 1],
    },
}


@torch.inference_mode()
def test_early_stages_are_pooled_like_the_last(tmp_path):
    torch.manual_seed(0)
    tower = laptop.EarlyStageTower(EARLY).eval()
    pixels = torch.rand(2, 3, 64, 64)
    last, early = tower.trunk.forward_intermediates(pixels, indices=[0, 1])
    regions = tower.regions(pixels)
    assert regions.shape == (2, 14, tower.width)
    side = last.shape[2] // 2
    assert torch.allclose(regions[:, 4, : last.shape[1]], last[:, :, side:, side:].mean((2, 3)), atol=1e-6)
    height = early[0].shape[2]
    start = last.shape[1]
    channels = early[0].shape[1]
    whole = early[0].mean((2, 3))
    middle = early[0][:, :, height // 4 : -(height // 4), height // 4 : -(height // 4)].mean((2, 3))
    assert torch.allclose(regions[:, 0, start : start + channels], whole, atol=1e-6)
    assert torch.allclose(regions[:, 0, start + channels : start + 2 * channels], middle, atol=1e-6)
    assert torch.equal(tower(pixels), tower.head(regions[:, 0]))


def test_inputs_are_standardised_with_the_statistics_of_the_warm_up():
    norm = laptop.InputNorm(3)
    x = torch.tensor([[1.0, 10.0, 5.0], [3.0, 30.0, 5.0]])
    assert torch.equal(norm(x), x)
    norm.fit(x)
    assert torch.allclose(norm(x).mean(0), torch.zeros(3)) and torch.allclose(norm(x)[:, :2].std(0), torch.ones(2))
    assert norm(x)[:, 2].isfinite().all(), "a constant channel"


def test_weights_of_the_version_before_keep_their_tower(clip, tmp_path):
    "A tower without early stages is rebuilt from its file, with the same outputs."
    from fashionern.encoders.clip import build_clip
    from fashionern.encoders.sources import find_encoder
    from fashionern.weights import save_weights

    source = find_encoder(LAPTOP)
    before = build_clip(dataclasses.replace(source, config=laptop.laptop_config(early=False)))
    save_weights(tmp_path / "clip.safetensors", before.model.state_dict(), format="pt")
    again = create_clip(LAPTOP, clip_path=tmp_path / "clip.safetensors")
    views = torch.randint(0, 256, (2, 3, 192, 192), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(before.encode_image(views), again.encode_image(views))
    assert isinstance(clip.model.visual, laptop.EarlyStageTower)
    assert not isinstance(again.model.visual, laptop.EarlyStageTower)


@pytest.mark.parametrize("vision", [{"timm_model_name": "hf-hub:someone/else"}, {"early_stages": [9]}, "x", None])
def test_a_folder_decides_only_whether_there_are_early_stages(clip, vision, tmp_path):
    from fashionern.models.hub import _clip_source

    config = {"clip_model_name": LAPTOP, "clip_config": {"vision_cfg": vision}}
    source = _clip_source(config, tmp_path / "config.json")
    expected = laptop.laptop_config(early=not isinstance(vision, dict) or "early_stages" in vision)
    assert source.config == expected
    assert source.config["vision_cfg"]["timm_model_name"] == "tf_efficientnet_lite0"
