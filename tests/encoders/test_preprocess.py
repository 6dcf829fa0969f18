"Preprocessing belongs to the encoder: where it comes from, and what earlier versions wrote."

import json
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from torch import nn

from fashionern.data.transforms import Preprocess
from fashionern.encoders.clip import TINY, ClipEncoder, create_clip
from fashionern.encoders.feature_store import create_store
from fashionern.encoders.preprocessing import choose_preprocess, describe_encoder, find_preprocess, make_preprocess
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.search.index import model_identity
from fashionern.weights import read_header, read_weights, save_weights

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TINY_BEFORE = {  # the record of version 2
    "size": 64,
    "pad": "square",
    "ratio": 1.25,
    "fill": "white",
    "canvas": 144,
    "mean": CLIP_MEAN,
    "std": CLIP_STD,
}
# an open_clip_config.json as Marqo-FashionSigLIP has it
MARQO = """{"model_cfg": {"embed_dim": 768, "vision_cfg": {"image_size": 224}, "text_cfg": {"context_length": 64}},
 "preprocess_cfg": {"size": [224, 224], "mode": "RGB", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
  "interpolation": "bicubic", "resize_mode": "squash", "fill_color": 0}}"""


def model_of(size=224) -> nn.Module:
    "All that a transform needs of a model."
    return SimpleNamespace(visual=SimpleNamespace(image_size=size))


def own(name: str, tag: str | None, kind: str = "encoder") -> Preprocess:
    return make_preprocess(model_of(), name, kind, find_preprocess(name, tag))


def fill(clip: ClipEncoder) -> ClipEncoder:
    "The same weights everywhere."
    with torch.no_grad():
        for tensor in clip.model.state_dict().values():
            tensor.fill_(0.25 if tensor.is_floating_point() else 3)
    return clip


def as_before(path) -> None:
    "Rewrite a file of `Encoders.save` as earlier versions wrote it."
    state = read_weights(path)
    header = {k: v for k, v in read_header(path).items() if k not in ("preprocess", "digest")}
    save_weights(path, state, **header)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    "A tiny encoder without published weights, by name."
    config = {**open_clip.get_model_config(TINY), "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}}
    path = tmp_path_factory.mktemp("configs") / "test-preprocess.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return "test-preprocess"


def test_mean_and_std_are_the_encoders():
    for kind in ("encoder", "targetpad"):
        for name, tag, mean, std in (
            ("ViT-B-32", "openai", CLIP_MEAN, CLIP_STD),
            ("ViT-B-16-SigLIP", "webli", (0.5,) * 3, (0.5,) * 3),
            ("ViT-B-16-SigLIP", None, (0.5,) * 3, (0.5,) * 3),
            ("MobileCLIP-S1", "datacompdr", (0.0,) * 3, (1.0,) * 3),
            ("MobileCLIP-S1", None, (0.0,) * 3, (1.0,) * 3),
        ):
            pre = own(name, tag, kind)
            assert (pre.mean, pre.std) == (mean, std), (name, kind)
    assert own("MobileCLIP-S1", None).interpolation == "bilinear"
    assert own("ViT-B-16-SigLIP", None).resize_mode == "squash"
    marqo = make_preprocess(model_of(), "any", "encoder", json.loads(MARQO)["preprocess_cfg"])
    expected = Preprocess(pad="none", fill="#000000", mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    assert marqo == expected


def test_every_published_description_is_read():
    for name, tag in open_clip.list_pretrained():
        pre = own(name, tag)
        known = open_clip.get_pretrained_cfg(name, tag)
        assert pre.mean == tuple(known["mean"]) and pre.std == tuple(known["std"])


def test_targetpad_is_the_papers_setting_with_the_encoders_values():
    pre = own("ViT-B-16-SigLIP", "webli", "targetpad")
    assert (pre.pad, pre.ratio, pre.fill, pre.resize_mode) == ("target", 1.25, "black", "shortest")
    assert (pre.rounding, pre.canvas_filter) == ("torchvision", "lanczos")
    tiny = create_clip(TINY, preprocess="encoder").preprocess
    assert (tiny.pad, tiny.fill, tiny.canvas, tiny.rounding) == ("square", "white", 144, "torchvision")


def test_a_file_that_says_nothing_gets_its_familys_values_and_a_line(small, tmp_path, capsys):
    assert find_preprocess("ViT-B-16-SigLIP", "openai", "siglip.pt")["mean"] == (0.5,) * 3
    line = capsys.readouterr().err
    assert "siglip.pt does not say" in line and "all published weights for ViT-B-16-SigLIP" in line
    assert find_preprocess("ViT-L-14", None, "large.pt") == {}, "its published weights differ"
    assert "Using CLIP's" in capsys.readouterr().err
    assert find_preprocess("RN50x4", "openai", "rn.pt")["mean"] == CLIP_MEAN
    assert capsys.readouterr().err == "", "the tag says it"
    torch.save(create_clip(small).model.state_dict(), tmp_path / "own.pt")
    assert capsys.readouterr().err == "", "random weights have no preprocessing"
    assert create_clip(small, clip_path=tmp_path / "own.pt").preprocess.mean == CLIP_MEAN
    assert "own.pt does not say" in capsys.readouterr().err


def folder_of(path: Path, config: dict, preprocess: dict | None = None) -> str:
    "A folder in open_clip's format with random weights, and with a preprocess_cfg if one is given."
    path.mkdir()
    config = json.loads(json.dumps(config))
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    listing = {"model_cfg": config} | ({} if preprocess is None else {"preprocess_cfg": preprocess})
    (path / "open_clip_config.json").write_text(json.dumps(listing))
    torch.save(model.state_dict(), path / "open_clip_pytorch_model.bin")
    return f"local-dir:{path}"


OWN_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
MOBILE = {"timm_model_name": "fastvit_mci1", "timm_pool": "avg", "timm_proj": None, "image_size": 64}
FOLDERS = {  # configuration → mean, std, interpolation, resize mode, and words of the line
    "CLIP": ({"vision_cfg": VIT}, (CLIP_MEAN, CLIP_STD, "bicubic", "shortest"), "Using CLIP's"),
    "SigLIP": (
        {"vision_cfg": VIT, "init_logit_bias": -10, "custom_text": True},
        ((0.5,) * 3, (0.5,) * 3, "bicubic", "squash"),
        "all published weights for ViT-B-16-SigLIP and ",
    ),
    "MobileCLIP": (
        {"vision_cfg": MOBILE, "custom_text": True, "embed_dim": 1024},
        ((0.0,) * 3, (1.0,) * 3, "bilinear", "shortest"),
        "all published weights for MobileCLIP-S1:",
    ),
}


@pytest.mark.parametrize("family", FOLDERS)
def test_a_folder_that_says_nothing_gets_its_familys_values_and_a_line(family, tmp_path, capsys):
    config, expected, words = FOLDERS[family]
    config = {"embed_dim": 32, "text_cfg": OWN_TEXT, **config}
    name = folder_of(tmp_path / "silent", config)
    pre = create_clip(name, preprocess="encoder").preprocess
    assert (pre.mean, pre.std, pre.interpolation, pre.resize_mode) == expected
    line = capsys.readouterr().err
    assert "open_clip_pytorch_model.bin does not say how images are prepared" in line and words in line
    assert f"{expected[2]}, {expected[3]}" in line and len(line.splitlines()) == 1
    assert f"mean {expected[0][0]:g}, " in describe_encoder(name)
    stated = folder_of(tmp_path / "stated", config, {"mean": [0.2] * 3, "std": [0.3] * 3, "resize_mode": "longest"})
    assert create_clip(stated, preprocess="encoder").preprocess.mean == (0.2,) * 3, "what it says goes first"
    assert capsys.readouterr().err == ""


def test_a_saved_folders_encoder_is_compared_with_the_folders_preprocessing(tmp_path, capsys):
    config = {"embed_dim": 32, "text_cfg": OWN_TEXT, **FOLDERS["SigLIP"][0]}
    name = folder_of(tmp_path / "silent", config)
    Encoders(create_clip(name, preprocess="encoder")).save(tmp_path / "encoders.safetensors")
    capsys.readouterr()
    load_encoders(name, tmp_path / "encoders.safetensors", preprocess="encoder")
    assert capsys.readouterr().err == "", "both squash"


def test_a_folder_of_an_architecture_is_prepared_as_its_published_weights(capsys):
    "CLIPA has OpenAI's image tower in a model that was trained with other values."
    config = open_clip.get_model_config("ViT-L-14-CLIPA")
    assert find_preprocess("local-dir:clipa", None, "clipa.pt", config) == find_preprocess("ViT-L-14-CLIPA")
    assert "ViT-L-14-CLIPA" in capsys.readouterr().err
    assert find_preprocess("local-dir:clipa", None, None, config)["mean"] != CLIP_MEAN


def test_a_given_configuration_goes_before_the_name(small, capsys):
    cfg = json.loads(MARQO)["preprocess_cfg"]
    pre = choose_preprocess(create_clip(small).model, small, "encoder", cfg)
    assert (pre.size, pre.mean, pre.resize_mode) == (32, (0.5,) * 3, "squash")
    assert "images of [224, 224] pixels, but its image tower takes 32" in capsys.readouterr().err


def test_an_encoder_is_described_in_one_line():
    line = describe_encoder("ViT-B-16-SigLIP")
    assert "context length 64 tokens; image size 224 px" in line
    assert "(squash)" in line and "mean 0.5, 0.5, 0.5" in line
    with pytest.raises(ErnError, match="ViT-B-17"):
        describe_encoder("ViT-B-17")


def test_the_card_names_encoder_and_preprocessing():
    card = str(Retriever(Encoders(create_clip(TINY)), create_model("sum", 128)).generate_model_card())
    assert "| encoder | ern-tiny |" in card and "| padding | to a square, white |" in card
    assert "| mean | 0.481455, 0.457827, 0.408211 |" in card
    assert "| context length | 28 tokens |" in card and "| rounding | torchvision |" in card


def test_unusable_choices_are_refused(small):
    with pytest.raises(ErnError, match="preprocessing"):
        create_clip(small, preprocess="target-pad")
    with pytest.raises(ErnError, match="224 × 336"):
        make_preprocess(model_of((224, 336)), "any")


@pytest.mark.parametrize("kind", ["targetpad", "encoder", "centred"])
def test_a_saved_file_keeps_its_preprocessing(small, tmp_path, kind, capsys):
    cfg = json.loads(MARQO)["preprocess_cfg"] | {"size": 32}
    clip = create_clip(small)
    clip.preprocess = make_preprocess(clip.model, small, kind, cfg)
    Encoders(clip).save(tmp_path / "encoders.safetensors")
    loaded = load_encoders(small, tmp_path / "encoders.safetensors").clip
    assert loaded.preprocess == clip.preprocess
    assert loaded.image_fingerprint() == clip.image_fingerprint()
    assert create_clip(small, clip_path=tmp_path / "encoders.safetensors").preprocess == clip.preprocess
    assert capsys.readouterr().err == ""
    other = "encoder" if kind == "targetpad" else "targetpad"
    assert load_encoders(small, tmp_path / "encoders.safetensors", preprocess=other).clip.preprocess == clip.preprocess
    assert f"other preprocessing than {other!r}" in capsys.readouterr().err


def test_a_damaged_record_is_refused(small, tmp_path):
    path = tmp_path / "encoders.safetensors"
    Encoders(create_clip(small)).save(path)
    state, header = read_weights(path), read_header(path)
    header.pop("digest")
    for wrong in ("{", "5", '{"pad": "twice"}', '{"mean": 5}', '{"new_field": 1}'):
        save_weights(path, state, **{**header, "preprocess": wrong})
        with pytest.raises(ErnError, match="no readable preprocessing"):
            load_encoders(small, path)
    save_weights(path, state, **{**header, "preprocess": '{"size": 48}'})
    with pytest.raises(ErnError, match="saved with images of 48 pixels, but test-preprocess takes 32"):
        load_encoders(small, path)


def test_what_was_written_before_keeps_pixels_and_fingerprint(tmp_path):
    path = tmp_path / "encoders.safetensors"
    Encoders(fill(create_clip(TINY))).save(path)
    new = load_encoders(TINY, path).clip.image_fingerprint()
    as_before(path)
    encoders = load_encoders(TINY, path).eval()
    assert encoders.clip.image_fingerprint() == "94c7ed1b67c287c6", "computed by version 2"
    assert encoders.clip.image_fingerprint() != new
    assert create_clip(TINY, clip_path=path).image_fingerprint() == "94c7ed1b67c287c6"
    create_store(tmp_path / "store", "94c7ed1b67c287c6", ["a"], 128)
    assert encoders.clip.preprocess.as_dict() == TINY_BEFORE
    retriever = Retriever(encoders, create_model("sum", 128)).eval()
    assert retriever.record()["preprocess"] == TINY_BEFORE
    encoders.save(path)
    assert load_encoders(TINY, path).clip.preprocess == encoders.clip.preprocess


def test_a_folder_written_before_keeps_its_identity(tmp_path):
    clip = fill(create_clip(TINY, preprocess="centred"))
    Retriever(Encoders(clip), create_model("sum", 128)).save_pretrained(tmp_path / "before")
    config = json.loads((tmp_path / "before" / "config.json").read_text())
    assert set(config["preprocess"]) == set(TINY_BEFORE), "the fields that version 2 wrote"
    loaded = Retriever.from_pretrained(tmp_path / "before")
    assert loaded.encoders.clip.preprocess == clip.preprocess
    assert model_identity(loaded) == model_identity(Retriever(Encoders(clip), create_model("sum", 128)))
    new = fill(create_clip(TINY))
    Retriever(Encoders(new), create_model("sum", 128)).save_pretrained(tmp_path / "new")
    loaded = Retriever.from_pretrained(tmp_path / "new")
    assert loaded.encoders.clip.preprocess == new.preprocess
    assert json.loads((tmp_path / "new" / "config.json").read_text())["preprocess"]["rounding"] == "torchvision"
