"Run folders, hub folders and model names."

import json
import tempfile
from pathlib import Path

import torch
from PIL import Image

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import TME, Encoders
from fashionern.models.card import model_card
from fashionern.models.hub import Retriever, read_config
from fashionern.models.registry import create_model, parse_model, save_model
from fashionern.training.config import PRESETS
from fashionern.training.flags import EvalConfig
from fashionern.training.record import RunRecord
from fashionern.training.report import fill_in
from fashionern.training.trained import load_retriever

from . import draw
from .harness import target
from .hostile import CHANGES, RARELY, STEPS, STRINGS, damaged, documents, json_bytes, write_files

RECORD = PRESETS["demo"].as_dict()
HUB: dict[str, bytes] = {}
RUN: dict[str, bytes] = {}


def _ready() -> None:
    torch.manual_seed(0)
    clip = create_clip(TINY)
    encoders = Encoders(clip, TME(clip))
    model = create_model("tirg", clip.dim)
    with tempfile.TemporaryDirectory() as d:
        Retriever(encoders, model, {"data": "drawn", "results": []}).save_pretrained(Path(d) / "hub")
        HUB.update({p.name: p.read_bytes() for p in (Path(d) / "hub").iterdir() if p.is_file()})
        encoders.save(Path(d) / "e.safetensors")
        save_model(model, Path(d) / "m.safetensors")
        RUN.update({"encoders.safetensors": (Path(d) / "e.safetensors").read_bytes(), "models/tirg/best.safetensors": (Path(d) / "m.safetensors").read_bytes()})


@target("run-record", documents(RECORD), ready=_ready)
def _(data: bytes, folder: Path) -> None:
    write_files({"config.json": data, "models/tirg/best.safetensors": b"", "models/combiner/best.safetensors": b""}, folder)
    RunRecord.read(folder)
    fill_in(EvalConfig(run_dir=folder))


@target("run", documents({**RECORD, "model": "tirg", "compare": []}), 0.03, ready=_ready)
def _(data: bytes, folder: Path) -> None:
    write_files(RUN | {"config.json": data}, folder)
    load_retriever(folder)


@target("hub-config", draw.tuples(CHANGES, RARELY), ready=_ready)
def _(given: tuple, folder: Path) -> None:
    (folder / "config.json").write_bytes(json_bytes(json.loads(HUB["config.json"]), *given))
    read_config(folder)


@target("hub", draw.tuples(CHANGES, RARELY), 0.03, ready=_ready)
def _(given: tuple, folder: Path) -> None:
    write_files(HUB | {"config.json": json_bytes(json.loads(HUB["config.json"]), *given)}, folder)
    retriever = Retriever.from_pretrained(folder)
    str(model_card(retriever, retriever.about))
    retriever.encode_queries([Image.new("RGB", (20, 30))], ["is red"])


@target("hub-weights", STEPS, 0.02, ready=_ready)
def _(steps: list, folder: Path) -> None:
    write_files(HUB | {"model.safetensors": damaged(HUB["model.safetensors"], steps)}, folder)
    Retriever.from_pretrained(folder)


PARTS = ("fashionern", "tirg", "dvr", "+", "+", "@", "=", ",", "ask", "words", "heads", "ffn", "mask_padding", "gate_floor", "0.1", "1e400", "NaN", "null", "true", "[" * 5_000, "0", "-1", "9" * 30, "9" * 5_000, *STRINGS)


@target("model-name", draw.builds("".join, draw.lists(draw.sampled_from(PARTS), 8)))
def _(name: str, folder: Path) -> None:
    parse_model(name)


GOOD = ("tirg", "dvr@mask_padding", "fashionern@mask_padding,ask=words", "val@heads=4", "clip+combiner+identity", "fame-vil")


@target("model-settings", draw.builds(lambda s, steps: damaged(s.encode(), steps).decode("utf-8", "replace"), draw.sampled_from(GOOD), STEPS), 0.1)
def _(name: str, folder: Path) -> None:
    create_model(name, 16, ffn=16)
