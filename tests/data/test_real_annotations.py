"The real annotation files with stub images and random features through `ern_eval`: galleries and chance recalls."

import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fashionern.cli import evaluate as ern_evaluate
from fashionern.data.datasets import factory  # noqa: F401  (registers the datasets)
from fashionern.data.registry import DATASETS
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import create_store
from fashionern.encoders.tme import Encoders
from fashionern.records import CROPS, ImageFeatures


def stub(real: Path, folder: Path, dataset: str, split: str) -> list[str]:
    "Create a root with the real annotations, stub images and random features; return flags for `ern_eval`."
    root = folder / "data"
    (root / "images").mkdir(parents=True)
    for part in ("captions", "image_splits"):
        (root / part).symlink_to(real / part)
    names = DATASETS.get(dataset).load(root, split).all_images()
    Image.new("RGB", (1, 1)).save(folder / "stub.png")
    for name in names:
        os.link(folder / "stub.png", root / "images" / f"{name}.png")
    torch.manual_seed(42)
    clip = create_clip(TINY)
    Encoders(clip).save(folder / "encoders.safetensors")
    fingerprint = clip.image_fingerprint()
    features = root / "features" / f"{fingerprint}-random-float32"
    store = create_store(features, fingerprint, names, clip.dim)
    embedding = F.normalize(torch.randn(len(names), clip.dim), dim=-1)
    store.put(torch.arange(len(names)), ImageFeatures(embedding, embedding[:, None].expand(-1, CROPS, -1)))
    flags = ["--models", "sum", "--dataset", dataset, "--root", str(root), "--split", split, "--out", str(folder)]
    flags += ["--clip-model-name", TINY, "--clip-pretrained", "None", "--device", "cpu"]
    return [*flags, "--clip-path", str(folder / "encoders.safetensors")]


def ern_eval(monkeypatch, capsys, *args) -> str:
    "Run `ern_eval` with these flags and return its output."
    monkeypatch.setattr(sys, "argv", ["ern_eval", *args])
    capsys.readouterr()
    ern_evaluate.main()
    return capsys.readouterr().out


def at_chance(recall: float, k: float, candidates: int, queries: int) -> bool:
    "Whether a recall in percent is within five standard deviations of k hits among so many candidates."
    p = k / candidates
    return abs(recall / 100 - p) < 5 * math.sqrt(p * (1 - p) / queries)


PAIRS, CAPTIONS = (2017, 2038, 1961), (4034, 4075, 3920)  # of dress, shirt, toptee; three captions are empty
# protocol → gallery of dress, shirt, toptee; places always taken by the reference; queries
FASHIONIQ = {
    "fashioniq-original": ((3817, 6346, 5373), 1, PAIRS),
    "fashioniq-original-masked": ((3817, 6346, 5373), 0, PAIRS),
    "fashioniq-val": ((2628, 3089, 2902), 1, PAIRS),
    "fashioniq-val-masked": ((2628, 3089, 2902), 0, PAIRS),
    "fashioniq-val-single": ((2628, 3089, 2902), 0, CAPTIONS),
}


def test_fashioniq_val_under_all_protocols(monkeypatch, capsys, annotations, tmp_path):
    args = stub(annotations("fashioniq"), tmp_path, "fashioniq", "val")
    said = ern_eval(monkeypatch, capsys, *args, "--protocol", *FASHIONIQ)
    results = json.loads((tmp_path / "results.val.json").read_text())
    assert [r["protocol"] for r in results] == list(FASHIONIQ) and all(f"protocol {p}" in said for p in FASHIONIQ)
    for r in results:
        galleries, taken, asked = FASHIONIQ[r["protocol"]]
        for (category, recalls), size, queries in zip(r["recalls"].items(), galleries, asked, strict=True):
            counts = r["counts"][category]
            assert counts["gallery"] == counts["gallery_expected"] == size
            assert counts["queries"] == counts["queries_expected"] == queries
            for k in (10, 50):
                assert at_chance(recalls[f"R@{k}"], k - taken, size - 1, min(queries, 2038)), (
                    r["protocol"],
                    category,
                    k,
                    recalls,
                )
    single = results[-1]["found"]
    assert (single["empty_dropped"], single["reference_masked"]) == (3, sum(CAPTIONS))
    said = " ".join(said.split())  # without the breaks of its lines
    assert "ranked without their reference: 12,029" in said and "Empty captions: 3." in said
    assert results[0]["dominance"]["nearest"] > 99, "the reference is in the gallery and takes the first place"


def test_cirr_val_at_chance(monkeypatch, capsys, annotations, tmp_path):
    args = stub(annotations("cirr"), tmp_path, "cirr", "val")
    assert "protocol cirr" in ern_eval(monkeypatch, capsys, *args)
    (r,) = json.loads((tmp_path / "results.val.json").read_text())
    assert r["counts"]["all"] == {"queries": 4181, "gallery": 2297, "queries_expected": 4181, "gallery_expected": 2297}
    for k in (5, 10, 50):
        assert at_chance(r["mean"][f"R@{k}"], k, 2296, 4181)
    for k in (1, 2, 3):
        assert at_chance(r["mean"][f"Rs@{k}"], k, 5, 4181)
    assert r["mean"]["mean"] == pytest.approx((r["mean"]["R@5"] + r["mean"]["Rs@1"]) / 2)


def test_cirr_test1_submissions(monkeypatch, capsys, annotations, tmp_path):
    args = stub(annotations("cirr"), tmp_path, "cirr", "test1")
    assert "the targets are not public" in ern_eval(monkeypatch, capsys, *args)
    entries = json.loads((annotations("cirr") / "captions" / "cap.rc2.test1.json").read_text())
    asked = {str(e["pairid"]): e for e in entries}
    for metric, length in (("recall", 50), ("recall_subset", 3)):
        file = tmp_path / "predictions" / "sum" / f"cirr.test1.{metric}.json"
        content = json.loads(file.read_text())
        assert file.stat().st_size <= 5_000_000 and content.pop("metric") == metric and content.pop("version") == "rc2"
        assert len(content) == 4148 and set(content) == set(asked)
        for pair, names in content.items():
            members = set(asked[pair]["img_set"]["members"])
            assert len(set(names)) == length and asked[pair]["reference"] not in names
            assert metric == "recall" or set(names) <= members


def test_fashioniq_test_predictions(monkeypatch, capsys, annotations, tmp_path):
    args = stub(annotations("fashioniq"), tmp_path, "fashioniq", "test")
    ern_eval(monkeypatch, capsys, *args)
    for category, queries in (("dress", 2024), ("shirt", 2038), ("toptee", 2056)):
        rows = json.loads((tmp_path / "predictions" / "sum" / f"{category}.test.pred.json").read_text())
        assert len(rows) == queries and all(len(set(row["ranking"])) == 50 for row in rows)
