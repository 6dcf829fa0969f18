"Every protocol against a twin that ranks names, one query at a time, on thousands of random cases full of ties."

import random
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from fashionern.data.images import ImageFinder
from fashionern.data.triplets import TripletDataset
from fashionern.errors import ErnError
from fashionern.evaluation.evaluate import evaluate
from fashionern.evaluation.metrics import LOST
from fashionern.evaluation.protocols import PROTOCOLS
from fashionern.evaluation.tables import what_was_ranked
from fashionern.records import ImageFeatures, Triplet

# name → (gallery: all images or those named by triplets, reference masked, one query per caption, ks, subset ks, mean of), written out
# here from the protocols' descriptions, so that a wrong row of the table is noticed too
RULES = {
    "fashioniq-original": ("all", False, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-original-masked": ("all", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val": ("named", False, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val-masked": ("named", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val-single": ("named", False, True, (1, 10, 50), (), ("R@10", "R@50")),
    "shoes": ("all", False, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "shoes-masked": ("all", True, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "fashion200k": ("all", True, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "fashion200k-unmasked": ("all", False, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "cirr": ("all", True, False, (1, 5, 10, 50), (1, 2, 3), ("R@5", "Rs@1")),
    "table": ("all", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "table-unmasked": ("all", False, False, (1, 10, 50), (), ("R@10", "R@50")),
}
ENCODERS = SimpleNamespace(clip=SimpleNamespace(device=torch.device("cpu"), dim=3))

VECTORS = [list(v) for v in product(range(3), repeat=3) if any(v)]  # a vector of zeros is refused


class Lookup(torch.nn.Module):
    "Small whole numbers, looked up by sentence and by image: scores are exact and tie often."

    name = "lookup"

    def __init__(self, sentences: dict[str, list[int]]):
        super().__init__()
        self.sentences = sentences

    def encode_text(self, encoders, sentences, reference):
        return torch.tensor([self.sentences[s] for s in sentences], dtype=torch.float32)

    def encode_query(self, reference, words):
        return words

    def encode_target(self, images):
        return images.embedding

    def score(self, query, targets):
        return query @ targets.T


def random_dataset(rng: random.Random, protocol: str) -> tuple[TripletDataset, dict, dict]:
    "A dataset with two categories, its image vectors and its sentence vectors."
    dataset = PROTOCOLS[protocol].dataset
    vector = lambda: rng.choice(VECTORS)
    categories = ("dress", "shirt") if dataset == "fashioniq" else ("all",)
    split_images, triplets, sentences = {}, [], {}
    for category in categories:
        names = [f"{category}{i}" for i in range(rng.randint(8, 70))]
        split_images[category] = names
        for i in range(rng.randint(3, 9)):
            members = tuple(rng.sample(names, 6)) if dataset == "cirr" else ()
            reference, target = rng.sample(members or names, 2)
            others = rng.sample(names, rng.randint(1, 4)) if dataset in ("fashion200k", "folder") else []
            captions = tuple(f"S{category}{i}x{k}" for k in range(2 if dataset == "fashioniq" else 1))
            sentences |= {c: vector() for c in (*captions, " and ".join(captions))}
            targets = tuple(dict.fromkeys([target, *others]))
            triplets.append(Triplet(reference, targets, captions, category, f"{category}-{i}", members))
    rng.shuffle(triplets)
    images = {n: vector() for names in split_images.values() for n in names}
    return TripletDataset(dataset, "val", triplets, split_images, ImageFinder()), images, sentences


def order_of(names, scores, targets) -> list[str]:
    "Best first; a wrong image before a right one where they tie; then the gallery's order."
    return [n for _, _, _, n in sorted((-scores[n], n in targets, i, n) for i, n in enumerate(names))]


def by_hand(data, images, sentences, rule) -> list[dict]:
    "Every query ranked by name: category by category, in the order of the triplets."
    gallery_rule, masked, single, *_ = rule
    ranked = []
    for category, everything in data.split_images.items():
        mine = [t for t in data.triplets if t.category == category]
        named = [n for t in mine for n in (t.reference, *t.targets)]
        gallery = everything if gallery_rule == "all" else list(dict.fromkeys(named))
        for t in mine:
            for sentence in t.captions if single else [" and ".join(t.captions)]:
                scores = {n: sum(a * b for a, b in zip(sentences[sentence], images[n])) for n in everything}
                order = order_of([n for n in gallery if not (masked and n == t.reference)], scores, t.targets)
                group = order_of([m for m in t.members if m != t.reference], scores, t.targets)
                ranked.append({
                    "category": category, "order": order, "group": group, "scores": scores,
                    "rank": next((i for i, n in enumerate(order, 1) if n in t.targets), LOST),
                    "reference": (scores[t.reference], max(scores[n] for n in gallery), max(scores[n] for n in t.targets)),
                    "subset_rank": next((i for i, n in enumerate(group, 1) if n in t.targets), LOST),
                })  # fmt: skip
    return ranked


def share(ranked, key, k) -> float:
    return 100 * sum(r[key] <= k for r in ranked) / len(ranked)


def share_of(ranked, holds) -> float:
    "Share of the queries for which something holds of the scores of reference, best image and best right image."
    return 100 * sum(holds(*r["reference"]) for r in ranked) / len(ranked)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_equals_its_twin(protocol):
    rng, cases, ties, several, masked_answers = random.Random(protocol), 0, 0, 0, 0
    gallery_rule, masked, single, ks, subset_ks, mean_of = rule = RULES[protocol]
    for _ in range(250):
        data, images, sentences = random_dataset(rng, protocol)
        top = rng.choice([1, 5, 100])
        features = lambda names: ImageFeatures(torch.tensor([images[n] for n in names], dtype=torch.float32), torch.zeros(len(names), 13, 3))
        result = evaluate(Lookup(sentences), ENCODERS, data, features, [protocol], top=top)[0]
        slow = by_hand(data, images, sentences, rule)
        for q, twin in zip(result.queries, slow, strict=True):
            assert q.category == twin["category"] and q.rank == twin["rank"], (q, twin)
            assert [n for n, _ in q.top] == twin["order"][:top] and [s for _, s in q.top] == [twin["scores"][n] for n in twin["order"][:top]]
            if subset_ks:
                assert q.subset_rank == twin["subset_rank"] and list(q.subset) == twin["group"] and len(twin["group"]) == 5
            ties += len(set(twin["scores"].values())) < len(twin["scores"])
            several += len(q.targets) > 1
            masked_answers += masked and q.reference in q.targets
        cases += len(slow)
        for category in data.split_images:
            mine = [r for r in slow if r["category"] == category]
            wanted = {f"R@{k}": share(mine, "rank", k) for k in ks} | {f"Rs@{k}": share(mine, "subset_rank", k) for k in subset_ks}
            assert result.recalls[category] == pytest.approx(wanted)
        ours = {"nearest": share_of(slow, lambda own, most, best: own >= most), "outranks": share_of(slow, lambda own, most, best: own >= best),
                "margin": sum(own - best for own, _, best in (r["reference"] for r in slow)) / len(slow)}  # fmt: skip
        assert result.dominance == pytest.approx(ours)
        means = {k: sum(r[k] for r in result.recalls.values()) / len(result.recalls) for k in result.recalls[category]}
        assert result.mean == pytest.approx(means | {"mean": sum(means[k] for k in mean_of) / len(mean_of)})
    assert cases > 1000 and ties > 0.9 * cases, (cases, ties)
    if PROTOCOLS[protocol].dataset in ("fashion200k", "folder"):
        assert several > cases / 2 and (masked_answers > 10) == masked


def test_every_protocol_is_written_out_here():
    assert set(RULES) == set(PROTOCOLS)


def of_one_query(target: str, query: list[float]):
    "The result of a gallery of two equal images."
    data = TripletDataset("shoes", "val", [Triplet("a", (target,), ("S",), id="q")], {"all": ["a", "b"]}, ImageFinder())
    features = lambda names: ImageFeatures(torch.ones(len(names), 3), torch.zeros(len(names), 13, 3))
    return evaluate(Lookup({"S": query}), ENCODERS, data, features, ["shoes"])[0]


def test_a_query_whose_answer_is_nowhere_is_never_found():
    "The gallery is smaller than k: a rank of its size plus one would have counted as found."
    result = of_one_query("gone", [1, 1, 1])
    assert result.queries[0].rank == LOST and result.mean["R@50"] == 0
    assert result.found["lost"] == 1 and "1 queries have no right image" in what_was_ranked(result)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
def test_a_query_without_direction_stops_the_evaluation(number):
    with pytest.raises(ErnError, match="1 of 1 query rows, such as 'q'"):
        of_one_query("b", [number] * 3)


def test_more_queries_than_fit_into_one_block():
    "The ranking goes by blocks of 1,024 queries: recalls and dominance of 2,500 are those of all, not of the last block."
    names = [f"i{n}" for n in range(40)]
    rng = random.Random(7)
    images, sentences = {n: rng.choice(VECTORS) for n in names}, {}
    triplets = []
    for i in range(2500):
        sentences[f"S{i}"] = rng.choice(VECTORS) if i < 1500 else [1, 1, 1]
        reference, target = rng.sample(names, 2)
        triplets.append(Triplet(reference, (target,), (f"S{i}",), id=str(i)))
    data = TripletDataset("shoes", "val", triplets, {"all": names}, ImageFinder())
    features = lambda asked: ImageFeatures(torch.tensor([images[n] for n in asked], dtype=torch.float32), torch.zeros(len(asked), 13, 3))
    result = evaluate(Lookup(sentences), ENCODERS, data, features, ["shoes"])[0]
    slow = by_hand(data, images, sentences, RULES["shoes"])
    assert [q.rank for q in result.queries] == [r["rank"] for r in slow]
    assert result.dominance["outranks"] == pytest.approx(share_of(slow, lambda own, most, best: own >= best))
    assert result.dominance["nearest"] == pytest.approx(share_of(slow, lambda own, most, best: own >= most))
