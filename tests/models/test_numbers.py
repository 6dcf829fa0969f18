"Weights with NaN or with integers are refused wherever they are loaded."

from pathlib import Path

import pytest
import torch
from error_sentence import sentence
from torch import Tensor

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model, load_model, save_model
from fashionern.training.checkpoint import load_state, save_state
from fashionern.weights import read_header, read_tensors, save_weights

DAMAGES = {
    "NaN": lambda t: t.clone().fill_(torch.nan),
    "infinite": lambda t: t.clone().fill_(torch.inf),
    "int32": lambda t: t.to(torch.int32),
}


def spoil(path: Path, damage: str, part: str) -> str:
    "Change the first floating-point tensor whose name contains `part`; its name."
    tensors: dict[str, Tensor] = read_tensors(path)
    header = {key: value for key, value in read_header(path).items() if key != "digest"}
    name = next(k for k, v in tensors.items() if part in k and v.is_floating_point())
    tensors[name] = DAMAGES[damage](tensors[name])
    save_weights(path, tensors, **header)
    return name


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders(create_clip(TINY))


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_without_usable_numbers_are_refused(tmp_path, encoders, damage):
    model = create_model("combiner", encoders.clip.dim)
    optimizer = torch.optim.AdamW(model.parameters())
    encoders.save(tmp_path / "encoders.safetensors")
    save_model(model, tmp_path / "model.safetensors")
    Retriever(encoders, model).save_pretrained(tmp_path / "hub")
    save_state(tmp_path / "state.safetensors", model, optimizer)
    loads = {
        "encoders.safetensors": lambda path: load_encoders(TINY, path),
        "model.safetensors": lambda path: load_model(model, path),
        "hub/model.safetensors": lambda path: Retriever.from_pretrained(path.parent),
        "state.safetensors": lambda path: load_state(path, model, optimizer),
    }
    for file, load in loads.items():
        name = spoil(tmp_path / file, damage, "weight")
        message = sentence(load, tmp_path / file)
        assert file.split("/")[-1] in message and damage in message, message
        assert name.removeprefix("clip.").removeprefix("module.") in message, (name, message)
