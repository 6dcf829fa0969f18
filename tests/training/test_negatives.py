"Hard negatives and false negatives in stage 2: in a step by hand, in a run on drawn garments, and what is refused."

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fashionern.data.datasets.factory import create_dataset
from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.errors import ErnError
from fashionern.models.registry import create_model
from fashionern.records import CROPS, ImageFeatures, TextFeatures
from fashionern.training.config import get_preset
from fashionern.training.losses import create_loss
from fashionern.training.negatives import Negatives, find_negatives, positive_images
from fashionern.training.run import train
from fashionern.training.stages import StageTwo

D = 8


@pytest.fixture(scope="module")
def garments(tmp_path_factory):
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 12, 12, 12, 16, 6, 4, size=32, workers=1)
    return root


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, D), dim=-1)


def features(n: int) -> ImageFeatures:
    return ImageFeatures(unit(n), unit(n, CROPS))


def test_a_step_compares_with_hard_negatives_and_without_other_positives():
    "Three triplets; the first two share a target; one hard negative each, and the first's is right for the third."
    torch.manual_seed(0)
    model = create_model("sum", D)
    reference, target, hard = features(3), features(3), features(3)
    text = TextFeatures(unit(3), unit(3, 4), torch.ones(3, 4, dtype=torch.bool))
    positives = [torch.tensor([1]), torch.tensor([1]), torch.tensor([2, 7])]
    negatives = Negatives(torch.tensor([1, 1, 2]), positives, torch.tensor([[7], [8], [9]]))
    step = StageTwo(model, create_loss("batch-classification", D, scale=10.0), negatives=negatives)
    loss = step(reference, text, target, None, None, torch.arange(3), hard).item()
    query, embedding = model(reference, text, target)
    scores = (10 * query @ torch.cat([embedding, model.encode_target(hard)]).T).tolist()
    compared = {0: [0, 2, 3, 4, 5], 1: [1, 2, 3, 4, 5], 2: [2, 0, 1, 4, 5]}  # own target first
    by_hand = 0.0
    for row, columns in compared.items():
        total = sum(math.exp(scores[row][column]) for column in columns)
        by_hand -= math.log(math.exp(scores[row][columns[0]]) / total) / 3
    assert loss == pytest.approx(by_hand, rel=1e-5)
    plain = StageTwo(model, create_loss("batch-classification", D, scale=10.0))(reference, text, target).item()
    assert plain != pytest.approx(loss, rel=1e-3), "without the setting, all other targets are negatives"


def test_hard_negatives_of_garments_differ_in_what_was_asked(garments):
    data = create_dataset("fashioniq", garments, "train")
    names = data.all_images()
    embeddings = F.normalize(torch.randn(len(names), D, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = find_negatives(data, torch.arange(len(names)), embeddings, 4)
    row = {name: i for i, name in enumerate(names)}
    checked = 0
    for number, triplet in enumerate(data.triplets):
        before, after = (data.attributes[name] for name in (triplet.reference, triplet.target))
        asked = triplet.changed or [a for a in after if a in before and before[a] != after[a]]
        for place in found.hard[number].tolist():
            if place == row[triplet.target]:
                continue  # fewer than four images differ
            image = data.attributes[names[place]]
            assert any(a in image and image[a] != after[a] for a in asked if a in after)
            checked += 1
        similar = embeddings @ embeddings[row[triplet.target]]
        nearest = [similar[place].item() for place in found.hard[number].tolist() if place != row[triplet.target]]
        assert nearest == sorted(nearest, reverse=True)
        differ = [
            similar[row[name]].item()
            for name in names
            if any(a in data.attributes[name] and data.attributes[name][a] != after[a] for a in asked if a in after)
        ]
        assert nearest == pytest.approx(sorted(differ, reverse=True)[:4])
    assert checked > 50
    for triplet, positives in zip(data.triplets, positive_images(data)):
        equal = {n for n in names if data.attributes.get(n) == data.attributes[triplet.target]}
        assert set(positives) == equal | set(triplet.targets)


@pytest.mark.parametrize("flags", [{"mask_positives": True}, {"hard_negatives": 3}])
def test_a_run_with_the_setting_learns_something_else(garments, flags, tmp_path):
    short = {"stages": ("dvr",), "model": "combiner", "compare": (), "num_epochs": 1, "batch_size": 16}
    short |= {"num_workers": 0, "device": "cpu", "request_weight": 0.0, "features_dir": tmp_path / "features"}
    cfg = replace(get_preset("demo"), root=garments, **short)
    losses = []
    for name, changes in (("plain", {}), ("other", flags), ("again", flags)):
        train(replace(cfg, run_dir=tmp_path / name, **changes))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses += [line.split('"loss": ')[1].split(",")[0] for line in lines if '"loss"' in line]
    plain, other, again = losses
    assert plain != other == again


def test_what_cannot_be_done_is_refused(garments, tmp_path):
    cfg = replace(get_preset("demo"), root=garments, stages=("dvr",), run_dir=tmp_path / "run", device="cpu")
    cfg = replace(cfg, model="combiner", compare=(), num_workers=0)
    with pytest.raises(ErnError, match="do not work with --loss cyclip. Give one of batch-classification"):
        train(replace(cfg, loss="cyclip", hard_negatives=2))
    with pytest.raises(ErnError, match="--hard-negatives -1 must not be negative"):
        replace(cfg, hard_negatives=-1)
    data = replace(create_dataset("fashioniq", garments, "train"), attributes={})
    with pytest.raises(ErnError, match="needs to know the attributes.*or give --hard-negatives 0"):
        find_negatives(data, torch.arange(len(data.all_images())), torch.empty(0, D), 2)
