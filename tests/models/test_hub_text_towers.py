"Retriever folders hold Hugging Face text towers, so that nothing is downloaded when they are loaded."

import json
import shutil
import socket
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from tiny_towers import HF_TOWERS

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import TME, Encoders
from fashionern.errors import ErnError
from fashionern.files import read_json, write_json
from fashionern.models.hub import CONFIG_FILE, Retriever
from fashionern.models.registry import create_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "red", "blue", "with", "long", "sleeves"]
TEXTS = ["is red with long sleeves", "blue"]
PHOTOS = [Image.new("RGB", (60, 80), colour) for colour in ("red", "navy")]
KINDS = ("bert-cls", "minilm", "xlm-roberta", "mt5", "nllb")


@pytest.fixture
def offline(monkeypatch):
    "No connection can be opened."

    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def encoder_folder(folder: Path, kind: str) -> str:
    "A folder in open_clip's format with this text tower, its configuration and a tokenizer."
    transformers = pytest.importorskip("transformers")
    class_name, fields, pooler, proj = HF_TOWERS[kind]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    getattr(transformers, class_name)(**fields).save_pretrained(folder)
    text_cfg = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    text_cfg |= {"hf_pooler_type": pooler, "hf_proj_type": proj, "context_length": 20}
    config = {"embed_dim": 64, "vision_cfg": open_clip.get_model_config(TINY)["vision_cfg"], "text_cfg": text_cfg}
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**json.loads(json.dumps(config)))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


def saved(tmp_path: Path, kind: str, name: str = "", with_tme: bool = False) -> Retriever:
    "A retriever over the encoder of that name, or of a folder, saved in `tmp_path / 'saved'`."
    clip = create_clip(name or encoder_folder(tmp_path / "encoder", kind))
    tme = TME(clip).eval() if with_tme else None
    model = create_model("fashionern" if with_tme else "sum", clip.dim, **({"ffn": 32} if with_tme else {}))
    retriever = Retriever(Encoders(clip, tme), model).eval()
    retriever.save_pretrained(tmp_path / "saved")
    return retriever


def assert_same(loaded: Retriever, retriever: Retriever) -> None:
    assert torch.equal(loaded.encode_queries(PHOTOS, TEXTS), retriever.encode_queries(PHOTOS, TEXTS))
    assert torch.equal(loaded.encode_targets(PHOTOS), retriever.encode_targets(PHOTOS))
    assert loaded.encoders.clip.image_fingerprint() == retriever.encoders.clip.image_fingerprint()
    assert loaded.record() == retriever.record()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_a_hugging_face_text_tower_loads_without_network_or_its_encoder(kind, tmp_path, offline):
    retriever = saved(tmp_path, kind)
    shutil.rmtree(tmp_path / "encoder")
    loaded = Retriever.from_pretrained(tmp_path / "saved")
    assert_same(loaded, retriever)
    for file in (tmp_path / "saved").rglob("*.*"):
        assert str(tmp_path).encode() not in file.read_bytes(), file
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / CONFIG_FILE).read_text() == (tmp_path / "saved" / CONFIG_FILE).read_text()


def test_tme_over_a_hugging_face_text_tower_is_saved(tmp_path, offline):
    retriever = saved(tmp_path, "minilm", with_tme=True)
    shutil.rmtree(tmp_path / "encoder")
    assert_same(Retriever.from_pretrained(tmp_path / "saved"), retriever)


def test_a_named_architecture_needs_no_download_either(tmp_path, offline, monkeypatch):
    encoder_folder(tmp_path / "encoder", "bert-mean")
    listing = json.loads((tmp_path / "encoder" / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-bert", listing)
    retriever = saved(tmp_path, "bert-mean", "tiny-bert")
    away = listing["text_cfg"] | {"hf_model_name": "someone/bert", "hf_tokenizer_name": "someone/bert"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-bert", {**listing, "text_cfg": away})
    loaded = Retriever.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.encode_queries(PHOTOS, TEXTS), retriever.encode_queries(PHOTOS, TEXTS))


def test_a_tower_of_another_kind_is_refused_when_it_is_saved(tmp_path, monkeypatch):
    "The folder could not be loaded again, so nothing is written."
    clip = create_clip(encoder_folder(tmp_path / "encoder", "bert-mean"))
    monkeypatch.delitem(open_clip.hf_configs.arch_dict, "bert")
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim))
    with pytest.raises(ErnError, match="text tower of type 'bert'. A saved folder can hold these"):
        retriever.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / CONFIG_FILE).exists()


BAD = {
    "unknown type": ({"model_type": "gpt2"}, "type 'gpt2'"),
    "code": ({"auto_map": {"AutoModel": "x.py"}}, "A saved folder can hold these"),
    "too wide": ({"hidden_size": 10**7}, "larger than the"),
    "too deep": ({"num_hidden_layers": 10**9}, "larger than the"),
    "too many words": ({"vocab_size": 10**9}, "larger than the"),
    "no width": ({"hidden_size": "wide"}, "larger than the"),
    "odd heads": ({"num_attention_heads": 7}, "config.json"),
    "missing": (None, "text tower .* is not in the folder"),
}


@pytest.mark.parametrize("form", BAD)
def test_a_bad_description_is_refused(form, tmp_path, offline):
    saved(tmp_path, "bert-mean")
    file = tmp_path / "saved" / CONFIG_FILE
    config = read_json(file)
    changes, words = BAD[form]
    config["text_config"] = None if changes is None else config["text_config"] | changes
    write_json(file, config)
    with pytest.raises(ErnError, match=words) as error:
        Retriever.from_pretrained(tmp_path / "saved")
    assert str(file) in str(error.value)
