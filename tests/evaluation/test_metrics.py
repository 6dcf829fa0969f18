"Every metric of a result equals a brute-force twin, from names and scores alone: thousands of queries with ties."

import math
import random
from types import SimpleNamespace

import pytest
import torch
from numbered import Numbered

from fashionern.data.triplets import TripletDataset
from fashionern.evaluation.evaluate import HARD_NEGATIVES, evaluate
from fashionern.records import ImageFeatures, Triplet

ENCODERS = SimpleNamespace(
    clip=SimpleNamespace(device=torch.device("cpu"), dim=1, preprocess=SimpleNamespace(region_kind="crops"))
)
COLOURS, SLEEVES = ("red", "blue", "green", ""), ("long", "short", "")
LEVELS = 9  # different scores: in a gallery of 60 nearly every image ties with others


def score_of(query: int, image: int) -> int:
    return (query * 7919 + image * image * 31 + image * 17 + query * image) % LEVELS


class Tied(Numbered):
    "Scores that both sides compute from the numbers of query and image."

    name = "tied"

    def score(self, query, targets):
        rows = [[score_of(int(q) - 1, int(t) - 1) for t in targets[:, 0]] for q in query[:, 0]]
        return torch.tensor(rows, dtype=torch.float32)


def features(names: list[str]) -> ImageFeatures:
    numbers = torch.tensor([[float(name) + 1] for name in names])
    return ImageFeatures(numbers, torch.zeros(len(names), 13, 1))


def dataset(seed: int, queries: int) -> TripletDataset:
    "Two categories with galleries of their own; up to five positives, of which some are outside the gallery."
    rng = random.Random(seed)
    galleries = {"dress": list(range(60)), "shirt": list(range(60, 68))}
    attributes = {}
    for image in range(68):
        row = {"colour": rng.choice(COLOURS), "sleeve": rng.choice(SLEEVES)}
        attributes[str(image)] = {name: value for name, value in row.items() if value}
    triplets = []
    for number in range(queries):
        category = rng.choice(list(galleries))
        outside = galleries["shirt" if category == "dress" else "dress"]
        names = rng.sample([*galleries[category], *outside[:2]], rng.randint(2, 6))
        reference, *targets = map(str, names)
        changed = rng.choice([("colour",), ("sleeve",), ("colour", "sleeve"), ()])
        text = " ".join(["is"] * rng.randint(1, 25)) + f" {number}"
        family = rng.choice(["plain", "polite", ""])
        kept = {"changed": changed, "families": (family,) if family else ()}
        triplets.append(Triplet(reference, tuple(targets), (text,), category, f"q{number}", **kept))
    split_images = {category: list(map(str, images)) for category, images in galleries.items()}
    return TripletDataset("folder", "val", triplets, split_images, images=None, attributes=attributes)


def ranking(query: int, gallery: list[str], targets: set[str]) -> list[str]:
    "Best first; at equal scores, all negatives come before the first positive."
    return sorted(gallery, key=lambda name: (-score_of(query, int(name)), name in targets))


def changed(t: Triplet, rows: dict) -> set[str]:
    "The attributes that the triplet names, or in which its first target differs from its reference."
    first = rows[t.targets[0]]
    return set(t.changed) or {a for a in first if a in rows[t.reference] and rows[t.reference][a] != first[a]}


def accepted(t: Triplet, rows: dict) -> dict[str, set[str]]:
    "What the text accepts: in each changed attribute, the values of the positives."
    values = {a: {rows[name][a] for name in t.targets if a in rows[name]} for a in changed(t, rows)}
    return {a: found for a, found in values.items() if found}


def twin(t: Triplet, number: int, data: TripletDataset, masked: bool) -> dict[str, float]:
    "All metrics of one query, in per cent; no 'hard negatives' where nothing is known."
    targets = set(t.targets)
    gallery = [name for name in data.split_images[t.category] if not (masked and name == t.reference)]
    order = ranking(number, gallery, targets)
    places = [place for place, name in enumerate(order, 1) if name in targets]
    found = {"MRR": 100 / places[0] if places else 0.0}
    for k in (10, 50):
        top = [place for place in places if place <= k]
        possible = min(k, len(targets))
        ideal = sum(1 / math.log2(1 + place) for place in range(1, possible + 1))
        found[f"R@{k}"] = 100.0 * bool(top)
        found[f"P@{k}"] = 100 * len(top) / k
        found[f"mAP@{k}"] = 100 * sum((i + 1) / place for i, place in enumerate(top)) / possible
        found[f"nDCG@{k}"] = 100 * sum(1 / math.log2(1 + place) for place in top) / ideal
    wanted = accepted(t, data.attributes)
    if wanted:
        wrong = 0
        for name in order[:10]:
            row = data.attributes[name]
            wrong += any(a in row and row[a] not in values for a, values in wanted.items())
        found[HARD_NEGATIVES] = 100 * wrong / len(order[:10])
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("protocol, masked", [("table", True), ("table-unmasked", False)])
def test_a_result_is_the_mean_of_the_twins(protocol, masked):
    data = dataset(3 + masked, 2000)
    result = evaluate(Tied(), ENCODERS, data, features, [protocol])[0]
    twins = [twin(t, number, data, masked) for number, t in enumerate(data.triplets)]
    by_category = {}
    for t, found in zip(data.triplets, twins):
        by_category.setdefault(t.category, []).append(found)
    for name in (*result.metrics, "R@10", "R@50"):
        means = [mean([found[name] for found in rows if name in found]) for rows in by_category.values()]
        own = result.mean[name] if name in result.mean else result.metrics[name]
        assert own == pytest.approx(mean(means), abs=1e-9), name
    expected = {"MRR", HARD_NEGATIVES, *(f"{m}@{k}" for m in ("mAP", "nDCG", "P") for k in (10, 50))}
    assert result.metrics.keys() == expected
    assert 0 < result.metrics[HARD_NEGATIVES] < 100 and 0 < result.metrics["mAP@10"] < result.mean["R@10"]


def test_each_query_equals_its_twin():
    data = dataset(8, 1500)
    queries = {q.id: q for q in evaluate(Tied(), ENCODERS, data, features, ["table"])[0].queries}
    tied = several = 0
    for number, t in enumerate(data.triplets):
        expected = twin(t, number, data, True)
        q = queries[t.id]
        assert (100 / q.rank if expected["MRR"] else 0.0) == pytest.approx(expected["MRR"])
        assert 100 * len([place for place in q.hits if place <= 10]) / 10 == pytest.approx(expected["P@10"])
        assert q.contradiction == pytest.approx(expected.get(HARD_NEGATIVES, math.nan) / 100, nan_ok=True) or (
            q.contradiction is None and HARD_NEGATIVES not in expected
        )
        scores = [score_of(number, int(name)) for name in data.split_images[t.category]]
        tied += len(set(scores)) < len(scores)
        several += len(t.targets) > 1
    assert tied > 1000 and several > 1000, "the cases must have ties and several positives"


def test_groups_are_means_over_their_queries():
    data = dataset(5, 1500)
    result = evaluate(Tied(), ENCODERS, data, features, ["table"])[0]
    twins = [twin(t, number, data, True) for number, t in enumerate(data.triplets)]
    groups = {
        "by_change": lambda t: changed(t, data.attributes),
        "by_family": lambda t: t.families,
    }
    for field, groups_of in groups.items():
        found = getattr(result, field)
        assert len(found) > 1
        for group, figures in found.items():
            hits = [rows["R@10"] for t, rows in zip(data.triplets, twins) if group in groups_of(t)]
            assert figures == {"queries": len(hits), "R@10": pytest.approx(mean(hits))}, (field, group)
    words = {t.id: len(t.captions[0].split()) for t in data.triplets}
    short = [rows["R@10"] for t, rows in zip(data.triplets, twins) if words[t.id] <= 3]
    assert result.by_length["1 to 3 words"] == {"queries": len(short), "R@10": pytest.approx(mean(short))}
