"Every protocol against a twin that ranks names, one query at a time, on thousands of random cases full of ties."

import math
import random
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from fashionern.data.images import ImageFinder
from fashionern.data.triplets import TripletDataset
from fashionern.errors import ErnError
from fashionern.evaluation.evaluate import TextMemo, evaluate
from fashionern.evaluation.metrics import NOT_RANKED
from fashionern.evaluation.protocols import PROTOCOLS
from fashionern.evaluation.tables import coverage_report
from fashionern.records import ImageFeatures, TextFeatures, Triplet

# name → (gallery: all images or those named by triplets, reference masked, one query per caption, ks, subset ks,
# recalls of the mean), written out from the protocols' descriptions, so that a wrong row of the registry is noticed
RULES = {
    "fashioniq-original": ("all", False, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-original-masked": ("all", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val": ("named", False, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val-masked": ("named", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "fashioniq-val-single": ("named", True, True, (1, 10, 50), (), ("R@10", "R@50")),
    "shoes": ("all", False, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "shoes-masked": ("all", True, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "fashion200k": ("all", True, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "fashion200k-unmasked": ("all", False, False, (1, 10, 50), (), ("R@1", "R@10", "R@50")),
    "cirr": ("all", True, False, (1, 5, 10, 50), (1, 2, 3), ("R@5", "Rs@1")),
    "circo": ("all", False, False, (5, 10, 25, 50), (), ("mAP@5", "mAP@10", "mAP@25", "mAP@50")),
    "table": ("all", True, False, (1, 10, 50), (), ("R@10", "R@50")),
    "table-unmasked": ("all", False, False, (1, 10, 50), (), ("R@10", "R@50")),
    "table-new-wordings": ("all", True, True, (1, 10, 50), (), ("R@10", "R@50")),
    "table-two-changes": ("all", True, True, (1, 10, 50), (), ("R@10", "R@50")),
}
ENCODERS = SimpleNamespace(
    clip=SimpleNamespace(device=torch.device("cpu"), dim=3, preprocess=SimpleNamespace(region_kind="crops"))
)

VECTORS = [list(v) for v in product(range(3), repeat=3) if any(v)]  # without the zero vector, which is an error


class Lookup(torch.nn.Module):
    "Small integers, looked up by text and by image: scores are exact and tie often."

    name = "lookup"
    captions = "stripped"

    def __init__(self, texts: dict[str, list[int]]):
        super().__init__()
        self.texts = texts

    def encode_text(self, encoders, texts, reference):
        return torch.tensor([self.texts[text] for text in texts], dtype=torch.float32)

    def encode_query(self, reference, words):
        return words

    def encode_target(self, images):
        return images.embedding

    def score(self, query, targets):
        return query @ targets.T


def features_of(images: dict[str, list[int]]):
    "A function from names to features."

    def features(names):
        vectors = torch.tensor([images[name] for name in names], dtype=torch.float32)
        return ImageFeatures(vectors, torch.zeros(len(names), 13, 3))

    return features


def random_dataset(rng: random.Random, protocol: str) -> tuple[TripletDataset, dict, dict]:
    "A dataset with its image vectors and its text vectors; FashionIQ's has two categories."
    dataset = PROTOCOLS[protocol].dataset
    queries = PROTOCOLS[protocol].queries
    wordings = 2 if dataset == "fashioniq" or queries else 1
    categories = ("dress", "shirt") if dataset == "fashioniq" else ("all",)
    split_images, triplets, texts = {}, [], {}
    for category in categories:
        names = [f"{category}{i}" for i in range(rng.randint(8, 70))]
        split_images[category] = names
        for i in range(rng.randint(3, 9)):
            members = tuple(rng.sample(names, 6)) if dataset == "cirr" else ()
            reference, target = rng.sample(members or names, 2)
            others = rng.sample(names, rng.randint(1, 4)) if dataset in ("fashion200k", "folder", "circo") else []
            captions = tuple(f"S{category}{i}x{k}" for k in range(wordings))
            for text in dict.fromkeys((*captions, " and ".join(captions))):
                texts[text] = rng.choice(VECTORS)
            if dataset == "fashioniq" and rng.random() < 0.2:  # a few real pairs have an empty caption
                captions = rng.choice(((" ", captions[1]), (captions[0], "")))
            targets = tuple(dict.fromkeys([target, *others]))
            triplets.append(Triplet(reference, targets, captions, category, f"{category}-{i}", members))
    rng.shuffle(triplets)
    images = {}
    for names in split_images.values():
        images |= {name: rng.choice(VECTORS) for name in names}
    data = TripletDataset(dataset, "val", triplets, split_images, ImageFinder())
    if queries:  # the ranked queries are in a set of their own
        data = replace(data, triplets=triplets[:1], query_sets={queries: triplets})
    return data, images, texts


def order_of(names, scores, targets) -> list[str]:
    "Best first; negatives before positives where they tie; then the gallery's order."
    place = {name: i for i, name in enumerate(names)}
    return sorted(names, key=lambda name: (-scores[name], name in targets, place[name]))


def rank_in(order, targets) -> int:
    return next((i for i, name in enumerate(order, 1) if name in targets), NOT_RANKED)


def by_hand(data, images, texts, rule) -> list[dict]:
    "Every query ranked by name: category by category, in the order of the triplets."
    gallery_rule, masked, single, *_ = rule
    ranked = []
    for category, everything in data.split_images.items():
        triplets = [t for t in data.triplets if t.category == category]
        named = dict.fromkeys(n for t in triplets for n in (t.reference, *t.targets))
        gallery = everything if gallery_rule == "all" else list(named)
        for t in triplets:
            captions = [caption for caption in t.captions if caption.strip()]
            for text in captions if single else [" and ".join(captions)]:
                ranked.append(rank_by_hand(t, images, texts[text], everything, gallery, masked))
                if data.name == "circo":  # recalls count the first target alone
                    first = replace(t, targets=t.targets[:1])
                    ranked[-1]["rank"] = rank_by_hand(first, images, texts[text], everything, gallery, masked)["rank"]
    return ranked


def rank_by_hand(t, images, query, everything, gallery, masked) -> dict:
    "One query ranked by name."
    scores = {}
    for name in everything:
        scores[name] = sum(a * b for a, b in zip(query, images[name]))
    order = order_of([n for n in gallery if not (masked and n == t.reference)], scores, t.targets)
    group = order_of([m for m in t.members if m != t.reference], scores, t.targets)
    return {
        "category": t.category,
        "order": order,
        "group": group,
        "scores": scores,
        "rank": rank_in(order, t.targets),
        "subset_rank": rank_in(group, t.targets),
        "to_reference": scores[t.reference],
        "highest": max(scores[n] for n in gallery),
        "to_target": max(scores[n] for n in t.targets),
        "targets": set(t.targets) - ({t.reference} if masked else set()),
    }


def share(ranked, key, k) -> float:
    return 100 * sum(r[key] <= k for r in ranked) / len(ranked)


def dominance_by_hand(ranked) -> dict[str, float]:
    nearest = sum(r["to_reference"] >= r["highest"] for r in ranked)
    outranks = sum(r["to_reference"] >= r["to_target"] for r in ranked)
    margin = sum(r["to_reference"] - r["to_target"] for r in ranked)
    return {
        "nearest": 100 * nearest / len(ranked),
        "outranks": 100 * outranks / len(ranked),
        "margin": margin / len(ranked),
    }


def metrics_by_hand(ranked, ks) -> dict[str, float]:
    "MRR, mAP, nDCG and precision over the positives' places in each ranking."
    sums: dict[str, float] = {}
    for r in ranked:
        places = [place for place, name in enumerate(r["order"], 1) if name in r["targets"]]
        values = {"MRR": 1 / r["rank"] if r["rank"] != NOT_RANKED else 0}
        for k in ks:
            found = [place for place in places if place <= k]
            most = max(1, min(k, len(r["targets"])))
            values[f"mAP@{k}"] = sum(n / place for n, place in enumerate(found, 1)) / most
            best = sum(1 / math.log2(place + 1) for place in range(1, most + 1))
            values[f"nDCG@{k}"] = sum(1 / math.log2(place + 1) for place in found) / best
            values[f"P@{k}"] = len(found) / k
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value
    return {name: 100 * total / len(ranked) for name, total in sums.items()}


def spread_by_hand(ranked) -> dict[str, float]:
    "Two wordings of each change follow each other."
    pairs = list(zip(ranked[::2], ranked[1::2]))
    return {
        "R@10": share(ranked, "rank", 10),
        "R@10 best wording": 100 * sum(min(a["rank"], b["rank"]) <= 10 for a, b in pairs) / len(pairs),
        "R@10 worst wording": 100 * sum(max(a["rank"], b["rank"]) <= 10 for a, b in pairs) / len(pairs),
        "first result changes": 100 * sum(a["order"][0] != b["order"][0] for a, b in pairs) / len(pairs),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_equals_its_twin(protocol):
    rng = random.Random(protocol)
    cases = ties = several = reference_is_masked_target = 0
    gallery_rule, masked, single, ks, subset_ks, mean_of = rule = RULES[protocol]
    for _ in range(250):
        data, images, texts = random_dataset(rng, protocol)
        top = rng.choice([1, 5, 100])
        result = evaluate(Lookup(texts), ENCODERS, data, features_of(images), [protocol], top=top)[0]
        data = data.query_set(PROTOCOLS[protocol].queries)
        slow = by_hand(data, images, texts, rule)
        for q, twin in zip(result.queries, slow, strict=True):
            assert q.category == twin["category"] and q.rank == twin["rank"], (q, twin)
            assert [name for name, _ in q.top] == twin["order"][:top]
            assert [score for _, score in q.top] == [twin["scores"][name] for name, _ in q.top]
            if subset_ks:
                assert q.subset_rank == twin["subset_rank"]
                assert list(q.subset) == twin["group"] and len(twin["group"]) == 5
            ties += len(set(twin["scores"].values())) < len(twin["scores"])
            several += len(q.targets) > 1
            reference_is_masked_target += masked and q.reference in q.targets
        cases += len(slow)
        for category in data.split_images:
            ranked = [r for r in slow if r["category"] == category]
            expected = {f"R@{k}": share(ranked, "rank", k) for k in ks}
            expected |= {f"Rs@{k}": share(ranked, "subset_rank", k) for k in subset_ks}
            if protocol == "circo":
                expected |= {f"mAP@{k}": metrics_by_hand(ranked, ks)[f"mAP@{k}"] for k in ks}
            assert result.recalls[category] == pytest.approx(expected)
        assert result.dominance == pytest.approx(dominance_by_hand(slow))
        by_category = []
        for category in data.split_images:
            own = [r for r in slow if r["category"] == category]
            by_category.append(metrics_by_hand(own, PROTOCOLS[protocol].map_ks or (10, 50)))
        for name, value in result.metrics.items():
            assert value == pytest.approx(sum(m[name] for m in by_category) / len(by_category)), name
        assert result.metrics.keys() == by_category[0].keys()
        means = {}
        for key in result.recalls[category]:
            means[key] = sum(r[key] for r in result.recalls.values()) / len(result.recalls)
        if PROTOCOLS[protocol].queries:
            assert result.wordings == pytest.approx(spread_by_hand(slow))
        assert result.mean == pytest.approx(means | {"mean": sum(means[k] for k in mean_of) / len(mean_of)})
    assert cases > 1000 and ties > 0.9 * cases, (cases, ties)
    if PROTOCOLS[protocol].dataset in ("fashion200k", "folder"):
        assert several > cases / 2 and (reference_is_masked_target > 10) == masked


def test_every_protocol_is_written_out_here():
    assert set(RULES) == set(PROTOCOLS)


def evaluate_one_query(target: str, query: list[float]):
    "The result of one query over a gallery of two equal images."
    triplet = Triplet("a", (target,), ("S",), id="q")
    data = TripletDataset("shoes", "val", [triplet], {"all": ["a", "b"]}, ImageFinder())
    ones = features_of({name: [1, 1, 1] for name in ("a", "b", target)})
    return evaluate(Lookup({"S": query}), ENCODERS, data, ones, ["shoes"])[0]


def test_a_target_outside_the_gallery_is_a_miss():
    "The gallery is smaller than k: a rank of its size plus one would count as a hit."
    result = evaluate_one_query("gone", [1, 1, 1])
    assert result.queries[0].rank == NOT_RANKED and result.mean["R@50"] == 0
    assert result.found["lost"] == 1
    assert "Queries without a target in the gallery, or with NaN scores: 1." in coverage_report(result)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
def test_a_query_without_direction_stops_the_evaluation(number):
    with pytest.raises(ErnError, match="1 of 1 query embeddings .* is NaN.*: that of 'q'"):
        evaluate_one_query("b", [number] * 3)


def test_more_queries_than_one_block():
    "Queries are ranked in blocks of 1,024: the recalls and dominance of 2,500 are those of all, not of the last block."
    names = [f"i{n}" for n in range(40)]
    rng = random.Random(7)
    images, texts = {n: rng.choice(VECTORS) for n in names}, {}
    triplets = []
    for i in range(2500):
        texts[f"S{i}"] = rng.choice(VECTORS) if i < 1500 else [1, 1, 1]
        reference, target = rng.sample(names, 2)
        triplets.append(Triplet(reference, (target,), (f"S{i}",), id=str(i)))
    data = TripletDataset("shoes", "val", triplets, {"all": names}, ImageFinder())
    result = evaluate(Lookup(texts), ENCODERS, data, features_of(images), ["shoes"])[0]
    slow = by_hand(data, images, texts, RULES["shoes"])
    assert [q.rank for q in result.queries] == [r["rank"] for r in slow]
    assert result.dominance == pytest.approx(dominance_by_hand(slow))


class Counting(Lookup):
    "Counts the texts that it encodes."

    uses_tme = staticmethod(lambda encoders: False)
    composer = SimpleNamespace(reads_padding=False, has_pseudo_word=False)

    def __init__(self, texts):
        super().__init__(texts)
        self.encoded = 0

    def encode_text(self, encoders, texts, reference):
        self.encoded += len(texts)
        words = super().encode_text(encoders, texts, reference)
        return TextFeatures(words, words[:, None], torch.ones(len(words), 1, dtype=torch.bool))

    def encode_query(self, reference, words):
        return words.embedding


@pytest.mark.parametrize("limit_gb,again", [(1.0, 0), (0.0, 1)])
def test_a_second_model_reads_the_texts_of_the_first(limit_gb, again):
    rng = random.Random(0)
    data, images, texts = random_dataset(rng, "table-new-wordings")
    memo = TextMemo(limit_gb)
    alone, first, second = Counting(texts), Counting(texts), Counting(texts)
    inputs = (ENCODERS, data, features_of(images), ["table-new-wordings", "table"])
    expected = evaluate(alone, *inputs)
    assert [r.as_dict() for r in evaluate(first, *inputs, texts=memo)] == [r.as_dict() for r in expected]
    assert [r.as_dict() for r in evaluate(second, *inputs, texts=memo)] == [r.as_dict() for r in expected]
    assert first.encoded == alone.encoded and second.encoded == again * alone.encoded
