"--preprocess in runs: the features of each, and runs that were started before the flag existed."

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY
from fashionern.encoders.tme import load_encoders
from fashionern.errors import ErnError
from fashionern.training.config import TrainConfig, get_preset
from fashionern.training.flags import EvalConfig
from fashionern.training.record import RunRecord
from fashionern.training.report import fill_in
from fashionern.training.run import train
from fashionern.weights import read_header, read_weights, save_weights


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> TrainConfig:
    "A short stage 2 on a few drawn garments."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 24, 16, 16, 40, 12, 5, size=48, workers=1)
    short = {"stages": ("dvr",), "model": "combiner", "compare": (), "num_epochs": 1, "num_workers": 0}
    return replace(get_preset("demo"), root=root, device="cpu", batch_size=40, **short)


@pytest.fixture(scope="module")
def before(cfg, tmp_path_factory) -> Path:
    "A run as earlier versions left it, stopped before stage 2."
    run = tmp_path_factory.mktemp("before") / "run"
    train(replace(cfg, run_dir=run, preprocess="centred"))
    settings = json.loads((run / "config.json").read_text())
    del settings["preprocess"]
    (run / "config.json").write_text(json.dumps(settings))
    file = run / "encoders.safetensors"
    state = read_weights(file)
    header = {k: v for k, v in read_header(file).items() if k not in ("preprocess", "digest")}
    save_weights(file, state, **header)
    return run


def stores(cfg: TrainConfig) -> set[str]:
    return {folder.name for folder in (cfg.root / "features").iterdir()}


def test_a_run_started_before_resumes_with_its_preprocessing(cfg, before, capsys):
    stored = stores(cfg)
    resumed = replace(cfg, run_dir=before, resume=True)
    with pytest.raises(ErnError, match="started with --preprocess centred .now encoder."):
        train(replace(resumed, preprocess="encoder"))
    finished = json.loads((before / "results.json").read_text())
    for _ in range(2):
        for file in (before / "models" / "combiner").iterdir():
            file.unlink()
        (before / "encoders.safetensors").unlink()  # as if it had stopped earlier
        train(resumed)
        assert "continues with --preprocess centred" in capsys.readouterr().err
        assert stores(cfg) == stored
        assert json.loads((before / "results.json").read_text()) == finished
        assert RunRecord.read(before).preprocess == "centred"
    encoders = load_encoders(TINY, before / "encoders.safetensors")
    assert encoders.clip.preprocess.rounding == "centred"


def test_a_new_run_has_the_new_rules_and_its_own_features(cfg, before, tmp_path, capsys):
    stored = stores(cfg)
    train(replace(cfg, run_dir=tmp_path / "run"))
    assert "centred" not in capsys.readouterr().err
    assert len(stores(cfg) - stored) == 1
    encoders = load_encoders(TINY, tmp_path / "run" / "encoders.safetensors")
    assert encoders.clip.preprocess.rounding == "torchvision"


def test_a_new_run_on_a_file_from_before_says_that_the_files_rule_is_used(cfg, before, tmp_path, capsys):
    train(replace(cfg, run_dir=tmp_path / "run", clip_path=before / "encoders.safetensors"))
    assert "other preprocessing than 'targetpad'" in capsys.readouterr().err
    encoders = load_encoders(TINY, tmp_path / "run" / "encoders.safetensors")
    assert encoders.clip.preprocess.rounding == "centred"


def test_evaluation_takes_the_runs_preprocessing_for_other_weights(before, tmp_path):
    assert fill_in(EvalConfig(run_dir=before)).preprocess is None, "the file records it"
    assert fill_in(EvalConfig(run_dir=before, clip_path=tmp_path / "clip.pt")).preprocess == "centred"
    chosen = EvalConfig(run_dir=before, clip_path=tmp_path / "clip.pt", preprocess="encoder")
    assert fill_in(chosen).preprocess == "encoder"
