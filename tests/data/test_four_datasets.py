"Each dataset's whole path from the command line, on its drawn edition: draw, check, train, evaluate under every protocol, prediction files, comparison."

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fashionern.cli import compare as ern_compare
from fashionern.cli import evaluate as ern_evaluate
from fashionern.cli import train as ern_train
from fashionern.evaluation.protocols import PROTOCOLS

BIN = Path(sys.executable).parent
ENV = os.environ | {"OMP_NUM_THREADS": "1"}  # several threads of several processes on few cores wait for each other
DATASETS = ("fashioniq", "shoes", "fashion200k", "cirr")
SHORT = ["--warmup-epochs", "1", "--tme-epochs", "1", "--num-epochs", "1", "--compare", "sum", "--batch-size", "64", "--ffn", "64", "--device", "cpu", "--num-workers", "0"]


def call(command: str, *args, status: int = 0) -> str:
    "What the command says; its exit status must be `status`."
    done = subprocess.run([str(BIN / command), *map(str, args)], capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    return " ".join((done.stdout + (done.stderr if status else "")).split())


def inside(command, *args, status: int = 0) -> str:
    "The same in this process, which has torch loaded already; `command` is the function behind the program."
    said, before, ended = io.StringIO(), sys.argv, 0
    sys.argv = [command.__name__, *map(str, args)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command()
    except SystemExit as e:
        ended = e.code
    finally:
        sys.argv = before
    assert ended == status, said.getvalue()[-2000:]
    return " ".join(said.getvalue().split())


@pytest.fixture(scope="module", params=DATASETS)
def dataset(request, tmp_path_factory) -> tuple[str, Path]:
    "Name of a dataset, and a folder with its drawn edition in data/ and a finished run in run/."
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    call("ern_data", "draw", "--dataset", name, "--root", folder / "data", "--images", 120, "--size", 64, "--num-workers", 1)
    flags = ["--preset", "demo", "--dataset", name, "--root", folder / "data", "--run-dir", folder / "run", *SHORT]
    call("ern_train", *flags) if name == DATASETS[0] else inside(ern_train.main, *flags)  # a program takes 10 seconds to load torch
    return name, folder


def protocols(name: str) -> list[str]:
    return [p.name for p in PROTOCOLS.values() if p.dataset == name]


def test_check_finds_all_of_it(dataset, tmp_path):
    name, folder = dataset
    said = call("ern_data", "check", "--dataset", name, "--root", folder / "data", "--out", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert "Everything is there." in said and report["complete"] and report["drawn"]
    assert {r["split"] for r in report["rows"]} >= {"train"} and all(r["images"] and r["triplets"] and not r["missing"] for r in report["rows"])


def test_check_tells_what_is_gone(dataset, tmp_path):
    name, folder = dataset
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    pictures = sorted(p for p in (tmp_path / "data").rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    said = call("ern_data", "check", "--dataset", name, "--root", tmp_path / "data", status=1)
    assert "1 images have no file" in said and pictures[0].stem in said and pictures[1].name in said and "cannot be read" in said


def test_training_left_results_under_the_default_protocol(dataset):
    name, folder = dataset
    results = json.loads((folder / "run" / "results.json").read_text())
    assert [r["model"] for r in results] == ["sum", "fashionern"] and {r["protocol"] for r in results} == {protocols(name)[0]}
    log = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} >= {"warm-up", "stage 1 (TME)", "stage 2 (fashionern)"}


def test_every_protocol_in_one_pass_then_a_comparison(dataset, tmp_path):
    name, folder = dataset
    wanted = protocols(name)
    said = inside(ern_evaluate.main, "--run-dir", folder / "run", "--protocol", *wanted, "--save-rankings", "--top-k", 7, "--out", tmp_path, "--device", "cpu")
    assert all(f"protocol {p}" in said for p in wanted)
    results = json.loads(next(tmp_path.glob("results.*.json")).read_text())
    assert [(r["model"], r["protocol"]) for r in results] == [(m, p) for m in ("sum", "fashionern") for p in wanted]
    queries = {}
    for r in results:
        lines = [json.loads(line) for line in next(tmp_path.glob(f"rankings.*.{r['protocol']}.{r['model']}.jsonl")).read_text().splitlines()]
        queries[r["protocol"]] = len(lines)
        assert len(lines) == sum(c["queries"] for c in r["counts"].values()) and all(len(line["top"]) == 7 for line in lines)
        for category, of in r["recalls"].items():
            ranks = [line["rank"] for line in lines if line["category"] == category]
            assert of["R@10"] == pytest.approx(100 * sum(0 < rank <= 10 for rank in ranks) / len(ranks)), "recalls follow from the file"
            if "Rs@1" in of:
                assert of["Rs@1"] == pytest.approx(100 * sum(line["subset_rank"] == 1 for line in lines) / len(lines))
        masked = PROTOCOLS[r["protocol"]].mask_reference
        assert not (masked and any(line["reference"] in dict(line["top"]) for line in lines))
    a, b = (next(tmp_path.glob(f"rankings.*.{wanted[0]}.{m}.jsonl")) for m in ("sum", "fashionern"))
    said = inside(ern_compare.main, a, b, "--least", 3, "--out", tmp_path / "compare.json")
    found = json.loads((tmp_path / "compare.json").read_text())
    assert f"protocol {wanted[0]}" in said and found["all"]["queries"] == queries[wanted[0]] and found["words"]
    assert found["all"]["won"] == sum(g["won"] for g in found["categories"]) and not found["only_first"]


def test_prediction_files_of_the_splits_without_answers(dataset, tmp_path):
    name, folder = dataset
    if name not in ("cirr", "fashioniq"):
        said = inside(ern_evaluate.main, "--run-dir", folder / "run", "--predictions", "--out", tmp_path, "--device", "cpu", status=2)
        assert f"{name} has no test server" in said
        return
    said = inside(ern_evaluate.main, "--run-dir", folder / "run", "--split", "test", "--models", "fashionern", "--out", tmp_path, "--device", "cpu")
    files = {p.name: json.loads(p.read_text()) for p in (tmp_path / "predictions" / "fashionern").iterdir()}
    assert "the targets are not public" in said and not list(tmp_path.glob("results.*"))
    if name == "fashioniq":
        for category in ("dress", "shirt", "toptee"):
            asked = json.loads((folder / "data" / "captions" / f"cap.{category}.test.json").read_text())
            gallery = json.loads((folder / "data" / "image_splits" / f"split.{category}.test.json").read_text())
            rows = files.pop(f"{category}.test.pred.json")
            assert [{k: v for k, v in row.items() if k != "ranking"} for row in rows] == [{k: e[k] for k in ("candidate", "captions")} for e in asked]
            assert all(len(set(row["ranking"])) == min(50, len(gallery)) and set(row["ranking"]) <= set(gallery) for row in rows)
        assert not files
        return
    asked = json.loads((folder / "data" / "captions" / "cap.rc2.test1.json").read_text())
    recall, subset = files.pop("cirr.test1.recall.json"), files.pop("cirr.test1.recall_subset.json")
    assert not files and (recall.pop("metric"), subset.pop("metric")) == ("recall", "recall_subset")
    assert recall.pop("version") == subset.pop("version") == "rc2" and set(recall) == set(subset) == {str(e["pairid"]) for e in asked}
    for e in asked:
        names, group = recall[str(e["pairid"])], subset[str(e["pairid"])]
        assert len(set(names)) == len(names) == 50 and len(set(group)) == len(group) == 3
        assert e["reference"] not in names + group and set(group) <= set(e["img_set"]["members"])


def test_missing_images_are_left_out_only_when_asked(dataset, tmp_path):
    name, folder = dataset
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    line = json.loads(next((folder / "run").glob("models/fashionern/best.json")).read_text())
    victims = _references(name, tmp_path / "data")[:2]
    for path in victims:
        path.unlink()
    common = [ern_evaluate.main, "--run-dir", folder / "run", "--models", "sum", "--root", tmp_path / "data", "--out", tmp_path, "--device", "cpu"]
    assert "2 of " in (said := inside(*common, status=2)) and "--missing drop" in said
    said = inside(*common, "--missing", "drop")
    (result,) = json.loads(next(tmp_path.glob("results.*.json")).read_text())
    before, now = ({k: sum(c[k] for c in r["counts"].values()) for k in ("queries", "gallery", "queries_expected", "gallery_expected")} for r in (line, result))
    assert (now["queries_expected"], now["gallery_expected"]) == (before["queries"], before["gallery"])
    assert now["gallery"] == before["gallery"] - 2 and now["queries"] < before["queries"]
    assert "IMAGES ARE MISSING" in said and all(
        f"gallery {c['gallery']:,} of {c['gallery_expected']:,}" in said
        for c in result["counts"].values()
        if c["gallery"] < c["gallery_expected"]
    )


def _references(name: str, root: Path) -> list[Path]:
    "Files of evaluation images that are references."
    from fashionern.data.datasets.factory import create_dataset

    data = create_dataset(name, root, "val")
    return [data.images(n) for n in dict.fromkeys(t.reference for t in data.triplets)]
