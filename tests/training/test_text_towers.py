"Training on Hugging Face text towers: with TME where the tower can have it, else with plain text features."

import dataclasses
import json
from pathlib import Path

import open_clip
import pytest
import torch
from tiny_towers import HF_TOWERS

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY
from fashionern.encoders.tme import UnsupportedTowerError
from fashionern.errors import ErnError
from fashionern.models.cost import check_tme, models_table, tme_costs, tme_table, why_not_tme
from fashionern.training.comparison import run_methods
from fashionern.training.config import TrainConfig
from fashionern.training.flags import parse_methods, parse_train
from fashionern.training.run import plain_text_if_needed, train
from fashionern.training.trained import load_retriever

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "red", "blue", "with", "long", "sleeves", "and"]


@pytest.fixture(scope="module")
def garments(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("garments") / "data"
    draw_fashioniq(root, 12, 12, 12, 16, 6, 4, size=32, workers=1)
    return root


@pytest.fixture
def named(tmp_path, monkeypatch):
    "A function that registers an encoder with one of the tiny Hugging Face towers and returns its name."
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")

    def register(kind: str) -> str:
        class_name, fields, pooler, proj = HF_TOWERS[kind]
        config = getattr(transformers, class_name)(**fields)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / kind)
        text_cfg = {
            "hf_model_name": str(tmp_path / kind),
            "hf_tokenizer_name": str(tmp_path / "tokenizer"),
            "hf_pooler_type": pooler,
            "hf_proj_type": proj,
            "context_length": 20,
        }
        config = {"embed_dim": 64, "vision_cfg": open_clip.get_model_config(TINY)["vision_cfg"], "text_cfg": text_cfg}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, f"tiny-{kind}", {**config, "custom_text": True})
        return f"tiny-{kind}"

    return register


def flags(root: Path, run_dir: Path, name: str) -> list[str]:
    chosen = {"preset": "demo", "root": root, "run-dir": run_dir, "clip-model-name": name, "device": "cpu"}
    chosen |= {"num-workers": 0, "tme-epochs": 1, "num-epochs": 1, "ffn": 64, "stages": "tme dvr"}
    chosen |= {"tme-batch-size": 16, "batch-size": 16, "eval-every": 0, "features-dir": run_dir / "features"}
    args = []
    for flag, value in chosen.items():
        args += [f"--{flag}", *str(value).split(" ")]
    return args


def test_a_tower_that_takes_no_pseudo_words_is_refused_before_the_run_begins(named, garments, tmp_path):
    args = [*flags(garments, tmp_path / "run", named("mt5")), "--compare"]
    args += ["--stages", "zero-shot", "--model", "pic2word"]
    with pytest.raises(ErnError, match="mt5, takes token ids alone"):
        train(parse_train(args))
    assert not (tmp_path / "run" / "encoders.safetensors").exists()
    results = train(parse_train([*args[:-1], "weighted-sum"]))
    assert [result.model for result in results] == ["weighted-sum"]


def test_a_bert_trains_with_pseudo_words(named, garments, tmp_path):
    args = flags(garments, tmp_path / "run", named("bert-mean"))
    args += ["--stages", "zero-shot", "--model", "lincir", "--compare", "pic2word", "--zero-shot-epochs", "1"]
    results = train(parse_train(args))
    assert [result.model for result in results] == ["pic2word", "lincir"]
    assert load_retriever(tmp_path / "run").model.composer.network[-1].out_features == 32  # W, not D = 64


def test_a_tower_without_tme_trains_with_plain_text_features(named, garments, tmp_path, capsys):
    run_dir = tmp_path / "run"
    args = [*flags(garments, run_dir, named("mt5")), "--compare", "tme-sum", "combiner"]
    results = train(parse_train(args))
    printed = capsys.readouterr().out
    assert "Hugging Face's mt5, has layers that TME cannot extend" in printed
    assert "Stage 1 is left out, and tme-sum is trained as sum, with the encoder's own text features" in printed
    assert "stage 1:" not in printed
    assert [result.model for result in results] == ["sum", "combiner", "fashionern"]
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    assert (config["model"], config["stages"], config["compare"]) == ("fashionern", ["dvr"], ["sum", "combiner"])
    resumed = train(parse_train([*args, "--resume"]))
    assert [result.mean for result in resumed] == [result.mean for result in results]
    assert load_retriever(run_dir).model.name == "fashionern"


def test_stage_1_alone_is_refused_where_tme_is_impossible(named, garments, tmp_path):
    cfg = parse_train([*flags(garments, tmp_path / "run", named("nllb")), "--stages", "tme"])
    with pytest.raises(UnsupportedTowerError, match="Hugging Face's m2m_100"):
        train(cfg)


@pytest.mark.parametrize("kind", ["minilm", "xlm-roberta"])
def test_tme_is_trained_on_berts_layers(kind, named, garments, tmp_path):
    run_dir = tmp_path / "run"
    args = [*flags(garments, run_dir, named(kind)), "--tme-clip-lr", "1e-4", "--compare", "combiner"]
    results = train(parse_train(args))
    assert [result.model for result in results] == ["combiner", "fashionern"]
    retriever = load_retriever(run_dir)
    tme = retriever.encoders.tme
    assert tme is not None and len(tme.branches) == 2
    assert all(value != 0 for value in tme.gates().values()), "the gates were trained"
    photos = sorted((garments / "images").glob("*.jpg"))[:2] or sorted(garments.rglob("*.png"))[:2]
    queries = retriever.encode_queries(photos, ["is red", "with long sleeves"])
    assert torch.allclose(queries.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_other_encoders_keep_their_flags():
    cfg = TrainConfig(clip_model_name="ern-tiny", compare=("tme-sum",))
    assert plain_text_if_needed(cfg) == (cfg, "")
    plain = dataclasses.replace(cfg, clip_model_name="nothing", stages=("dvr",), model="combiner", compare=())
    assert plain_text_if_needed(plain) == (plain, ""), "without TME the tower does not matter"


def test_a_comparison_leaves_out_what_the_tower_cannot_do(named, garments, tmp_path, capsys):
    args = [*flags(garments, tmp_path / "methods", named("mt5")), "--seeds", "1"]
    outcomes = run_methods(parse_methods([*args, "--methods", "sum", "tme-sum"]))
    assert [outcome.model for outcome in outcomes] == ["sum"]
    assert "Left out: tme-sum." in capsys.readouterr().out
    with pytest.raises(UnsupportedTowerError):
        run_methods(parse_methods([*args, "--methods", "tme-sum"]))


def test_costs_of_hugging_face_towers(named):
    bert, mt5 = named("bert-mean"), named("mt5")
    check_tme(bert)
    assert why_not_tme(bert) is None and "mt5" in why_not_tme(mt5)
    rows = {label: (parameters, millions) for label, parameters, millions in tme_costs(bert)}
    width, hidden, tokens, places = 32, 64, 20, 13
    inject = 2 * tokens * (2 * width * width + 2 * width * hidden) + 2 * places * 2 * width * width
    inject += 2 * 2 * tokens * places * width
    added = (rows["inject alone"][1] - rows["CLIP alone"][1]) * 1e6
    assert abs(added - 2 * inject) / inject < 0.02, (added, inject)
    assert "n/a for this tower" in list(tme_table(mt5).columns[0].cells)
    assert models_table(mt5, 64).row_count > 5


def test_costs_without_the_models_configuration(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reason = why_not_tme("mt5-base-ViT-B-32")
    assert reason is not None and "google/mt5-base" in reason and "cannot be read" in reason
    assert "cannot be read" in tme_table("mt5-base-ViT-B-32").caption
