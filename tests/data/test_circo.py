"CIRCO: files of the published format, its metrics against another count, its server file, and errors about bad files."

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numbered import Numbered

from fashionern.data.datasets.circo import load_circo
from fashionern.data.datasets.factory import create_dataset
from fashionern.errors import ErnError
from fashionern.evaluation.evaluate import evaluate
from fashionern.evaluation.predictions import write_predictions
from fashionern.files import read_json, write_json
from fashionern.records import ImageFeatures

NUMBERS = [7, 9761, 57541, 85932, 119881, 375057, 489535] + list(range(500_000, 500_060))
ASPECTS = ("cardinality", "negation", "viewpoint")


def write_circo(root: Path, queries: int = 40) -> list[dict]:
    "A small copy in the published format with random queries; the entries of the val split."
    rng = np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 8, "height": 8} for n in NUMBERS]
    info = root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
    write_json(info, {"info": {}, "licenses": [], "images": images})
    entries = []
    for i in range(queries):
        reference, *positives = rng.choice(NUMBERS, rng.integers(2, 20), replace=False).tolist()
        query = {"reference_img_id": reference, "relative_caption": f"is number {i}", "id": i, "shared_concept": "x"}
        aspects = [a for a in ASPECTS if rng.random() < 0.6] or ["negation"]
        answer = {"target_img_id": positives[0], "gt_img_ids": positives, "semantic_aspects": aspects}
        entries.append(query | answer)
    write_json(root / "annotations" / "val.json", entries)
    hidden = ("target_img_id", "gt_img_ids", "semantic_aspects")
    write_json(root / "annotations" / "test.json", [{k: v for k, v in e.items() if k not in hidden} for e in entries])
    return entries


@pytest.fixture
def circo(tmp_path) -> Path:
    write_circo(tmp_path)
    return tmp_path


ENCODERS = SimpleNamespace(
    clip=SimpleNamespace(device=torch.device("cpu"), dim=4, preprocess=SimpleNamespace(region_kind="crops"))
)


class Scores(Numbered):
    "Scores that are fixed for each query and image, without ties."

    name = "scores"

    def score(self, query, targets):
        return torch.sin(query * targets.T * 12.9898) + 2


def features(names):
    numbers = torch.tensor([[float(NUMBERS.index(int(name)) + 1)] for name in names])
    return ImageFeatures(numbers, torch.zeros(len(names), 13, 1))


def published_metrics(ranked: dict[str, list[int]], entries: list[dict]) -> tuple[dict, dict]:
    "mAP and recall at each k, and mAP@10 of each aspect, as the authors define them: from lists of 50 numbers."
    metrics: dict[str, list[float]] = {}
    aspects: dict[str, list[float]] = {}
    for entry in entries:
        listed = ranked[str(entry["id"])]
        precision, found = [], 0
        for place, number in enumerate(listed, 1):
            found += number in entry["gt_img_ids"]
            precision.append(found / place if number in entry["gt_img_ids"] else 0.0)
        for k in (5, 10, 25, 50):
            ap = sum(precision[:k]) / min(len(entry["gt_img_ids"]), k)
            metrics.setdefault(f"mAP@{k}", []).append(100 * ap)
            metrics.setdefault(f"R@{k}", []).append(100.0 * (entry["target_img_id"] in listed[:k]))
            if k == 10:
                for aspect in entry["semantic_aspects"]:
                    aspects.setdefault(aspect, []).append(100 * ap)
    return metrics, aspects


def test_metrics_are_the_published_ones(circo):
    entries = read_json(circo / "annotations" / "val.json")
    data = load_circo(circo)
    result = evaluate(Scores(), ENCODERS, data, features, top=50)[0]
    ranked = {q.id: [int(name) for name, _ in q.top] for q in result.queries}
    metrics, aspects = published_metrics(ranked, entries)
    for name, values in metrics.items():
        assert result.mean[name] == pytest.approx(np.mean(values)), name
    assert result.mean["mean"] == pytest.approx(np.mean([np.mean(v) for n, v in metrics.items() if n[0] == "m"]))
    assert result.by_aspect.keys() == aspects.keys() == set(ASPECTS)
    for aspect, values in aspects.items():
        assert result.by_aspect[aspect] == {"queries": len(values), "mAP@10": pytest.approx(np.mean(values))}
    assert any(int(q.reference) in ranked[q.id] for q in result.queries), "the reference stays in the ranking"


def test_the_server_file_lists_numbers(circo, tmp_path):
    data = load_circo(circo, "test")
    assert {t.targets for t in data.triplets} == {()}
    result = evaluate(Scores(), ENCODERS, data, features, top=50)[0]
    (file,) = write_predictions(tmp_path / "out", data, result)
    content = json.loads(file.read_text())
    assert file.name == "circo.test.json" and list(content) == [str(i) for i in range(40)]
    for q in result.queries:
        assert content[q.id] == [int(name) for name, _ in q.top]
        assert len(set(content[q.id])) == 50 and set(content[q.id]) <= set(NUMBERS)
    result.queries.pop()
    with pytest.raises(ErnError, match="missing 1 query"):
        write_predictions(tmp_path / "out", data, result)


def test_numbers_may_be_strings(circo):
    data = load_circo(circo)
    entries = read_json(circo / "annotations" / "val.json")
    for e in entries:
        e |= {"reference_img_id": str(e["reference_img_id"]), "target_img_id": f"{e['target_img_id']:012d}"}
        e |= {"gt_img_ids": list(map(str, e["gt_img_ids"])), "id": str(e["id"])}
    write_json(circo / "annotations" / "val.json", entries)
    assert load_circo(circo).triplets == data.triplets


def test_images_are_found_by_number(circo):
    folder = circo / "COCO2017_unlabeled" / "unlabeled2017"
    folder.mkdir()
    for number in NUMBERS[1:]:
        (folder / f"{number:012d}.jpg").write_bytes(b"not read here")
    with pytest.raises(ErnError, match="1 of 67 images of circo .val. is missing.*000000000007"):
        create_dataset("circo", circo)
    data = create_dataset("circo", circo, missing="drop")
    assert data.images("000000009761") == folder / "000000009761.jpg" and len(data.split_images["all"]) == 66


WRONG = (
    ({"reference_img_id": 3}, "names the image '000000000003', which image_info_unlabeled2017.json does not list"),
    ({"gt_img_ids": [9761, 7], "target_img_id": 57541}, "not in its 'gt_img_ids'"),
    ({"gt_img_ids": [9761, 85932], "target_img_id": 9761, "reference_img_id": 85932}, "its reference in its"),
    ({"gt_img_ids": []}, "'gt_img_ids': .., which must be a list of whole numbers"),
    ({"target_img_id": "a"}, "'target_img_id': 'a', which must be a whole number"),
    ({"id": 1}, "repeats the 'id' 1"),
    ({"semantic_aspects": "negation"}, "'semantic_aspects': 'negation', which must be a list of strings"),
)


@pytest.mark.parametrize("change, words", WRONG)
def test_errors_name_file_and_entry(circo, change, words):
    file = circo / "annotations" / "val.json"
    entries = read_json(file)
    entries[2] |= change
    write_json(file, entries)
    with pytest.raises(ErnError, match=f"val.json, entry 3 .*{words}"):
        load_circo(circo)


def test_missing_files_and_splits(circo, tmp_path):
    with pytest.raises(ErnError, match="no dataset folder"):
        load_circo(tmp_path / "none", "train")
    with pytest.raises(ErnError, match="no training data"):
        load_circo(circo, "train")
    (circo / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json").unlink()
    with pytest.raises(ErnError, match="is missing COCO2017_unlabeled/annotations/image_info"):
        load_circo(circo)
