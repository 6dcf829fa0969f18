"Composers without triplets, trained on a dataset or a folder of photos; then evaluated, saved and indexed."

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY
from fashionern.errors import ErnError
from fashionern.models.hub import Retriever
from fashionern.search.config import BuildConfig
from fashionern.search.indexing import run_index
from fashionern.search.searcher import Searcher
from fashionern.training.comparison import run_methods
from fashionern.training.config import TrainConfig, get_preset
from fashionern.training.flags import parse_eval, parse_methods, parse_train
from fashionern.training.report import report
from fashionern.training.run import train
from fashionern.training.trained import load_retriever
from fashionern.weights import read_weights

NAMES = ("pic2word", "lincir", "weighted-sum")


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 12, 12, 12, 16, 6, 4, size=32, workers=1)
    return root


@pytest.fixture(scope="module")
def cfg(garments) -> TrainConfig:
    short = {"stages": ("zero-shot",), "model": "pic2word", "compare": ("sum", "lincir", "weighted-sum")}
    short |= {"zero_shot_epochs": 2, "zero_shot_batch_size": 16, "num_workers": 0, "device": "cpu"}
    return replace(get_preset("demo"), root=garments, **short)


@pytest.fixture(scope="module")
def run(cfg, tmp_path_factory) -> tuple[Path, list]:
    "A run's folder and results."
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(replace(cfg, run_dir=folder))


def test_zero_shot_models_are_rows_of_the_table_of_results(run):
    folder, results = run
    assert [result.model for result in results] == ["sum", "lincir", "weighted-sum", "pic2word"]
    assert all(result.counts for result in results)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = {row["stage"] for row in rows if "loss" in row}
    assert trained == {"zero-shot (pic2word)", "zero-shot (lincir)"}
    (chosen,) = [row["text_weight"] for row in rows if "text_weight" in row]
    assert load_retriever(folder, "weighted-sum").model.composer.text_weight == pytest.approx(chosen)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_again_the_ranking_is_the_same(run, name, garments, tmp_path):
    folder, _ = run
    trained = load_retriever(folder, name)
    trained.save_pretrained(tmp_path / "saved")
    photo = next((garments / "images").rglob("*.jpg"), None) or next((garments / "images").rglob("*.png"))
    queries = [{"image": photo, "text": text} for text in ("is red", "with long sleeves")]
    before = torch.from_numpy(trained.encode(queries))
    assert torch.allclose(torch.from_numpy(Retriever.from_pretrained(tmp_path / "saved").encode(queries)), before)
    assert (before[0] - before[1]).abs().max() > 1e-4, "the text matters"
    assert torch.allclose(before.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_evaluating_the_run_gives_the_same_recalls(run, tmp_path):
    folder, results = run
    flags = ["--run-dir", str(folder), "--out", str(tmp_path), "--num-workers", "0", "--device", "cpu"]
    means = {result.model: result.mean for result in report(parse_eval(flags))}
    assert means == {result.model: result.mean for result in results}


def test_a_resumed_run_ends_with_the_same_weights(cfg, run, tmp_path):
    folder, _ = run
    short = replace(cfg, run_dir=tmp_path / "run", compare=(), model="lincir", eval_every=1)
    train(short)
    weights = read_weights(tmp_path / "run" / "models" / "lincir" / "last.safetensors")
    (tmp_path / "run" / "models" / "lincir" / "last.safetensors").unlink()
    train(replace(short, resume=True))
    again = read_weights(tmp_path / "run" / "models" / "lincir" / "last.safetensors")
    assert all(torch.equal(again[key], value) for key, value in weights.items())


def test_triplets_do_not_change_what_is_learnt(cfg, run, garments, tmp_path):
    "The same images with the captions of other triplets give the same weights."
    import shutil

    shutil.copytree(garments, tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    for file in (tmp_path / "data" / "captions").glob("*train*.json"):
        triplets = json.loads(file.read_text(encoding="utf-8"))
        for triplet in triplets:
            triplet["captions"] = ["is anything else"] * len(triplet["captions"])
        file.write_text(json.dumps(triplets), encoding="utf-8")
    train(replace(cfg, root=tmp_path / "data", run_dir=tmp_path / "run", compare=()))
    path = Path("models/pic2word/last.safetensors")
    weights = read_weights(run[0] / path)
    assert all(torch.equal(value, weights[key]) for key, value in read_weights(tmp_path / "run" / path).items())


def test_a_folder_of_photos_trains_and_is_indexed_with_two_commands(garments, tmp_path, capsys):
    flags = ["--stages", "zero-shot", "--images", str(garments / "images"), "--encoder", TINY]
    flags += ["--clip-pretrained", "None", "--run-dir", str(tmp_path / "run")]
    flags += ["--zero-shot-epochs", "2", "--zero-shot-batch-size", "16"]
    assert train(parse_train([*flags, "--num-workers", "0", "--device", "cpu"])) == []
    printed = capsys.readouterr().out
    assert "held-out photos, the prompt with the photo's pseudo word finds" in printed
    assert not (garments / "images" / "features").exists(), "nothing is written into the folder of photos"
    retriever = load_retriever(tmp_path / "run")
    assert retriever.model.name == "pic2word" and "without triplets" in str(retriever.about["data"])
    flags = ["--run-dir", str(tmp_path / "run"), "--num-workers", "0", "--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(ErnError, match="photos.*Give --dataset and --root"):
        report(parse_eval(flags))
    of_garments = report(parse_eval([*flags, "--dataset", "fashioniq", "--root", str(garments)]))
    assert [result.model for result in of_garments] == ["pic2word"] and "R@10" in of_garments[0].mean
    build = BuildConfig(images=garments / "images", model=str(tmp_path / "run"), out=tmp_path / "index")
    assert run_index(replace(build, num_workers=0, device="cpu")) == 0
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert len(searcher.search(next((garments / "images").rglob("*.*g")), "is red", k=5)) == 5


def test_ern_methods_compares_them_with_others(garments, tmp_path):
    flags = ["--preset", "demo", "--root", str(garments), "--run-dir", str(tmp_path / "run"), "--device", "cpu"]
    flags += ["--stages", "dvr", "--methods", "weighted-sum", "lincir", "combiner", "--seeds", "1", "--ffn", "64"]
    flags += ["--num-epochs", "1", "--batch-size", "16", "--zero-shot-epochs", "1", "--num-workers", "0"]
    flags += ["--features-dir", str(tmp_path / "features"), "--zero-shot-batch-size", "16"]
    outcomes = run_methods(parse_methods(flags))
    assert [outcome.label for outcome in outcomes] == ["weighted-sum", "lincir", "combiner"]
    assert outcomes[0].parameters == 0 < outcomes[1].parameters


# ---- DVR that starts at a zero-shot composer


@pytest.fixture(scope="module")
def warm_cfg(cfg) -> TrainConfig:
    short = {"stages": ("zero-shot", "dvr"), "ffn": 64, "num_epochs": 1, "batch_size": 16, "eval_every": 0}
    return replace(cfg, model="dvr-from-pic2word", compare=("pic2word",), **short)


def ranks_of(result) -> list:
    return [query.rank for query in result.queries]


def test_dvr_starts_at_the_zero_shot_composer_and_is_trained_from_there(warm_cfg, run, tmp_path):
    "With a learning rate of next to nothing it keeps the ranks of its start; with a usual one it changes them."
    still = train(replace(warm_cfg, lr=1e-30, run_dir=tmp_path / "still"))
    assert [result.model for result in still] == ["pic2word", "dvr-from-pic2word"]
    assert ranks_of(still[0]) == ranks_of(still[1])
    moved = train(replace(warm_cfg, lr=3e-3, run_dir=tmp_path / "moved"))
    assert ranks_of(moved[0]) == ranks_of(still[0]) != ranks_of(moved[1])
    alone, warm = (load_retriever(tmp_path / "moved", name).model for name in ("pic2word", "dvr-from-pic2word"))
    trained = alone.composer.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in warm.composer.start.state_dict().items())
    assert warm.composer.correction.weight.abs().max() > 1e-3
    rows = [json.loads(line) for line in (tmp_path / "moved" / "metrics.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in rows if "loss" in row]
    assert stages == ["zero-shot (pic2word)"] * 2 + ["stage 2 (dvr-from-pic2word)"], "the start is trained once"


def test_the_start_can_come_from_an_earlier_run(warm_cfg, run, tmp_path):
    folder, _ = run
    file = folder / "models" / "pic2word" / "best.safetensors"
    given = {"clip_path": folder / "encoders.safetensors", "compare": (), "fusion_model_path": file}
    train(replace(warm_cfg, run_dir=tmp_path / "run", **given))
    start = load_retriever(tmp_path / "run").model.composer.start.state_dict()
    weights = read_weights(file)
    assert all(torch.equal(weights[f"composer.{key}"], value) for key, value in start.items())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows if "loss" in row} == {"stage 2 (dvr-from-pic2word)"}


def test_a_warm_started_model_is_resumed_and_saved(warm_cfg, garments, tmp_path):
    alone = replace(warm_cfg, compare=(), lr=3e-3, run_dir=tmp_path / "run")
    train(alone)
    last = tmp_path / "run" / "models" / "dvr-from-pic2word" / "last.safetensors"
    weights = read_weights(last)
    last.unlink()
    train(replace(alone, resume=True))
    assert all(torch.equal(read_weights(last)[key], value) for key, value in weights.items())
    trained = load_retriever(tmp_path / "run")
    trained.save_pretrained(tmp_path / "saved")
    photo = next((garments / "images").rglob("*.*g"))
    query = [{"image": photo, "text": "is red"}]
    again = Retriever.from_pretrained(tmp_path / "saved").encode(query)
    assert torch.allclose(torch.from_numpy(again), torch.from_numpy(trained.encode(query)), atol=1e-6)


@pytest.mark.parametrize("name", ["dvr-from-lincir", "dvr-from-weighted-sum"])
def test_every_start_is_trained_where_the_run_has_no_row_of_it(warm_cfg, name, tmp_path):
    (result,) = train(replace(warm_cfg, model=name, compare=(), run_dir=tmp_path / "run"))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    start = f"zero-shot ({name.removeprefix('dvr-from-')})"
    assert [row["stage"] for row in rows][0] == start and result.model == name


def test_what_the_stage_cannot_train_is_refused(cfg, garments, tmp_path):
    with pytest.raises(ErnError, match="cannot train combiner, which needs triplets. Add dvr"):
        train(replace(cfg, model="combiner", run_dir=tmp_path / "run"))
    with pytest.raises(ErnError, match="--images .* Give --stages zero-shot"):
        replace(cfg, images=garments, stages=("dvr",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ErnError, match="has 0 photos"):
        train(replace(cfg, images=tmp_path / "empty", run_dir=tmp_path / "run"))
    assert replace(cfg, model="fashionern", compare=()).model == "pic2word"
