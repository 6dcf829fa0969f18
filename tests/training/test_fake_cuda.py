"""Training, extraction and evaluation on a GPU, run on a machine without one: see `pretended_gpu`.

A training step must not make the CPU wait for the GPU, and no batch may be copied from memory that is not pinned.
"""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended_gpu import GPU, GpuFault, PretendedGpu, backward
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fashionern import distributed
from fashionern.benchmark.inputs import WORDS, drawn_images, random_store, random_triplets
from fashionern.data.images import ImageFinder
from fashionern.data.triplets import Statement, TripletDataset
from fashionern.distributed import World
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import FeatureStore, extract_features
from fashionern.encoders.tme import TME, Encoders, TmeSettings
from fashionern.evaluation.evaluate import TextMemo, evaluate
from fashionern.models.registry import create_model, list_models
from fashionern.training import loop, stages
from fashionern.training.config import TrainConfig
from fashionern.training.loop import FitOptions, Schedule, fit
from fashionern.training.losses import create_loss, list_losses
from fashionern.training.warmup import warm_up

ON_GPU = World(device=GPU)
NAMES = [f"{i:05}" for i in range(12)]
SETTINGS = {"ffn": 32, "batch_size": 16, "tme_batch_size": 16, "warmup_batch_size": 12, "num_epochs": 1}
SETTINGS |= {"tme_epochs": 1, "warmup_epochs": 1, "num_workers": 0, "eval_every": 0}
SETTINGS |= {"clip_model_name": TINY, "device": "cuda"}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    "A folder of drawn garments."
    folder = tmp_path_factory.mktemp("images")
    assert [path.stem for path in drawn_images(folder, len(NAMES), 64, "png")] == NAMES
    return folder


@pytest.fixture(scope="module")
def triplets(images) -> TripletDataset:
    "16 triplets of these images."
    data = random_triplets(16, NAMES)
    data.images = ImageFinder(images)
    data.descriptions = {name: [f"a {WORDS[i % 8]} dress"] for i, name in enumerate(NAMES)}
    return data


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    return random_store(tmp_path_factory.mktemp("store") / "store", NAMES, create_clip(TINY).dim)


@pytest.fixture
def gpu(monkeypatch):
    "A pretended GPU on which an epoch's steps are checked; losses, logs and saved states may wait for it."
    with PretendedGpu() as gpu:
        train_epoch = loop._train_epoch

        def strictly(*args) -> None:
            with gpu.strict():
                train_epoch(*args)

        monkeypatch.setattr(loop, "_train_epoch", strictly)
        for name in ("check_losses", "check_weights", "save"):
            monkeypatch.setattr(loop.TrainingState, name, gpu.allowed(getattr(loop.TrainingState, name)))
        yield gpu


def encoders_on_gpu(tme: bool = True, **settings) -> Encoders:
    clip = create_clip(TINY, device=GPU)
    return Encoders(clip, TME(clip, TmeSettings(**settings)).to(GPU) if tme else None).eval().requires_grad_(False)


@functools.cache
def frozen_encoders() -> Encoders:
    return encoders_on_gpu()


def config(**more) -> TrainConfig:
    return TrainConfig(**{**SETTINGS, "amp": "off", **more})


def train_composer(name: str, triplets: TripletDataset, store: FeatureStore, folder: Path | None = None, **more):
    "Two steps of stage 2."
    cfg = config(**more)
    encoders = frozen_encoders()
    model = create_model(name, encoders.clip.dim, ffn=32).to(GPU)
    stages.train_composer(model, encoders, triplets, store, cfg, ON_GPU, None, folder, lambda **_: None)
    return model


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", [n for n in list_models() if not create_model(n, 8, ffn=8).composer.zero_shot])
def test_every_model_trains_without_waiting(gpu, triplets, store, name):
    model = train_composer(name, triplets, store, text_cache_gb=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.device == GPU for p in model.parameters())
    assert not trained or gradients(model)


@pytest.mark.parametrize("name", list_losses())
def test_every_loss(gpu, triplets, store, name):
    assert gradients(train_composer("combiner", triplets, store, loss=name))


@pytest.mark.parametrize("amp", ["auto", "fp16"])
def test_mixed_precision_keeps_weights_and_gradients_in_float32(gpu, triplets, store, amp, monkeypatch):
    # the gradient scaler reads whether a gradient has overflowed, once per step
    scaler_step = gpu.allowed(torch.amp.GradScaler._maybe_opt_step)
    monkeypatch.setattr(torch.amp.GradScaler, "_maybe_opt_step", scaler_step)
    statements = [Statement(("red",), tuple(NAMES[::2])), Statement(("striped",), tuple(NAMES[::3]))]
    told = replace(triplets, statements=statements)
    model = train_composer("fashionern", told, store, amp=amp, request_weight=1.0)
    assert {g.dtype for g in gradients(model)} == {torch.float32}


@pytest.mark.parametrize("free", [0, 2**40])
def test_features_that_fit_stay_on_the_gpu_and_others_are_pinned(gpu, triplets, store, free, request):
    gpu.free_memory = free
    request.addfinalizer(lambda: setattr(store, "resident", None))
    train_composer("sum", triplets, store)
    assert store.resident is None, "a model without weights reads no features"
    train_composer("combiner", triplets, store)
    assert (store.resident is not None) == (free > 0)
    batches = {tuple(x.shape) for x in gpu.pinned.values()}
    assert ((16, 13, store.dim) in batches) == (free == 0)


STAGE_ONE = {
    "live views": {"tme_clip_lr": 1e-4, "amp": "bf16"},
    "chunks": {"tme_clip_lr": 1e-4, "tme_chunk": 8, "grad_checkpointing": True},
    "text tower": {"tme_clip_lr": 1e-4, "tme_tunes": "text", "tme_dropout": 0.1},
    "frozen CLIP": {"tme_clip_lr": 0.0, "tme_gate": "channel", "tme_ffn": "shared"},
}


@pytest.mark.parametrize("flags", STAGE_ONE.values(), ids=STAGE_ONE)
def test_stage_1_trains_without_waiting(gpu, triplets, store, flags):
    encoders = encoders_on_gpu(tme=False)
    weight = encoders.clip.model.visual.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    stages.train_tme(encoders, triplets, store, config(**flags), ON_GPU, None, lambda **_: None)
    assert gradients(encoders.tme)
    assert bool(gradients(encoders.clip)) == (flags["tme_clip_lr"] > 0)
    assert bool(gradients(encoders.clip.model.visual)) == ("text" not in flags.values() and flags["tme_clip_lr"] > 0)


@pytest.mark.parametrize("tunes", ["both", "text"])
def test_the_warm_up_trains_without_waiting(gpu, triplets, store, tunes):
    clip = create_clip(TINY, device=GPU)
    data = replace(triplets, statements=[Statement((f"it is {WORDS[0]}",), tuple(NAMES[:6]))])
    warm_up(clip, data, config(warmup_tunes=tunes), ON_GPU, None, lambda **_: None, lambda: store)
    assert gradients(clip)


def resumed(triplets: TripletDataset, store: FeatureStore, folder: Path) -> None:
    "Stage 1 with one step before it is stopped, and one after it is resumed."
    for epochs, again in ((1, False), (2, True)):
        cfg = config(tme_clip_lr=0.0, tme_batch_size=16, tme_epochs=epochs, resume=again)
        stages.train_tme(encoders_on_gpu(tme=False), triplets, store, cfg, ON_GPU, folder, lambda **_: None)


def test_a_resumed_training_reads_no_scalar_gate_from_the_gpu(gpu, triplets, store, tmp_path):
    resumed(triplets, store, tmp_path)


def test_losses_are_read_ten_at_a_time(gpu):
    net = nn.Linear(4, 1).to(GPU)
    batch = torch.ones(3, 4, device=GPU)
    options = FitOptions("test", 25, Schedule(1, 0.1))
    fit(net, lambda epoch, first: [batch] * 25, lambda module, x: module(x).sum(), options, ON_GPU)
    copies = gpu.counts["synchronisation: copy to the CPU"]
    assert copies == 3, "ten, ten and five losses"
    reads = gpu.counts["synchronisation: item, int, float or bool of a tensor"]
    assert reads == 2, "whether the weights are finite, and the mean loss of the epoch"


def test_ranks_share_their_targets_and_their_batch_statistics(gpu, triplets, store, monkeypatch):
    monkeypatch.setattr(distributed._Gather, "apply", lambda x: torch.cat([x, x.detach()]))
    monkeypatch.setattr(distributed._Sum, "apply", lambda x: x + x.detach())
    world = World(1, 2, GPU)
    encoders = frozen_encoders()
    model = create_model("dvr", encoders.clip.dim, ffn=32).to(GPU)
    step = stages.StageTwo(model, create_loss("batch-classification", encoders.clip.dim), world, gather=True)
    batches = stages._StageTwoBatches(model, encoders, triplets, store, config(batch_size=16), world, {})
    with gpu.strict():
        for batch in batches.epoch(0, 0):
            step(*batch).backward()
    assert gradients(model)


@pytest.mark.parametrize("regions", ["crops", "grid"])
def test_extraction_copies_pinned_views_and_waits_only_to_store_features(gpu, images, tmp_path, regions):
    clip = create_clip(TINY, device=GPU, regions=regions)
    extracted = extract_features(clip, ImageFinder(images), NAMES, tmp_path, 4, 0, ON_GPU, "bfloat16", torch.bfloat16)
    assert len(extracted) == len(NAMES) and (extracted.sums > 0).all()
    assert not [what for what in gpu.counts if "uint8" in what or "index" in what]


def test_evaluation_under_every_kind_of_protocol(gpu, triplets, store):
    encoders = frozen_encoders()
    model = create_model("fashionern", encoders.clip.dim, ffn=32).to(GPU)
    members = [replace(t, members=tuple(NAMES[:6])) for t in triplets.triplets]
    data = replace(triplets, name="cirr", triplets=members)
    for view, protocols in ((triplets, ["fashioniq-original-masked", "fashioniq-val-single"]), (data, ["cirr"])):
        results = evaluate(model, encoders, view, store.__getitem__, protocols, top=3, texts=TextMemo())
        assert all(len(result.queries) >= len(triplets) for result in results)


class _WithMistake(nn.Module):
    "A model with a planted mistake."

    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.mistake(self.layer(x)).sum()


class _Reading(torch.autograd.Function):
    "Reads a gradient in the backward pass."

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad * float(grad.sum())


MISTAKES = {
    "item": (lambda y: y * y.sum().item(), "synchronisation: item"),
    "int": (lambda y: y[: int(y.detach().argmax())], "synchronisation: item"),
    "bool": (lambda y: y if y.mean() > 0 else -y, "synchronisation: item"),
    "tolist": (lambda y: y * sum(y.mean(1).tolist()), "synchronisation: copy to the CPU"),
    "cpu": (lambda y: y * y.detach().cpu().mean().to(GPU), "synchronisation: copy to the CPU"),
    "nonzero": (lambda y: y[y.detach()[:, 0].nonzero()[:, 0]], "synchronisation: nonzero"),
    "mask": (lambda y: y[y.detach()[:, 0] > 0], "synchronisation: index with a mask"),
    "constant": (lambda y: y * torch.tensor([1.0, 2.0, 3.0, 4.0], device=GPU), "copy from unpinned memory"),
    "index on the CPU": (lambda y: y[torch.arange(2)], "copy from unpinned memory: index on the CPU"),
    "another device": (lambda y: y + torch.ones(4), "a tensor on cpu among tensors on cuda"),
    "backward": (_Reading.apply, "synchronisation: item"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_check_finds_a_planted_mistake(gpu, name):
    mistake, message = MISTAKES[name]
    options = FitOptions("test", 1, Schedule(1, 0.1))
    batches = lambda epoch, first: [torch.ones(3, 4).pin_memory().to(GPU, non_blocking=True)]
    arguments = (batches, lambda module, x: module(x), options, ON_GPU)
    fit(_WithMistake(lambda y: y).to(GPU), *arguments)
    with pytest.raises(GpuFault, match=message):
        fit(_WithMistake(mistake).to(GPU), *arguments)


@pytest.mark.parametrize("pinned", [False, True])
def test_the_check_finds_a_batch_that_is_not_pinned_or_that_is_waited_for(gpu, pinned):
    batch = torch.ones(3, 4).pin_memory() if pinned else torch.ones(3, 4)
    options = FitOptions("test", 1, Schedule(1, 0.1))
    batches = lambda epoch, first: (x.to(GPU, non_blocking=not pinned) for x in [batch])
    with pytest.raises(GpuFault, match="without non_blocking" if pinned else "unpinned"):
        fit(nn.Linear(4, 1).to(GPU), batches, lambda module, x: module(x).sum(), options, ON_GPU)


def test_the_engine_in_python_computes_the_gradients_of_autograd():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))
    x = torch.randn(5, 4)
    loss = lambda: (net(x) * net(2 * x)[:1]).logsumexp(1).sum() + checkpoint(net, x, use_reentrant=False).sum()
    loss().backward()
    expected = gradients(net)
    net.zero_grad(set_to_none=True)
    backward(loss())
    for grad, other in zip(gradients(net), expected, strict=True):
        assert torch.allclose(grad, other, atol=1e-6)
