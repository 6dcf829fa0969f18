"""Run by `torchrun` in test_train.py: with the negatives of all ranks, two ranks of B against one rank of 2B triplets.

Argument: the JSON file to write, case → [difference of the losses, largest difference of a gradient, of a buffer].
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fashionern.distributed import World, world
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import TME, Encoders
from fashionern.files import write_json
from fashionern.models.registry import create_model
from fashionern.records import CROPS, ImageFeatures, TextFeatures
from fashionern.training.losses import create_loss, list_losses
from fashionern.training.stages import StageOne, StageTwo, stage_one_loss

MODELS = ("combiner", "artemis", "fashionern@norm=layer", "fashionern@ask=words,mask_padding=true")
D = 32
L = 9
N = 8  # triplets of both ranks together


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, D), dim=-1)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def without_dropout(module: nn.Module) -> nn.Module:
    "The module in training mode, with all dropout probabilities zero."
    for part in module.train().modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module


def differences(make, loss_of, batch: tuple, ranks: World) -> list[float]:
    "Of loss, gradients and buffers, between this rank's share under DDP and the full batch in one process."
    alone = without_dropout(make(World()))
    shared = without_dropout(make(ranks))
    mine = slice(ranks.rank * N // 2, (ranks.rank + 1) * N // 2)
    full = loss_of(alone, batch, World())
    full.backward()
    parallel = DistributedDataParallel(shared)  # must exist until the backward pass is done
    part = loss_of(parallel, [x[mine] for x in batch], ranks)
    part.backward()
    actual = gradients(shared)
    expected = gradients(alone)
    assert actual.keys() == expected.keys() and any(g.abs().max() > 1e-4 for g in expected.values())
    buffers = [0.0]
    for a, b in zip(shared.buffers(), alone.buffers()):
        if not torch.equal(a, b):
            buffers.append((a.double() - b.double()).abs()[a != b].max().item())
    largest = max((actual[name] - expected[name]).abs().max().item() for name in expected)
    return [abs(ranks.mean(part.item()) - full.item()), largest, max(buffers)]


def stage_two(ranks: World, model: str, loss: str) -> list[float]:
    def make(of: World) -> nn.Module:
        torch.manual_seed(0)
        options = {"gather": True, "request_weight": 0.1}  # at scale 30, rounding is three times that of the other loss
        return StageTwo(create_model(model, D, ffn=64), create_loss(loss, D, scale=10.0), of, **options)

    mask = torch.arange(L) < 3 + torch.arange(N)[:, None] % (L - 3)
    reference = ImageFeatures(unit(N), unit(N, CROPS))
    text = TextFeatures(unit(N), unit(N, L), mask)
    target = ImageFeatures(unit(N), unit(N, CROPS))
    before, after = torch.randint(2, (2, N, 3)).float()
    batch = (reference, text, target, before, after)
    return differences(make, lambda module, batch, _: module(*batch), batch, ranks)


def stage_one(ranks: World, chunk: int) -> list[float]:
    torch.manual_seed(0)
    clip = create_clip(TINY)

    def make(of: World) -> nn.Module:
        encoders = Encoders(clip, TME(clip))
        for branches in encoders.tme.branches.values():
            branches.gate_inject.data.fill_(0.3)
            branches.gate_align.data.fill_(0.3)
        return StageOne(encoders, chunk)

    clip.requires_grad_(False)
    local = F.normalize(torch.randn(N, CROPS, clip.dim), dim=-1)
    colours = ["red", "green", "blue", "black", "white", "pink", "grey", "brown"]
    tokens = clip.tokenize([f"is {colour} and longer" for colour in colours])
    loss_of = lambda module, batch, of: stage_one_loss(*module(*batch), 0.5, of, scale=10.0)
    return differences(make, loss_of, (tokens, local, local[:, 0], local[:, 1]), ranks)


if __name__ == "__main__":
    with world("cpu") as ranks:
        torch.manual_seed(1)
        cases = {f"stage 1, chunk {chunk}": stage_one(ranks, chunk) for chunk in (0, 3)}
        for loss in list_losses():
            cases[f"fashionern, {loss}"] = stage_two(ranks, "fashionern", loss)
        for model in MODELS:
            cases[f"{model}, batch-classification"] = stage_two(ranks, model, "batch-classification")
        if ranks.main:
            write_json(Path(sys.argv[1]), cases)
