"--regions in runs: features of their own, records, runs from before the flag, and models that refuse the other kind."

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY
from fashionern.encoders.tme import load_encoders
from fashionern.errors import ErnError
from fashionern.training.config import PRESETS, TrainConfig, get_preset
from fashionern.training.flags import EvalConfig, parse_train
from fashionern.training.record import RunRecord
from fashionern.training.report import FinishedRun, fill_in
from fashionern.training.run import train
from fashionern.weights import read_header, read_weights, save_weights


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> TrainConfig:
    "A short stage 2 on a few drawn garments."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 24, 16, 16, 40, 12, 5, size=48, workers=1)
    short = {"stages": ("dvr",), "model": "combiner", "compare": ("sum",), "num_epochs": 1, "num_workers": 0}
    return replace(get_preset("demo"), root=root, device="cpu", batch_size=40, **short)


@pytest.fixture(scope="module")
def runs(cfg, tmp_path_factory) -> dict[str, Path]:
    "A run by each kind of local features."
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("crops", "grid"):
        train(replace(cfg, run_dir=folder / kind, regions=kind))
    return {kind: folder / kind for kind in ("crops", "grid")}


def test_each_kind_has_its_own_features_and_says_so(cfg, runs):
    assert len(list((cfg.root / "features").iterdir())) == 2
    for kind, run in runs.items():
        assert RunRecord.read(run).regions == kind
        assert {result["regions"] for result in json.loads((run / "results.json").read_text())} == {kind}
        assert load_encoders(TINY, run / "encoders.safetensors").clip.preprocess.regions == kind
        assert json.loads(read_header(run / "models" / "combiner" / "best.safetensors")["regions"]) == kind
    results = [json.loads((run / "results.json").read_text()) for run in runs.values()]
    sums = [result["mean"] for result in results[0] + results[1] if result["model"] == "sum"]
    assert sums[0] == sums[1], "the global features are the same"


def test_a_resumed_run_keeps_its_kind(cfg, runs):
    run = runs["grid"]
    before = (run / "results.json").read_text()
    for file in (run / "models" / "combiner").iterdir():
        file.unlink()  # as if it had stopped earlier
    (run / "encoders.safetensors").unlink()
    train(replace(cfg, run_dir=run, resume=True))
    assert load_encoders(TINY, run / "encoders.safetensors").clip.preprocess.regions == "grid"
    assert (run / "results.json").read_text() == before
    with pytest.raises(ErnError, match="started with --regions grid .now crops."):
        train(replace(cfg, run_dir=run, resume=True, regions="crops"))


def test_a_run_from_before_the_flag_keeps_its_crops(cfg, tmp_path, capsys):
    run = tmp_path / "run"
    train(replace(cfg, run_dir=run))
    settings = json.loads((run / "config.json").read_text())
    del settings["regions"]
    (run / "config.json").write_text(json.dumps(settings))
    best = run / "models" / "combiner" / "best.safetensors"
    state, header = read_weights(best), read_header(best)
    save_weights(best, state, **{k: v for k, v in header.items() if k not in ("regions", "digest")})
    assert FinishedRun(EvalConfig(run_dir=run, num_workers=0, device="cpu")).models
    (run / "encoders.safetensors").unlink()
    for _ in range(2):
        capsys.readouterr()
        train(replace(cfg, run_dir=run, resume=True, regions="grid"))
        assert "started without --regions. It keeps its local features" in capsys.readouterr().err
        assert load_encoders(TINY, run / "encoders.safetensors").clip.preprocess.regions == "crops"


def test_a_model_refuses_features_of_the_other_kind(cfg, runs, tmp_path):
    options = {"num_workers": 0, "device": "cpu", "out": tmp_path}
    for kind, other in (("crops", "grid"), ("grid", "crops")):
        mismatch = f"best.safetensors was trained on local features of --regions {kind}.*those of --regions {other}"
        other_weights = EvalConfig(run_dir=runs[kind], clip_path=runs[other] / "encoders.safetensors", **options)
        with pytest.raises(ErnError, match=mismatch):
            FinishedRun(other_weights)
        with pytest.raises(ErnError, match=mismatch):
            FinishedRun(EvalConfig(run_dir=runs[kind], regions=other, **options))
    assert FinishedRun(EvalConfig(run_dir=runs["grid"], models=("sum",), regions="crops", **options)).models


def test_evaluation_takes_the_runs_kind_for_weights_that_record_none(runs, tmp_path):
    assert fill_in(EvalConfig(run_dir=runs["grid"])).regions is None, "the file records it"
    assert fill_in(EvalConfig(run_dir=runs["grid"], clip_path=tmp_path / "clip.pt")).regions == "grid"
    recorded = runs["crops"] / "encoders.safetensors"
    assert fill_in(EvalConfig(run_dir=runs["grid"], clip_path=recorded)).regions is None


def test_the_papers_presets_have_crops():
    papers = [name for name, preset in PRESETS.items() if preset.model == "fashionern-published"]
    assert papers and all(PRESETS[name].regions == "crops" for name in papers)
    assert parse_train(["--preset", papers[0], "--regions", "grid"]).regions == "grid"
    assert TrainConfig().regions is None


def test_the_presets_of_product_tables_have_the_grid():
    for name in ("catalogue", "catalogue-tiny"):
        assert PRESETS[name].regions == "grid"
        assert parse_train(["--preset", name, "--clip-model-name", "ViT-B-32"]).regions == "grid"


def test_a_model_that_the_run_lacks_is_reported_with_those_it_has(runs):
    with pytest.raises(ErnError, match=r"--models vtf: .* has no such model\. It has .*combiner"):
        FinishedRun(EvalConfig(run_dir=runs["grid"], models=("vtf",), num_workers=0, device="cpu"))
