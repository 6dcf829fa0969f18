"What a run decides when it starts: the line with the numbers of triplets, and its precision."

from types import SimpleNamespace

import pytest
import torch
from error_sentence import sentence

from fashionern import distributed
from fashionern.training import loop
from fashionern.training.run import _sizes


class Split(SimpleNamespace):
    "All that the line needs of a dataset."

    def __len__(self) -> int:
        return self.size

    @property
    def triplets(self) -> range:
        return range(self.size)


FEW, ALL = Split(size=235, found={"queries_expected": 240}), Split(size=4800, found={})


@pytest.mark.parametrize(
    ("train", "val", "line"),
    [
        (FEW, FEW, "235 of 240 training triplets, 235 of 240 validation queries (the others have missing images)"),
        (FEW, ALL, "235 of 240 training triplets, 4,800 validation queries (the others have missing images)"),
        (ALL, ALL, "4,800 training triplets, 4,800 validation queries"),
    ],
)
def test_missing_images_are_said_once(train, val, line):
    assert _sizes(train, val) == line


@pytest.mark.parametrize("fast", [True, False])
def test_automatic_precision_asks_the_cpu_only_on_a_cpu(fast, monkeypatch):
    monkeypatch.setattr(loop, "_is_fast_in_bf16", lambda: fast)
    assert loop.amp_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else None)
    assert loop.amp_dtype("auto", torch.device("mps")) is None


@pytest.mark.parametrize(
    ("amx", "features", "fast"),
    [
        (True, {}, True),
        (False, {"avx512_bf16": True, "sse4a": True}, True),  # Zen 4
        (False, {"avx512_bf16": True}, False),  # Cooper Lake
        (False, {"sse4a": True}, False),  # Zen 3
        (False, {}, False),
    ],
)
def test_cpus_that_are_fast_in_bf16(amx, features, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert loop._is_fast_in_bf16() == fast


def test_a_gpu_that_the_machine_does_not_have(monkeypatch):
    monkeypatch.setitem(distributed._GPUS, "cuda", lambda: 1)
    assert distributed.pick_device("cuda") == distributed.pick_device("cuda:0") == torch.device("cuda:0")
    assert "--device cuda:9" in sentence(distributed.pick_device, "cuda:9")
    assert "--nproc_per_node=1" in sentence(distributed.pick_device, "cuda", 1)
