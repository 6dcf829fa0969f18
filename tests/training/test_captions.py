"Captions reach the tokenizer as the model was trained: as they are for CIRR, Shoes and Fashion200k, else stripped."

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fashionern.data.datasets.editions import draw_dataset
from fashionern.data.datasets.factory import create_dataset
from fashionern.data.datasets.folder import load_folder
from fashionern.data.registry import DATASETS
from fashionern.data.triplets import CAPTION_RULES, join_captions
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.errors import ErnError
from fashionern.models.embedder import encode_texts
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model, load_model, save_model
from fashionern.search.explain import explain_result
from fashionern.search.index import model_identity
from fashionern.training.config import TrainConfig
from fashionern.training.flags import EvalConfig
from fashionern.training.report import FinishedRun, report
from fashionern.training.run import train
from fashionern.training.trained import load_retriever
from fashionern.weights import read_header, read_weights, save_weights


def test_each_dataset_has_its_published_rule(tmp_path):
    rules = {"fashioniq": "stripped", "shoes": "as-is", "fashion200k": "as-is", "cirr": "as-is"}
    for name, rule in rules.items():
        draw_dataset(name, tmp_path / name, images=60, size=32, workers=1)
        assert {create_dataset(name, tmp_path / name, split).caption_rule for split in ("train", "val")} == {rule}
    entry = {"candidate": "a", "target": "b", "captions": "is red."}
    (tmp_path / "triplets.val.json").write_text(json.dumps([entry]))
    assert load_folder(tmp_path).caption_rule == "stripped"


def test_stripping_changes_most_captions_of_the_real_cirr(annotations):
    data = DATASETS.get("cirr").load(annotations("cirr"), "val")
    captions = [t.captions for t in data.triplets]
    assert [join_captions(c, rule=data.caption_rule) for c in captions] == [c for (c,) in captions]
    stripped = sum(c.strip(" .?,") != c for (c,) in captions)
    assert (stripped, len(captions)) == (2560, 4181)


@pytest.fixture
def tokenized(monkeypatch) -> list[str]:
    "Every text that reaches a tokenizer during the test."
    from fashionern.encoders.clip import ClipEncoder

    texts: list[str] = []
    original = ClipEncoder.token_ids

    def token_ids(self, given):
        texts.extend(given)
        return original(self, given)

    monkeypatch.setattr(ClipEncoder, "token_ids", token_ids)
    return texts


TYPED = " replace black with red, "
READ = {"stripped": "Replace black with red", "as-is": TYPED}


@pytest.mark.parametrize("rule", CAPTION_RULES)
def test_what_a_user_types_is_read_by_the_models_rule(rule, tokenized, tmp_path):
    encoders = Encoders(create_clip(TINY))
    retriever = Retriever(encoders, create_model("sum", encoders.clip.dim, captions=rule)).eval()
    image = Image.new("RGB", (40, 60), "red")
    retriever.encode_queries([image], [TYPED])
    encode_texts(retriever, [TYPED])
    retriever.encode([{"image": image, "text": TYPED}, TYPED])
    assert tokenized == [READ[rule]] * 4
    tokenized.clear()
    explanation = explain_result(retriever, image, TYPED, image)
    assert tokenized[0] == READ[rule]
    assert [word for word, _ in explanation.words][-1] == READ[rule].split()[-1]
    retriever.save_pretrained(tmp_path / "hub")
    loaded = Retriever.from_pretrained(tmp_path / "hub")
    assert loaded.model.captions == rule and model_identity(loaded) == model_identity(retriever)


def test_a_folder_saved_before_the_rule_was_recorded_is_stripped(tmp_path):
    retriever = Retriever(Encoders(create_clip(TINY)), create_model("sum", 128))
    assert "captions" not in retriever.record()["settings"], "its index must still know it"
    retriever.save_pretrained(tmp_path)
    assert Retriever.from_pretrained(tmp_path).model.captions == "stripped"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"settings": {"captions": "raw"}}))
    with pytest.raises(ErnError, match="config.json.*caption rule named 'raw'"):
        Retriever.from_pretrained(tmp_path)


def test_a_model_file_records_its_rule(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    save_model(create_model("tirg", 8, captions="as-is"), path)
    model = create_model("tirg", 8)
    load_model(model, path)
    assert model.captions == "as-is" and capsys.readouterr().err == ""
    other = create_model("tirg", 8, captions="stripped")
    load_model(other, path)
    assert other.captions == "stripped"
    assert "trained with captions=as-is, but captions=stripped is asked for" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> TrainConfig:
    "A finished run on a drawn CIRR whose captions end in punctuation, as the real ones do."
    folder = tmp_path_factory.mktemp("cirr")
    draw_dataset("cirr", folder / "data", images=60, size=32, workers=1)
    for file in (folder / "data" / "captions").glob("*.json"):
        entries = json.loads(file.read_text())
        for entry in entries:
            entry["caption"] = entry["caption"].lower() + "."
        file.write_text(json.dumps(entries))
    cfg = TrainConfig(
        dataset="cirr", root=folder / "data", run_dir=folder / "run", clip_model_name=TINY, clip_pretrained=None,
        stages=("tme", "dvr"), model="tme+tirg+identity", compare=("sum",), tme_epochs=1, num_epochs=1,
        batch_size=32, tme_batch_size=32, num_workers=0, device="cpu", amp="off",
    )  # fmt: skip
    train(cfg)
    return cfg


def evaluated(cfg: TrainConfig, **flags) -> dict[str, dict]:
    results = report(EvalConfig(run_dir=cfg.run_dir, device="cpu", num_workers=0, **flags))
    return {result.model: result.as_dict() for result in results}


def test_a_new_run_uses_and_records_the_rule_of_its_dataset(finished, tokenized, capsys, tmp_path):
    assert json.loads((finished.run_dir / "config.json").read_text())["captions"] == "as-is"
    results = json.loads((finished.run_dir / "results.json").read_text())
    assert evaluated(finished, out=tmp_path) == {result["model"]: result for result in results}
    assert "reads captions" not in capsys.readouterr().err
    captions = {c for t in create_dataset("cirr", finished.root, "val").triplets for c in t.captions}
    assert captions == set(tokenized) and all(text.endswith(".") for text in tokenized)
    assert load_retriever(finished.run_dir).model.captions == "as-is"
    tokenized.clear()
    stage_one = replace(finished, run_dir=tmp_path / "again", stages=("tme",))
    train(stage_one)
    sentences = [text for text in tokenized if " " in text]  # the known words are recorded one by one
    assert sentences and all(text.endswith(".") for text in sentences), "stage 1 too"


def as_early_run(folder: Path) -> None:
    "Remove what early versions did not record."
    config = json.loads((folder / "config.json").read_text())
    del config["captions"]
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("models/*/*.safetensors"):
        header = read_header(path)
        if "settings" not in header:  # the state of the training loop
            continue
        settings = json.loads(header["settings"])
        settings.pop("captions", None)
        save_weights(path, read_weights(path), model=header["model"], settings=json.dumps(settings))


def test_a_run_of_an_early_version_stays_stripped(finished, tokenized, capsys, tmp_path):
    as_trained = evaluated(finished, out=tmp_path, captions="stripped")
    assert "reads captions stripped, as in its training or by --captions." in capsys.readouterr().err
    assert all(text[0].isupper() and not text.endswith(".") for text in tokenized)
    as_early_run(finished.run_dir)
    assert evaluated(finished, out=tmp_path) == as_trained
    assert "reads captions stripped" in capsys.readouterr().err
    assert load_retriever(finished.run_dir).model.captions == "stripped"
    tokenized.clear()
    (finished.run_dir / "models" / finished.model / "last.safetensors").unlink()
    train(replace(finished, resume=True))
    train(replace(finished, resume=True))
    assert tokenized and all(text[0].isupper() and not text.endswith(".") for text in tokenized)
    assert json.loads((finished.run_dir / "config.json").read_text())["captions"] is None
    with pytest.raises(ErnError, match="--captions None .now as-is"):
        train(replace(finished, resume=True, captions="as-is"))


def test_published_weights_read_captions_as_published_for_the_dataset(finished, tmp_path):
    torch.save(create_model("combiner", 128).composer.state_dict(), tmp_path / "combiner.pt")
    flags = {"models": ("combiner",), "fusion_model_path": tmp_path / "combiner.pt", "clip_model_name": TINY}
    own = EvalConfig(dataset="cirr", root=finished.root, clip_pretrained=None, device="cpu", num_workers=0, **flags)
    assert FinishedRun(own).models[0].captions == "as-is"
    assert FinishedRun(replace(own, captions="stripped")).models[0].captions == "stripped"
