"Weight files (torch and safetensors), as for --clip-path and --fusion-model-path, and checkpoints."

import io
import json
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from fashionern.encoders.clip import TINY, create_clip, load_clip_weights
from fashionern.encoders.tme import TME, Encoders, load_encoders
from fashionern.models.registry import create_model, load_model
from fashionern.training.checkpoint import load_state, save_state
from fashionern.weights import read_header, read_weights

from . import draw
from .harness import target
from .hostile import CHANGES, STEPS, changed, damaged, dumps, write_files


class _Runs:
    "Creates a folder when it is unpickled."

    def __reduce__(self):
        return os.mkdir, ("../../evil",)


class _Own:
    pass


def _torch(value, **options) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def _script() -> bytes:
    "A TorchScript archive, as OpenAI publishes CLIP."
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4)).half()), out)
    return out.getvalue()


STATE = {"weight": torch.ones(4, 4), "bias": torch.zeros(4)}
ODD = (
    *(_torch(v) for v in (STATE, {"state_dict": STATE}, {"CLIP": {"state_dict": 3}}, [], None, 3, {"a": 1}, {"CLIP": None}, {1: torch.ones(1)}, {"weight": [1, 2]}, torch.ones(2), {"weight": torch.ones(2, 2).to_sparse()})),
    _torch(STATE, _use_new_zipfile_serialization=False), _torch({"a": _Runs()}), _torch({"a": _Own()}), _torch(_Runs(), _use_new_zipfile_serialization=False),
    pickle.dumps(_Runs()), pickle.dumps({"weight": [1.0]}), save_safetensors(STATE, {"model": "sum"}), *(write(create_model("tirg", 8).state_dict()) for write in (_torch, save_safetensors)), _torch({"weight": torch.ones(4, 4, dtype=torch.complex64)}), _script(), _torch({"epoch": np.float64(2), "model": {"module.weight": torch.ones(4, 4)}}),
)  # fmt: skip
SUFFIXES = draw.sampled_from((".pt", ".pth", ".safetensors", ".bin", ""))
KEPT: dict[str, object] = {}


def _ready() -> None:
    torch.manual_seed(0)
    clip = create_clip(TINY)
    KEPT.update(clip=clip, sum=create_model("sum", 8), tirg=create_model("tirg", 8))
    KEPT["clip file"] = save_safetensors({k: v.contiguous() for k, v in clip.model.state_dict().items()})
    with tempfile.TemporaryDirectory() as d:
        Encoders(clip, TME(clip)).save(Path(d) / "e.safetensors")
        KEPT["encoders file"] = (Path(d) / "e.safetensors").read_bytes()
        module = torch.nn.Linear(3, 2)
        optimizer = torch.optim.Adam(module.parameters())
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_state(Path(d) / "s.safetensors", module, optimizer, epoch=1, step=2)
        KEPT["state file"] = (Path(d) / "s.safetensors").read_bytes()


@target("weights", draw.tuples(draw.builds(damaged, draw.sampled_from(ODD), STEPS), SUFFIXES), ready=_ready)
def _(given: tuple, folder: Path) -> None:
    data, suffix = given
    path = folder / f"w{suffix}"
    path.write_bytes(data)
    load_model(KEPT["tirg"], path)


@target("weights-plain", draw.tuples(draw.sampled_from(ODD), SUFFIXES), 0.02, ready=_ready)
def _(given: tuple, folder: Path) -> None:
    data, suffix = given
    path = folder / f"w{suffix}"
    path.write_bytes(data)
    load_clip_weights(KEPT["clip"].model, path)


def _undigested(head: dict) -> dict:
    "Remove the checksum, which an attacker could compute as well."
    head.get("__metadata__", {}).pop("digest", None)
    return head


def _header(data: bytes, changes: list, steps: list) -> bytes:
    "A safetensors file with a changed header."
    size = int.from_bytes(data[:8], "little")
    head = _undigested(json.loads(data[8 : 8 + size]))
    head = damaged(dumps(changed(head, changes)).encode("utf-8", "surrogatepass"), steps)
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


def _about(data: bytes, key: str, text: str) -> bytes:
    size = int.from_bytes(data[:8], "little")
    head = _undigested(json.loads(data[8 : 8 + size]))
    head["__metadata__"][key] = text
    made = json.dumps(head).encode()
    return len(made).to_bytes(8, "little") + made + data[8 + size :]


SETTINGS = {"layers": None, "branches": ["inject", "align"], "ffn": "own", "gate": "scalar", "dropout": 0.0, "align_from": "last"}


@target("encoders", draw.tuples(draw.sampled_from(("tme", "tme", "header")), CHANGES, draw.one_of(draw.just([]), STEPS)), 0.03, ready=_ready)
def _(given: tuple, folder: Path) -> None:
    how, changes, steps = given
    data = KEPT["encoders file"]
    if how == "tme":
        data = _about(data, "tme", dumps(changed(json.loads(read_tme(data)), changes)))
    else:
        data = _header(data, changes, steps)
    (folder / "e.safetensors").write_bytes(data)
    load_encoders(TINY, folder / "e.safetensors")


def read_tme(data: bytes) -> str:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["tme"]


@target("safetensors-header", draw.tuples(CHANGES, STEPS), ready=_ready)
def _(given: tuple, folder: Path) -> None:
    (folder / "w.safetensors").write_bytes(_header(save_safetensors(create_model("tirg", 8).state_dict(), {"model": "tirg"}), *given))
    read_weights(folder / "w.safetensors")
    read_header(folder / "w.safetensors")
    load_model(KEPT["tirg"], folder / "w.safetensors")


COUNTERS = {"epoch": 1, "step": 2, "best": 0.5}


@target("checkpoint", draw.tuples(draw.sampled_from(("header", "optimizer", "counters")), CHANGES, STEPS), ready=_ready)
def _(given: tuple, folder: Path) -> None:
    how, changes, steps = given
    data = KEPT["state file"]
    if how == "header":
        data = _header(data, changes, steps)
    else:
        document = COUNTERS if how == "counters" else {"0.step": 1.0, "1.step": 1}
        data = _about(data, how, damaged(dumps(changed(document, changes)).encode("utf-8", "replace"), steps).decode("utf-8", "replace"))
    write_files({"s.safetensors": data}, folder)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    load_state(folder / "s.safetensors", module, optimizer)
