"Each dataset from the command line, on its drawn edition: draw, check, train, evaluate, predict, compare."

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
from fashionern.data.datasets.factory import create_dataset
from fashionern.evaluation.protocols import PROTOCOLS
from fashionern.training.record import trained_on

BIN = Path(sys.executable).parent
ENV = os.environ | {"OMP_NUM_THREADS": "1"}  # more threads than cores wait for each other
DATASETS = ("fashioniq", "shoes", "fashion200k", "cirr")
CPU = ["--device", "cpu"]
SHORT = ["--warmup-epochs", "1", "--tme-epochs", "1", "--num-epochs", "1", "--compare", "sum"]
SHORT += ["--batch-size", "64", "--ffn", "64", "--num-workers", "0"]


def call(command: str, *args, status: int = 0) -> str:
    "Run a command, which must exit with `status`, and return its output."
    done = subprocess.run([str(BIN / command), *map(str, args)], capture_output=True, text=True, env=ENV, timeout=300)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:]
    return " ".join((done.stdout + (done.stderr if status else "")).split())


def inside(command, *args, status: int = 0) -> str:
    "The same in this process, which has already loaded torch; `command` is the function behind the program."
    output = io.StringIO()
    before = sys.argv
    ended = 0
    sys.argv = [command.__name__, *map(str, args)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            command()
    except SystemExit as e:
        ended = e.code
    finally:
        sys.argv = before
    assert ended == status, output.getvalue()[-2000:]
    return " ".join(output.getvalue().split())


@pytest.fixture(scope="module", params=DATASETS)
def dataset(request, tmp_path_factory) -> tuple[str, Path]:
    "Name of a dataset, and a folder with its drawn edition in data/ and a finished run in run/."
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    data = ["--dataset", name, "--root", folder / "data"]
    call("ern_data", "draw", *data, "--images", 120, "--size", 64, "--num-workers", 1)
    flags = ["--preset", "demo", *data, "--run-dir", folder / "run", *SHORT, *CPU]
    if name == DATASETS[0]:
        call("ern_train", *flags)
    else:
        inside(ern_train.main, *flags)  # a new process takes 10 seconds to load torch
    return name, folder


def protocols(name: str) -> list[str]:
    return [p.name for p in PROTOCOLS.values() if p.dataset == name]


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def totals(counts: dict[str, dict]) -> dict[str, int]:
    "The counts of a result, summed over its categories."
    keys = ("queries", "gallery", "queries_expected", "gallery_expected")
    return {key: sum(of_category[key] for of_category in counts.values()) for key in keys}


def test_check_reports_a_complete_edition(dataset, tmp_path):
    name, folder = dataset
    said = call("ern_data", "check", "--dataset", name, "--root", folder / "data", "--out", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert "Everything is there." in said and report["complete"] and report["drawn"]
    assert "train" in {row["split"] for row in report["rows"]}
    assert all(row["images"] and row["triplets"] and not row["missing"] for row in report["rows"])


def test_check_names_missing_and_unreadable_images(dataset, tmp_path):
    name, folder = dataset
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    pictures = sorted(p for p in (tmp_path / "data").rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    said = call("ern_data", "check", "--dataset", name, "--root", tmp_path / "data", status=1)
    assert "The file of 1 image is missing: " in said and pictures[0].stem in said
    assert pictures[1].name in said and "cannot be read" in said


def test_training_writes_results_under_the_default_protocol(dataset):
    name, folder = dataset
    results = json.loads((folder / "run" / "results.json").read_text())
    assert [r["model"] for r in results] == ["sum", "fashionern"]
    assert {r["protocol"] for r in results} == {protocols(name)[0]}
    stages = {line["stage"] for line in read_jsonl(folder / "run" / "metrics.jsonl")}
    assert stages >= {"warm-up", "stage 1 (TME)", "stage 2 (fashionern)"}


def check_rankings(result: dict, lines: list[dict]) -> None:
    "The recalls of a result follow from its ranking file."
    assert len(lines) == totals(result["counts"])["queries"] and all(len(line["top"]) == 7 for line in lines)
    for category, recalls in result["recalls"].items():
        ranks = [line["rank"] for line in lines if line["category"] == category]
        assert recalls["R@10"] == pytest.approx(100 * sum(0 < rank <= 10 for rank in ranks) / len(ranks))
        if "Rs@1" in recalls:
            assert recalls["Rs@1"] == pytest.approx(100 * sum(line["subset_rank"] == 1 for line in lines) / len(lines))
    if PROTOCOLS[result["protocol"]].mask_reference:
        assert not any(line["reference"] in dict(line["top"]) for line in lines)


def test_the_run_says_what_it_was_trained_on(dataset):
    name, folder = dataset
    assert trained_on(folder / "run").startswith(f"drawn garments in the layout of {name}, split train")


def test_every_protocol_in_one_pass_then_a_comparison(dataset, tmp_path):
    name, folder = dataset
    wanted = protocols(name)
    flags = ["--run-dir", folder / "run", "--save-rankings", "--top-k", 7, "--out", tmp_path, *CPU]
    said = inside(ern_evaluate.main, *flags, "--protocol", *wanted)
    assert all(f"protocol {p}" in said for p in wanted)
    results = json.loads(next(tmp_path.glob("results.*.json")).read_text())
    expected = [("sum", p) for p in wanted] + [("fashionern", p) for p in wanted]
    assert [(r["model"], r["protocol"]) for r in results] == expected
    queries = {}
    for result in results:
        lines = read_jsonl(next(tmp_path.glob(f"rankings.*.{result['protocol']}.{result['model']}.jsonl")))
        check_rankings(result, lines)
        queries[result["protocol"]] = len(lines)
    a, b = (next(tmp_path.glob(f"rankings.*.{wanted[0]}.{m}.jsonl")) for m in ("sum", "fashionern"))
    said = inside(ern_compare.main, a, b, "--least", 3, "--out", tmp_path / "compare.json")
    found = json.loads((tmp_path / "compare.json").read_text())
    assert f"protocol {wanted[0]}" in said and found["all"]["queries"] == queries[wanted[0]] and found["words"]
    assert found["all"]["won"] == sum(g["won"] for g in found["categories"]) and not found["only_first"]


def check_fashioniq_predictions(data: Path, files: dict[str, list]) -> None:
    "A ranking file per category, with the queries of the caption file."
    for category in ("dress", "shirt", "toptee"):
        entries = json.loads((data / "captions" / f"cap.{category}.test.json").read_text())
        gallery = json.loads((data / "image_splits" / f"split.{category}.test.json").read_text())
        rows = files.pop(f"{category}.test.pred.json")
        for row, entry in zip(rows, entries, strict=True):
            ranking = row.pop("ranking")
            assert row == {"candidate": entry["candidate"], "captions": entry["captions"]}
            assert len(set(ranking)) == min(50, len(gallery)) and set(ranking) <= set(gallery)
    assert not files


def check_cirr_predictions(data: Path, files: dict[str, dict]) -> None:
    "The two files that CIRR's server accepts."
    entries = json.loads((data / "captions" / "cap.rc2.test1.json").read_text())
    recall = files.pop("cirr.test1.recall.json")
    subset = files.pop("cirr.test1.recall_subset.json")
    assert not files and (recall.pop("metric"), subset.pop("metric")) == ("recall", "recall_subset")
    assert recall.pop("version") == subset.pop("version") == "rc2"
    assert set(recall) == set(subset) == {str(e["pairid"]) for e in entries}
    for e in entries:
        names = recall[str(e["pairid"])]
        group = subset[str(e["pairid"])]
        assert len(set(names)) == len(names) == 50 and len(set(group)) == len(group) == 3
        assert e["reference"] not in names + group and set(group) <= set(e["img_set"]["members"])


def test_prediction_files_of_splits_without_targets(dataset, tmp_path):
    name, folder = dataset
    flags = ["--run-dir", folder / "run", "--out", tmp_path, *CPU]
    if name not in ("cirr", "fashioniq"):
        said = inside(ern_evaluate.main, *flags, "--predictions", status=2)
        assert f"{name} has no test server" in said
        return
    said = inside(ern_evaluate.main, *flags, "--split", "test", "--models", "fashionern")
    assert "the targets are not public" in said and not list(tmp_path.glob("results.*"))
    files = {p.name: json.loads(p.read_text()) for p in (tmp_path / "predictions" / "fashionern").iterdir()}
    check = check_cirr_predictions if name == "cirr" else check_fashioniq_predictions
    check(folder / "data", files)


def reference_files(name: str, root: Path) -> list[Path]:
    "Files of the reference images of the evaluation split."
    data = create_dataset(name, root, "val")
    return [data.images(n) for n in dict.fromkeys(t.reference for t in data.triplets)]


def test_missing_images_are_dropped_only_on_request(dataset, tmp_path):
    name, folder = dataset
    shutil.copytree(folder / "data", tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    best = json.loads((folder / "run" / "models" / "fashionern" / "best.json").read_text())
    for path in reference_files(name, tmp_path / "data")[:2]:
        path.unlink()
    flags = ["--run-dir", folder / "run", "--models", "sum", "--root", tmp_path / "data", "--out", tmp_path, *CPU]
    said = inside(ern_evaluate.main, *flags, status=2)
    assert "2 of " in said and "--missing drop" in said
    said = inside(ern_evaluate.main, *flags, "--missing", "drop")
    (result,) = json.loads(next(tmp_path.glob("results.*.json")).read_text())
    before = totals(best["counts"])
    now = totals(result["counts"])
    assert (now["queries_expected"], now["gallery_expected"]) == (before["queries"], before["gallery"])
    assert now["gallery"] == before["gallery"] - 2 and now["queries"] < before["queries"]
    assert "IMAGES ARE MISSING" in said
    for c in result["counts"].values():
        if c["gallery"] < c["gallery_expected"]:
            assert f"gallery {c['gallery']:,} of {c['gallery_expected']:,}" in said
