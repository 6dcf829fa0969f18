"""Run by `torchrun` in test_train.py: with the negatives of all ranks, two ranks × B against one rank × 2B.

Argument: the JSON file to write, case → [difference of the losses, largest difference of a gradient, and of what a step leaves in a buffer].
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
D, L, N = 32, 9, 8  # N: triplets of both ranks together


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, D), dim=-1)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def without_dropout(module: nn.Module) -> nn.Module:
    "In training, but nothing is dropped."
    for part in module.train().modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return module


def apart(make, loss_of, batch: tuple, ranks: World) -> list[float]:
    "Of loss, gradients and buffers, between this rank's share under DDP and the whole batch alone; `make(world)` is the module."
    alone, shared = without_dropout(make(World())), without_dropout(make(ranks))
    mine = slice(ranks.rank * N // 2, (ranks.rank + 1) * N // 2)
    whole = loss_of(alone, batch, World())
    whole.backward()
    parallel = DistributedDataParallel(shared)  # must live until the backward pass has gone through it
    part = loss_of(parallel, [x[mine] for x in batch], ranks)
    part.backward()
    ours, theirs = gradients(shared), gradients(alone)
    assert ours.keys() == theirs.keys() and any(g.abs().max() > 1e-4 for g in theirs.values())
    kept = [(a.double() - b.double()).abs()[a != b].max().item() for a, b in zip(shared.buffers(), alone.buffers()) if not torch.equal(a, b)]
    return [abs(ranks.mean(part.item()) - whole.item()), max((ours[n] - theirs[n]).abs().max().item() for n in theirs), max(kept, default=0.0)]


def stage_two(ranks: World, model: str, loss: str) -> list[float]:
    def make(of: World) -> nn.Module:
        torch.manual_seed(0)
        return StageTwo(create_model(model, D, ffn=64), create_loss(loss, D, scale=10.0), of, gather=True)

    mask = torch.arange(L) < 3 + torch.arange(N)[:, None] % (L - 3)
    batch = ImageFeatures(unit(N), unit(N, CROPS)), TextFeatures(unit(N), unit(N, L), mask), ImageFeatures(unit(N), unit(N, CROPS))
    return apart(make, lambda m, b, _: m(*b), batch, ranks)


def stage_one(ranks: World, chunk: int) -> list[float]:
    torch.manual_seed(0)
    clip = create_clip(TINY)

    def make(of: World) -> nn.Module:
        encoders = Encoders(clip, TME(clip))
        for branches in encoders.tme.branches.values():
            branches.gate_inject.data.fill_(0.3), branches.gate_align.data.fill_(0.3)
        return StageOne(encoders, chunk)

    clip.requires_grad_(False)
    crops = F.normalize(torch.randn(N, CROPS, clip.dim), dim=-1)
    tokens = clip.tokenize([f"is {colour} and longer" for colour in ["red", "green", "blue", "black", "white", "pink", "grey", "brown"]])
    batch = tokens, crops, crops[:, 0], crops[:, 1]
    return apart(make, lambda m, b, of: stage_one_loss(*m(*b), 0.5, of, scale=10.0), batch, ranks)


if __name__ == "__main__":
    with world("cpu") as ranks:
        torch.manual_seed(1)
        found = {f"stage 1, chunk {chunk}": stage_one(ranks, chunk) for chunk in (0, 3)}
        found |= {f"fashionern, {loss}": stage_two(ranks, "fashionern", loss) for loss in list_losses()}
        found |= {f"{model}, batch-classification": stage_two(ranks, model, "batch-classification") for model in MODELS}
        if ranks.main:
            write_json(Path(sys.argv[1]), found)
