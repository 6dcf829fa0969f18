"Training in fp16 with loss scaling, on the CPU: gradients that overflow, skipped steps, and resuming."

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fashionern.benchmark.inputs import random_store, random_triplets
from fashionern.distributed import World, set_seed
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.models.registry import create_model
from fashionern.training import loop, stages
from fashionern.training.config import TrainConfig
from fashionern.training.loop import FitOptions, NonFiniteLossError, Schedule, fit
from fashionern.weights import read_header

STEPS = 6
OVERFLOW = 2  # the step whose gradients are too large for fp16


class Stopped(Exception):
    pass


def batches(epoch: int, first: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(epoch)
    xs = torch.randn(STEPS, 3, 8, generator=generator)
    xs[OVERFLOW] *= 1000
    return list(xs[first:])


def trained(
    folder: Path, stop_before: int = STEPS, resume: bool = False
) -> tuple[nn.Module, list[Tensor], list[float]]:
    "The network, its weights before each step, and the loss scale after each step."
    set_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    weights: list[Tensor] = []
    scales: list[float] = []

    def loss_of(module: nn.Module, x: Tensor) -> Tensor:
        if (folder / "resume.safetensors").exists() and (weights or resume):
            scales.append(json.loads(read_header(folder / "resume.safetensors")["counters"])["scaler"]["scale"])
        if len(weights) == stop_before:
            raise Stopped
        weights.append(net[0].weight.detach().clone())
        output = module(x)
        assert output.dtype == torch.float16
        return output.float().square().mean()

    options = FitOptions(
        "test", STEPS, Schedule(1, 0.01, clip_norm=1.0), amp=torch.float16, folder=folder, resume=resume
    )
    fit(net, batches, loss_of, options)
    weights.append(net[0].weight.detach().clone())
    return net, weights, scales


def test_a_step_whose_gradients_overflow_is_skipped_and_halves_the_scale(tmp_path):
    _, weights, scales = trained(tmp_path)
    changed = [not torch.equal(a, b) for a, b in zip(weights, weights[1:])]
    assert changed == [step != OVERFLOW for step in range(STEPS)]
    assert scales == [2.0**16] * OVERFLOW + [2.0**15] * (STEPS - 1 - OVERFLOW)


@pytest.mark.parametrize("stop_before", [OVERFLOW, OVERFLOW + 1, STEPS - 1])
def test_a_resumed_training_ends_with_the_same_weights_and_scale(tmp_path, stop_before):
    expected, *_ = trained(tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", stop_before)
    resumed, weights, scales = trained(tmp_path / "stopped", resume=True)
    assert len(weights) == STEPS - stop_before + 1
    assert scales[-1] == 2.0**15
    for a, b in zip(resumed.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_overflows_is_an_error_not_a_skipped_step(tmp_path):
    net = nn.Linear(8, 1)
    options = FitOptions("test", STEPS, Schedule(1, 0.01), amp=torch.float16)
    with pytest.raises(NonFiniteLossError, match=f"inf at step {OVERFLOW + 1} of epoch 1"):
        fit(net, batches, lambda module, x: (module(x) * 1000).float().square().mean(), options)


def test_both_stages_train_in_fp16_as_in_float32(tmp_path, monkeypatch):
    names = [f"{i}" for i in range(12)]
    data = random_triplets(16, names)
    losses: dict[str, list[float]] = {}
    for amp in ("off", "fp16"):
        dtype = {"off": None, "fp16": torch.float16}[amp]
        for module in (loop, stages):
            monkeypatch.setattr(module, "amp_dtype", lambda *_, dtype=dtype: dtype)
        set_seed(0)
        encoders = Encoders(create_clip(TINY))
        store = random_store(tmp_path / amp, names, encoders.clip.dim)
        cfg = TrainConfig(tme_batch_size=8, tme_epochs=2, tme_clip_lr=0.0, batch_size=8, num_epochs=1, lr=1e-3, ffn=32)
        log = lambda **values: losses.setdefault(amp, []).append(values["loss"])
        stages.train_tme(encoders, data, store, cfg, World(), None, log)
        model = create_model("fashionern", encoders.clip.dim, ffn=32)
        stages.train_composer(model, encoders, data, store, cfg, World(), None, None, log)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    # stage 2 skips its first step, because the scale is too large
    assert losses["fp16"] == pytest.approx(losses["off"], rel=0.05)
    assert losses["fp16"] != losses["off"]
