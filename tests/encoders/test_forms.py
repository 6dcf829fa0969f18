"Every form of an encoder loads or is refused: names, folders in two formats, and files of weights from elsewhere."

import importlib.util
import io
import json
import os
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from fashionern.encoders import sources
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.sources import find_encoder
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.hub import CONFIG_FILE, Retriever
from fashionern.models.registry import create_model
from fashionern.weights import read_weights

TEXTS = ["is red with long sleeves", "more casual"]
VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP = {
    "embed_dim": 32,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 64,
        "hf_tokenizer_name": "someone/siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}
MOBILE = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "fastvit_t8",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {**VIT["text_cfg"], "no_causal_mask": True},
}
COCA = {
    **VIT,
    "custom_text": True,
    "vision_cfg": {**VIT["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**VIT["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CLIP_CFG = {"mean": [0.4, 0.4, 0.4], "std": [0.3, 0.3, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}


def build(config: dict, seed: int = 0, quick_gelu: bool = False) -> torch.nn.Module:
    "An open_clip model with random weights, built by open_clip itself."
    torch.manual_seed(seed)
    config = json.loads(json.dumps(config))
    custom = config.pop("custom_text", False)
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    return kind(**config, quick_gelu=quick_gelu).eval()


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


def open_clip_folder(folder: Path, config: dict, preprocess: dict | None = CLIP_CFG, **options) -> torch.nn.Module:
    "Write a folder in open_clip's format and return its model."
    model = build(config, **options)
    folder.mkdir(parents=True, exist_ok=True)
    listing = {"model_cfg": config} if preprocess is None else {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(listing))
    save_file(state_of(model), folder / "open_clip_model.safetensors")
    return model


def assert_same(encoder, model: torch.nn.Module, tokens: torch.Tensor | None = None, atol: float = 1e-6) -> None:
    "The encoder's embeddings are the model's own."
    tokens = encoder.tokenize(TEXTS) if tokens is None else tokens
    size = encoder.preprocess.size
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = (
            encoder.encode_image(pixels),
            model.encode_image(encoder.preprocess.normalise(pixels), normalize=True),
        )
        assert (ours - theirs).abs().max() < atol
        ours, theirs = encoder.encode_text(tokens).embedding, model.encode_text(tokens, normalize=True)
        assert (ours - theirs).abs().max() < atol


@pytest.fixture
def architecture(tmp_path, monkeypatch) -> str:
    "The name of a small ViT that open_clip knows."
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small-vit", VIT)
    return "small-vit"


# Files of weights for a named architecture: how the file is written, and what is expected of the values


def openai_archive(path: Path, model: torch.nn.Module) -> None:
    "An archive as OpenAI's: scripted, in half precision, with its settings as tensors."
    for name, value in {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}.items():
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    scripted = torch.nn.Module()
    _copy_modules(model, scripted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; OpenAI's files stay
        torch.jit.save(torch.jit.script(scripted.half()), path)


def _copy_modules(source: torch.nn.Module, target: torch.nn.Module) -> None:
    "Copy parameters, buffers and modules, without the code of the model itself, which TorchScript cannot compile."
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, torch.nn.Parameter(parameter.detach().clone()))
    for name, buffer in source.named_buffers(recurse=False):
        target.register_buffer(name, buffer)
    for name, module in source.named_children():
        inner = module
        if type(module).__name__ not in ("QuickGELU", "GELU"):
            inner = torch.nn.Module()
            _copy_modules(module, inner)
        target.add_module(name, inner)


def with_module(state: dict) -> dict:
    return {f"module.{name}": tensor for name, tensor in state.items()}


FILES = {
    "CLIP4Cir": lambda path, state: torch.save({"epoch": 3, "CLIP": state}, path),
    "open_clip checkpoint": lambda path, state: torch.save(
        {
            "epoch": 2,
            "name": "run",
            "state_dict": with_module(state),
            "optimizer": {"state": {}},
            "scaler": {"scale": 1.0},
        },
        path,
    ),
    "model": lambda path, state: torch.save({"model": state, "args": {"lr": 1e-3}}, path),
    "fp16": lambda path, state: torch.save({k: v.half() for k, v in state.items()}, path),
    "bf16": lambda path, state: torch.save({k: v.bfloat16() for k, v in state.items()}, path),
    "module.": lambda path, state: torch.save(with_module(state), path),
    "NumPy number": lambda path, state: torch.save({"best": np.float64(0.5), "state_dict": state}, path),
    "old torch format": lambda path, state: torch.save(state, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("form", FILES)
def test_a_file_of_weights_loads(form, tmp_path, architecture, capsys):
    model = build(VIT)
    FILES[form](tmp_path / "w.pt", state_of(model))
    encoder = create_clip(architecture, clip_path=tmp_path / "w.pt")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(form, torch.float32)
    model.load_state_dict({k: v.to(dtype) for k, v in model.state_dict().items()})
    assert_same(encoder, model)
    assert encoder.name == architecture and not encoder.quick_gelu
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "w.pt does not say how images are prepared" in lines[0]


def test_openais_archive_loads_with_its_activation(tmp_path, architecture, capsys):
    model = build(VIT, quick_gelu=True)
    state = state_of(model)
    openai_archive(tmp_path / "ViT.pt", model)
    assert {"input_resolution", "visual.conv1.weight"} <= set(read_weights(tmp_path / "ViT.pt"))
    encoder = create_clip(architecture, clip_path=tmp_path / "ViT.pt")
    expected = build(VIT, quick_gelu=True)
    expected.load_state_dict({k: v.half() for k, v in state.items()})
    assert encoder.quick_gelu
    assert "QuickGELU" in capsys.readouterr().err
    assert_same(encoder, expected)


def test_a_pickle_of_the_older_numpy_loads(tmp_path):
    torch.save({"best": np.float32(2), "state_dict": {"w": torch.ones(2)}}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for info in new.infolist():
            data = new.read(info)
            for a, b in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
                if info.filename.endswith("data.pkl") and a in data:
                    data = data.replace(a, b)
                    break
            old.writestr(info.filename, data)
    before = torch.serialization.get_safe_globals()
    assert (tmp_path / "old.pt").read_bytes() != (tmp_path / "new.pt").read_bytes()
    assert torch.equal(read_weights(tmp_path / "old.pt")["w"], torch.ones(2))
    assert set(torch.serialization.get_safe_globals()) == set(before), "the permission ends with the file"


class _Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def _hostile_archive(path: Path, _: dict) -> None:
    "An archive whose pickle calls a function."
    openai_archive(path.with_name("good.pt"), build(VIT))
    with zipfile.ZipFile(path.with_name("good.pt")) as good, zipfile.ZipFile(path, "w") as bad:
        for info in good.infolist():
            data = good.read(info)
            if info.filename.endswith("/data.pkl"):
                data = data.replace(b"ccollections\nOrderedDict\n", b"cos\nsystem\n")
            bad.writestr(info.filename, data)


REFUSED = {
    "pickle with code": (lambda path, state: torch.save({"state_dict": _Runs()}, path), ["system", "code"]),
    "archive with code": (_hostile_archive, ["os.system", "code"]),
    "truncated": (
        lambda path, state: (torch.save(state, path), path.write_bytes(path.read_bytes()[:-999])),
        ["cut short"],
    ),
    "other things": (
        lambda path, state: torch.save({"model": {**state, "lr": 1e-3, "betas": [1]}}, path),
        ["lr (float)", "betas (list)"],
    ),
    "a list": (lambda path, state: torch.save([1], path), ["a list"]),
    "missing tensor": (
        lambda path, state: torch.save({k: v for k, v in state.items() if k != "ln_final.bias"}, path),
        ["missing", "ln_final.bias"],
    ),
    "unexpected tensor": (
        lambda path, state: torch.save({**state, "extra": torch.ones(1)}, path),
        ["unexpected", "extra"],
    ),
    "another architecture": (
        lambda path, state: torch.save(state_of(build(open_clip.get_model_config(TINY))), path),
        [TINY, "--clip-model-name"],
    ),
    "another image size": (
        lambda path, state: torch.save({**state, "visual.positional_embedding": torch.zeros(17, 64)}, path),
        ["visual.positional_embedding", "images of 128 pixels"],
    ),
    "another context": (
        lambda path, state: torch.save({**state, "positional_embedding": torch.zeros(20, 32)}, path),
        ["shape", "texts of 20 tokens"],
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_file_of_weights_is_refused(form, tmp_path, architecture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, words = REFUSED[form]
    write(tmp_path / "w.pt", state_of(build(VIT)))
    with pytest.raises(ErnError) as error:
        create_clip(architecture, clip_path=tmp_path / "w.pt")
    assert all(word in str(error.value) for word in words), error.value
    assert str(tmp_path / "w.pt") in str(error.value) and not (tmp_path / "ran").exists()


# Folders


@pytest.mark.parametrize("form", ["open_clip", "MobileCLIP", "CoCa", "QuickGELU"])
def test_a_folder_in_open_clips_format_loads(form, tmp_path):
    if form == "QuickGELU":
        model = _quick_gelu_folder(tmp_path / "e")
    else:
        model = open_clip_folder(tmp_path / "e", {"open_clip": VIT, "MobileCLIP": MOBILE, "CoCa": COCA}[form])
    encoder = create_clip(f"local-dir:{tmp_path / 'e'}", "openai")
    assert encoder.name == f"local-dir:{(tmp_path / 'e').resolve()}"
    assert encoder.preprocess.mean == (0.4, 0.4, 0.4) and encoder.quick_gelu == (form == "QuickGELU")
    assert_same(encoder, model)


def _quick_gelu_folder(folder: Path) -> torch.nn.Module:
    open_clip_folder(folder, VIT)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**VIT, "quick_gelu": True}, "preprocess_cfg": CLIP_CFG})
    )
    return build(VIT, quick_gelu=True)


def sentencepiece_like(folder: Path, vocabulary: int = 64) -> None:
    "A small tokenizer of transformers' own in a folder."
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["</s>", "<unk>", "<pad>", "is", "red", "with", "long", "sleeves", "more", "casual"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.save_pretrained(str(folder))


def siglip_tokenizer(folder: Path):
    "transformers' own tokenizer of SigLIP, with a small vocabulary; it pads with id 1, which also ends a text."
    transformers = pytest.importorskip("transformers")
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def test_the_mask_of_siglip_is_that_of_transformers_tokenizer(tmp_path):
    model = open_clip_folder(tmp_path / "siglip", SIGLIP)
    tokenizer = siglip_tokenizer(tmp_path / "siglip")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    encoder = create_clip(str(tmp_path / "siglip"))
    given = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    assert torch.equal(encoder.tokenize(TEXTS), given["input_ids"])
    assert torch.equal(encoder.encode_text(given["input_ids"]).mask, given["attention_mask"].bool())
    assert 0 < given["attention_mask"].sum() < given["attention_mask"].numel()
    assert_same(encoder, model)
    retriever = Retriever(Encoders(encoder), create_model("combiner", encoder.dim))
    retriever.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "siglip")
    loaded = Retriever.from_pretrained(tmp_path / "saved").encoders.clip
    assert torch.equal(loaded.encode_text(loaded.tokenize(TEXTS)).mask, given["attention_mask"].bool())


def test_a_siglip_folder_loads_with_its_own_tokenizer(tmp_path):
    model = open_clip_folder(tmp_path / "siglip", SIGLIP)
    sentencepiece_like(tmp_path / "siglip")
    encoder = create_clip(str(tmp_path / "siglip"))
    tokens = encoder.tokenize(["Is RED!", "more"])
    assert tokens.shape == (2, 16) and tokens[0, :2].tolist() == [3, 4], "lower case without punctuation"
    assert_same(encoder, model)
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'siglip'}")
    assert torch.equal(theirs(TEXTS), encoder.tokenize(TEXTS))

    retriever = Retriever(Encoders(encoder), create_model("combiner", encoder.dim))
    retriever.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "siglip")
    loaded = Retriever.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.encoders.clip.tokenize(TEXTS), encoder.tokenize(TEXTS))
    assert_same(loaded.encoders.clip, model)


def test_a_siglip_folder_names_the_extra(tmp_path, monkeypatch):
    open_clip_folder(tmp_path / "siglip", SIGLIP)
    (tmp_path / "siglip" / "spiece.model").touch()
    monkeypatch.setattr("fashionern.encoders.clip.find_spec", lambda name: None)
    for name in (str(tmp_path / "siglip"), "ViT-B-16-SigLIP"):
        with pytest.raises(ErnError, match=r"transformers.*fashionern\[hf\]"):
            create_clip(name)


def test_a_tokenizer_cannot_ask_to_run_code(tmp_path):
    config = json.loads(json.dumps(SIGLIP))
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    open_clip_folder(tmp_path / "siglip", config)
    (tmp_path / "siglip" / "spiece.model").touch()
    with pytest.raises(ErnError, match="trust_remote_code"):
        create_clip(str(tmp_path / "siglip"))


def test_an_xlm_roberta_folder_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    text = transformers.XLMRobertaConfig(**sizes, max_position_embeddings=80)
    text.save_pretrained(str(tmp_path / "xlm"))
    config = {
        **VIT,
        "text_cfg": {
            "hf_model_name": str(tmp_path / "xlm"),
            "hf_tokenizer_name": "xlm-roberta-base",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "mean_pooler",
            "hf_model_pretrained": False,
        },
    }
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**json.loads(json.dumps(config))).eval()
    config["text_cfg"]["hf_model_name"] = "xlm-roberta-base"  # what the published folder says
    listing = {"model_cfg": config, "preprocess_cfg": CLIP_CFG}
    (tmp_path / "xlm" / "open_clip_config.json").write_text(json.dumps(listing))
    save_file(state_of(model), tmp_path / "xlm" / "open_clip_model.safetensors")
    sentencepiece_like(tmp_path / "xlm")
    encoder = create_clip(f"local-dir:{tmp_path / 'xlm'}")
    assert_same(encoder, model)


def fashion_clip_folder(folder: Path, **text):
    "A CLIP in transformers' format, with random weights, and its model."
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    common = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**common, **text}, vision_config={**common, "image_size": 64, "patch_size": 32}, projection_dim=24
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(str(folder))
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": {"shortest_edge": 64}}
    processor |= {"crop_size": {"height": 64, "width": 64}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def features(output) -> torch.Tensor:
    "Unit vectors from what transformers returns, a tensor or an object with one."
    return torch.nn.functional.normalize(getattr(output, "pooler_output", output), dim=-1)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_transformers_clip_gives_that_librarys_embeddings(tmp_path, weights):
    theirs = fashion_clip_folder(tmp_path / "fashion")
    if weights == "pytorch_model.bin":
        torch.save(theirs.state_dict(), tmp_path / "fashion" / weights)
        (tmp_path / "fashion" / "model.safetensors").unlink()
    encoder = create_clip(str(tmp_path / "fashion"))
    assert encoder.dim == 24 and encoder.quick_gelu and encoder.preprocess.mean == (0.4, 0.5, 0.6)
    tokens = encoder.tokenize(TEXTS)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        image = features(theirs.get_image_features(pixel_values=encoder.preprocess.normalise(pixels)))
        text = features(theirs.get_text_features(input_ids=tokens))
        assert (encoder.encode_image(pixels) - image).abs().max() < 1e-5
        assert (encoder.encode_text(tokens).embedding - text).abs().max() < 1e-5


def test_transformers_weights_load_for_a_named_architecture(tmp_path, monkeypatch):
    fashion_clip_folder(tmp_path / "fashion")
    config = find_encoder(str(tmp_path / "fashion")).config
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    named = create_clip("small", clip_path=tmp_path / "fashion" / "model.safetensors", quick_gelu=True)
    of_folder = create_clip(str(tmp_path / "fashion"))
    assert_same(named, of_folder.model)


def test_activations_that_open_clip_cannot_build_are_refused(tmp_path):
    fashion_clip_folder(tmp_path / "fashion", hidden_act="gelu")
    with pytest.raises(ErnError, match="gelu and quick_gelu"):
        create_clip(str(tmp_path / "fashion"))


def _json(name: str, content) -> dict[str, bytes]:
    return {name: json.dumps(content).encode()}


BAD_FOLDERS = {
    "empty": ({}, "open_clip_config.json nor config.json.*nothing"),
    "siglip of transformers": (_json("config.json", {"model_type": "siglip"}), "type 'siglip'"),
    "a retriever": (_json("config.json", {"model_type": "fashionern"}), "retriever, not an encoder.*--model"),
    "no weights": (_json("open_clip_config.json", {"model_cfg": VIT}), "Found none"),
    "two weights": ({**_json("open_clip_config.json", VIT), "a.pt": b"", "b.pt": b""}, "a.pt, b.pt"),
    "parts": ({**_json("config.json", {"model_type": "clip"}), "model.safetensors.index.json": b"{}"}, "several parts"),
    "not JSON": ({"open_clip_config.json": b"{"}, "not readable JSON"),
    "not an object": ({"config.json": b"[]"}, "JSON object"),
    "half a configuration": (_json("open_clip_config.json", {"model_cfg": {"embed_dim": 3}}), "vision_cfg"),
    "cut weights": ({**_json("open_clip_config.json", VIT), "open_clip_model.safetensors": b"12"}, "cut short"),
}


@pytest.mark.parametrize("form", BAD_FOLDERS)
def test_a_folder_is_refused(form, tmp_path):
    files, words = BAD_FOLDERS[form]
    folder = tmp_path / "e"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name in (str(folder), f"local-dir:{folder}"):
        with pytest.raises(ErnError, match=words):
            create_clip(name)


def test_a_small_folder_cannot_name_a_large_or_unknown_tower(tmp_path):
    refused = (("vit_giant_patch14_clip_224", "more weights than"), ("hf-hub:x/y", "timm"))
    for number, (name, words) in enumerate(refused):
        config = {**MOBILE, "vision_cfg": {**MOBILE["vision_cfg"], "timm_model_name": name}}
        folder = tmp_path / str(number)
        open_clip_folder(folder, MOBILE)
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        with pytest.raises(ErnError, match=words):
            create_clip(str(folder))


def test_a_vocabulary_without_its_tokenizer_is_refused(tmp_path):
    config = {**VIT, "text_cfg": {**VIT["text_cfg"], "vocab_size": 64}}
    open_clip_folder(tmp_path / "e", config)
    with pytest.raises(ErnError, match="vocabulary .* has no tokenizer"):
        create_clip(str(tmp_path / "e"))


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-B-23", "Did you mean"),
        ("vit-b-16", "Did you mean 'ViT-B-16'"),
        ("vit_b_16/openai", "Did you mean 'ViT-B-16'"),
        ("siglip2", "Did you mean 'ViT-.*SigLIP2"),
        ("ViT-B-32/laoin", "set of weights"),
        ("patrickjohncyh/fashion-clip", "hf-hub:patrickjohncyh/fashion-clip"),
        ("hf-hub:nobody", "hf-hub:ORG/NAME"),
        ("local-dir:/not/there", "no folder /not/there"),
    ],
)
def test_a_name_is_refused(name, words):
    with pytest.raises(ErnError, match=words):
        create_clip(name)


def test_a_missing_package_is_reported_before_weights_are_downloaded(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "transformers" and find_spec(name) or None)

    def downloaded(*_):
        raise AssertionError("weights were downloaded first")

    monkeypatch.setattr(sources, "_tag_weights", downloaded)
    with pytest.raises(ErnError, match=r'transformers for its tokenizer. Run: pip install "fashionern\[hf\]"'):
        create_clip("ViT-B-16-SigLIP", "webli")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module._orig_mod.", "model.", "module.model."])
def test_weights_of_a_wrapped_model(tmp_path, wrapper):
    clip = create_clip(TINY)
    state = {wrapper + name: tensor for name, tensor in clip.model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
    loaded = create_clip(TINY, clip_path=tmp_path / "w.pt").model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in clip.model.state_dict().items())


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"\xef\xbb\xbf<html>", "is a web page"),
        (b'{"error": "Entry not found"}', "is JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"GGUF" + bytes(90), "cannot be read as"),
    ],
)
def test_a_file_that_holds_no_weights_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ErnError) as refused:
        create_clip(TINY, clip_path=tmp_path / name)
    assert words in str(refused.value) and "code" not in str(refused.value)


def test_a_file_as_name_says_how_to_give_it(tmp_path):
    (tmp_path / "w.pt").touch()
    with pytest.raises(ErnError, match="--clip-path"):
        create_clip(str(tmp_path / "w.pt"))


def in_cache(cache: Path, repository: str, source: Path) -> Path:
    "Put a folder into a hub's cache, as a download leaves it."
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(source, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    return place / "snapshots" / ("0" * 40)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    "A hub that does not answer, and its cache."

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "get_hf_file_metadata", fail)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_hubs_cache_serves_a_repository_without_a_network(tmp_path, offline, capsys):
    model = open_clip_folder(tmp_path / "e", VIT)
    in_cache(offline, "someone/fashion", tmp_path / "e")
    encoder = create_clip("hf-hub:someone/fashion", "openai")
    assert encoder.name == "hf-hub:someone/fashion"
    assert "does not answer" in capsys.readouterr().err
    assert_same(encoder, model)
    with pytest.raises(ErnError, match="someone/else in the hub's cache .* does not answer"):
        create_clip("hf-hub:someone/else")


def test_the_cache_serves_a_tag_and_its_activation(tmp_path, offline, monkeypatch, capsys):
    known = {"hf_hub": "someone/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (1, 1, 1)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {"mine": known})
    model = open_clip_folder(tmp_path / "e", open_clip.get_model_config(TINY), quick_gelu=True)
    with pytest.raises(ErnError, match="ern-tiny/mine were not found"):
        create_clip(f"{TINY}/mine")
    in_cache(offline, "someone/tiny", tmp_path / "e")
    encoder = create_clip(f"{TINY}/mine")
    assert (encoder.name, encoder.quick_gelu) == (TINY, True)
    assert find_encoder(TINY, "mine").preprocess["mean"] == (0.1, 0.2, 0.3)
    assert_same(encoder, model)
    assert f"{TINY}/mine" in dict(sources.cached_encoders())
    assert capsys.readouterr().err == ""


# The activation


def test_contradictions_about_the_activation_are_reported(tmp_path, architecture, monkeypatch, capsys):
    model = build(VIT, quick_gelu=True)
    state = state_of(model)
    openai_archive(tmp_path / "openai.pt", model)
    known = {"hf_hub": "someone/gelu/", "quick_gelu": False}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"plain": known})
    encoder = create_clip(architecture, "plain", tmp_path / "openai.pt")
    assert not encoder.quick_gelu
    assert "trained with the activation QuickGELU, but" in capsys.readouterr().err
    counters = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    torch.save({"CLIP": {**state, **{k: torch.tensor(v) for k, v in counters.items()}}}, tmp_path / "tuned.pt")
    assert create_clip(architecture, clip_path=tmp_path / "tuned.pt").quick_gelu
    assert "QuickGELU" in capsys.readouterr().err


def test_a_saved_encoders_activation_wins_over_the_tag(tmp_path):
    Encoders(create_clip(TINY, quick_gelu=True)).save(tmp_path / "e.safetensors")
    assert create_clip(TINY, clip_path=tmp_path / "e.safetensors").quick_gelu
    Encoders(create_clip(TINY)).save(tmp_path / "e.safetensors")
    assert not create_clip(TINY, "openai", tmp_path / "e.safetensors").quick_gelu


def test_a_name_with_another_activation_than_its_tag_is_reported(tmp_path, offline, monkeypatch, capsys):
    config = {**VIT, "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "v-quickgelu", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "v-quickgelu", {"plain": {"hf_hub": "a/b/"}})
    open_clip_folder(tmp_path / "e", VIT)
    in_cache(offline, "a/b", tmp_path / "e")
    create_clip("v-quickgelu/plain")
    assert "weights plain were trained with the activation GELU, but v-quickgelu" in capsys.readouterr().err


def test_a_missing_logit_bias_is_reported(tmp_path, capsys):
    config = {**VIT, "init_logit_bias": -10}
    open_clip_folder(tmp_path / "e", config)
    save_file(state_of(build(VIT)), tmp_path / "e" / "open_clip_model.safetensors")
    encoder = create_clip(str(tmp_path / "e"))
    assert "no logit_bias" in capsys.readouterr().err
    assert encoder.model.logit_bias == -10


# What such an encoder is saved in


def test_a_folders_encoder_is_saved_and_loaded(tmp_path):
    open_clip_folder(tmp_path / "mine", MOBILE)
    encoder = create_clip(str(tmp_path / "mine"))
    Encoders(encoder).save(tmp_path / "encoders.safetensors")
    (tmp_path / "mine" / "open_clip_model.safetensors").unlink()
    loaded = load_encoders(encoder.name, tmp_path / "encoders.safetensors")
    assert_same(loaded.clip, encoder.model)
    assert loaded.clip.image_fingerprint() == encoder.image_fingerprint()


def test_a_retriever_does_not_need_the_encoders_folder(tmp_path):
    open_clip_folder(tmp_path / "mine", MOBILE)
    encoder = create_clip(str(tmp_path / "mine"))
    Retriever(Encoders(encoder), create_model("combiner", encoder.dim)).save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / CONFIG_FILE).read_text()
    assert str(tmp_path) not in (tmp_path / "saved" / "README.md").read_text()
    shutil.rmtree(tmp_path / "mine")
    loaded = Retriever.from_pretrained(tmp_path / "saved")
    assert_same(loaded.encoders.clip, encoder.model)
    assert loaded.encoders.clip.image_fingerprint() == encoder.image_fingerprint(), "features stay valid"
    assert loaded.record() == Retriever(Encoders(encoder), create_model("combiner", encoder.dim)).record()
    with pytest.raises(ErnError, match="retriever, not an encoder"):
        create_clip(str(tmp_path / "saved"))


def test_a_transformers_clip_needs_no_transformers(tmp_path, monkeypatch):
    fashion_clip_folder(tmp_path / "fashion")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("fashionern.encoders.clip.find_spec", lambda name: None)
    assert create_clip(str(tmp_path / "fashion")).tokenize(TEXTS).shape == (2, 77)
