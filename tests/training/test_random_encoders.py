"Encoders whose weights are random and that no warm-up trains are reported."

from dataclasses import replace

import pytest
from safetensors.torch import save_file

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY
from fashionern.encoders.laptop import LAPTOP
from fashionern.encoders.sources import random_part
from fashionern.errors import ErnError
from fashionern.models.untrained import encoder_spec
from fashionern.training.config import TrainConfig, get_preset
from fashionern.training.run import train

RANDOM = {TINY: "weights", LAPTOP: "projections"}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> TrainConfig:
    "A short stage 2 on a few drawn garments."
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 12, 12, 12, 16, 6, 4, size=32, workers=1)
    short = {"stages": ("dvr",), "model": "combiner", "compare": (), "num_epochs": 1, "warmup_epochs": 1}
    return replace(get_preset("demo"), root=root, device="cpu", batch_size=16, num_workers=0, **short)


def need(name: str, request: pytest.FixtureRequest) -> None:
    "Skip the test where the packages of `ern-laptop` are missing."
    if name == LAPTOP:
        request.getfixturevalue("laptop")


@pytest.mark.parametrize("name", RANDOM)
def test_training_without_a_warm_up_says_what_is_random(name, cfg, tmp_path, capsys, request):
    need(name, request)
    train(replace(cfg, clip_model_name=name, run_dir=tmp_path / "run"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "random" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{name} has random {RANDOM[name]} here")
    assert "Add warmup to --stages" in lines[0] and "--clip-path" in lines[0]


def test_trained_weights_and_a_warm_up_are_not_reported(cfg, tmp_path, capsys):
    train(replace(cfg, stages=("warmup",), warmup_batch_size=16, run_dir=tmp_path / "warm"))
    train(replace(cfg, clip_path=tmp_path / "warm" / "clip.safetensors", run_dir=tmp_path / "run"))
    assert "random" not in capsys.readouterr().out


@pytest.mark.parametrize("name", RANDOM)
def test_random_encoders_are_found_whatever_tag_is_given(name, tmp_path, request):
    "The tag of `TrainConfig` is 'openai', which belongs to neither encoder."
    need(name, request)
    save_file({}, tmp_path / "w.safetensors")
    assert random_part(name, "openai") == RANDOM[name]
    assert encoder_spec(name).random and encoder_spec(name, "openai").random
    assert not encoder_spec(name, clip_path=tmp_path / "w.safetensors").random
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(ErnError, match="w.safetensors cannot be read as safetensors"):
        encoder_spec(name, clip_path=tmp_path / "w.safetensors")
