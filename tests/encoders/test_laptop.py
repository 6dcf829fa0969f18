"`ern-laptop`: pretrained towers from two packages, which are optional."

import copy
import csv
import io
import zipfile

import pytest
import torch
from PIL import Image
from torchvision.models._meta import _IMAGENET_CATEGORIES

from fashionern.encoders import laptop
from fashionern.encoders.clip import create_clip
from fashionern.encoders.laptop import IMAGE_PACKAGE, LAPTOP, TEXT_PACKAGE, check_packages, package_file
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.weights import read_weights


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(laptop, "find_spec", lambda name: None)
    with pytest.raises(ErnError, match=r'pip install "fashionern\[laptop\]"'):
        create_clip(LAPTOP)


@pytest.fixture(scope="module")
def clip():
    pytest.importorskip("transformers")
    try:
        check_packages()
    except ErnError as e:
        pytest.skip(str(e))
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
