"Vector lengths: modules trained on CLIP's own lengths rank here as they were trained, from every kind of record."

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.errors import ErnError
from fashionern.models.composers.combiner import Combiner
from fashionern.models.composers.dvr import DVR, TargetRefinement, from_published
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model, load_model, save_model
from fashionern.records import CROPS, ImageFeatures, TextFeatures
from fashionern.search.index import model_identity
from fashionern.weights import read_header, read_weights, save_weights

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def golden_state(name: str) -> dict[str, torch.Tensor]:
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def inputs(n: int, D: int) -> tuple[ImageFeatures, TextFeatures]:
    mask = torch.ones(n, 77, dtype=torch.bool)
    return ImageFeatures(unit(n, D), unit(n, CROPS, D)), TextFeatures(unit(n, D), unit(n, 77, D), mask)


def scaled(images: ImageFeatures, text: TextFeatures, image: float, words: float, crops: float):
    "The same features with these lengths."
    longer = ImageFeatures(images.embedding * image, images.local * crops)
    return longer, TextFeatures(text.embedding * words, text.tokens, text.mask)


@torch.no_grad()
def trained_combiner(D: int) -> Combiner:
    "A Combiner whose output depends strongly on the lengths of its inputs, as a trained one does."
    torch.manual_seed(0)
    combiner = Combiner(D).eval()
    for parameter in combiner.parameters():
        parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter.shape[-1] ** 0.5))
    return combiner


def ranking(query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    return (query @ gallery.T).argsort(dim=-1, descending=True)


def test_a_combiner_trained_on_lengths_10_and_8_ranks_as_it_was_trained(tmp_path):
    D = 32
    raw = trained_combiner(D)
    reference, text = inputs(40, D)
    gallery = unit(200, D)
    with torch.no_grad():
        expected = ranking(raw(*scaled(reference, text, 10, 8, 1)), gallery)
        assert (ranking(raw(reference, text), gallery)[:, :10] == expected[:, :10]).float().mean() < 0.8
        model = create_model("combiner@lengths=10x8", D).eval()
        model.composer.load_state_dict(raw.state_dict())
        save_model(model, tmp_path / "best.safetensors")
        loaded = create_model("combiner@lengths=10x8", D).eval()
        load_model(loaded, tmp_path / "best.safetensors")
        assert torch.equal(ranking(loaded.encode_query(reference, text), gallery), expected)
    header = read_header(tmp_path / "best.safetensors")
    assert json.loads(header["lengths"]) == {"image": 10, "text": 8, "crops": 10}


def test_lengths_given_as_a_setting_come_back_with_the_weights(tmp_path):
    "A model whose name does not say the lengths, such as CLIP4Cir's Combiner after fine-tuning."
    D = 32
    model = create_model("combiner", D, lengths="10x8").eval()
    save_model(model, tmp_path / "best.safetensors")
    loaded = create_model("combiner", D).eval()
    load_model(loaded, tmp_path / "best.safetensors")
    reference, text = inputs(5, D)
    with torch.no_grad():
        assert torch.equal(loaded.encode_query(reference, text), model.encode_query(reference, text))


@pytest.mark.parametrize("wrapped", [False, True], ids=["state dict alone", "CLIP4Cir's checkpoint"])
def test_published_combiner_weights_get_their_lengths_and_say_so(wrapped, tmp_path, capsys):
    state = golden_state("combiner_clip4cir")
    path = tmp_path / "combiner.pt"
    torch.save({"epoch": 3, "Combiner": state} if wrapped else state, path)
    published = Combiner(16).eval()
    published.load_state_dict(state)
    reference, text = inputs(6, 16)
    model = create_model("combiner", 16).eval()
    load_model(model, path)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "lengths=published" in said and "combiner@lengths=unit" in said
    with torch.no_grad():
        expected = published(*scaled(reference, text, 10, 10, 1))
        assert torch.equal(model.encode_query(reference, text), expected)
        assert (published(reference, text) - expected).abs().max() > 0.01, "the lengths matter"
        unscaled = create_model("combiner@lengths=unit", 16).eval()
        load_model(unscaled, path)
        assert capsys.readouterr().err == ""
        assert torch.equal(unscaled.encode_query(reference, text), published(reference, text))
    save_model(model, tmp_path / "tuned.safetensors")
    again = create_model("combiner", 16).eval()
    load_model(again, tmp_path / "tuned.safetensors")
    with torch.no_grad():
        assert torch.equal(again.encode_query(reference, text), expected)


def published_modules() -> torch.nn.ModuleDict:
    modules = torch.nn.ModuleDict({"composer": DVR(16), "target": TargetRefinement(16)}).eval()
    modules.load_state_dict(from_published(golden_state("dvr_published")))
    return modules


def test_published_fashionern_scales_embeddings_and_crops(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(golden_state("dvr_published"), tmp_path / "ern.pt")
    modules = published_modules()
    images, text = inputs(6, 16)
    model = create_model("dvr", 16).eval()
    load_model(model, tmp_path / "ern.pt")
    assert "lengths=published" in capsys.readouterr().err
    with torch.no_grad():
        long, words = scaled(images, text, 10, 10, 10)
        assert torch.allclose(model.encode_query(images, text), modules["composer"](long, words), atol=1e-6)
        weights = model.composer.attention(images, text)
        expected = modules["composer"].attention(long, words)
        assert torch.allclose(weights.crops, expected.crops)
        in_evaluation = ImageFeatures(images.embedding, 10 * images.local)  # the published gallery is normalised
        assert torch.allclose(model.encode_target(images), modules["target"](in_evaluation), atol=1e-6)
        crops_unit = scaled(images, text, 10, 10, 1)
        gap = (modules["composer"](*crops_unit) - modules["composer"](long, words)).abs().max()
        assert gap > 0.01, "the crops' lengths matter"


def as_early_file(path: Path) -> None:
    "Rewrite a model file without the fields that early versions did not write."
    header = {k: v for k, v in read_header(path).items() if k in ("model", "settings")}
    save_weights(path, read_weights(path), **header)


def test_published_lengths_of_an_early_run_scale_embeddings_alone(tmp_path, capsys):
    name = "dvr@lengths=published"
    torch.manual_seed(0)
    model = create_model(name, 16, ffn=32).eval()
    images, text = inputs(4, 16)
    path = tmp_path / "best.safetensors"
    save_model(model, path)
    loaded = create_model(name, 16, ffn=32).eval()
    load_model(loaded, path)
    with torch.no_grad():
        assert torch.equal(loaded.encode_query(images, text), model.encode_query(images, text))
        assert capsys.readouterr().err == ""
        as_early_file(path)
        load_model(loaded, path)
        assert "crops keep length 1" in capsys.readouterr().err
        plain = create_model("dvr", 16, ffn=32).eval()
        plain.load_state_dict(model.state_dict())
        expected = plain.encode_query(*scaled(images, text, 10, 10, 1))
        assert torch.allclose(loaded.encode_query(images, text), expected, atol=1e-6)
        assert torch.allclose(loaded.encode_target(images), plain.encode_target(images), atol=1e-6)
    save_model(loaded, tmp_path / "again.safetensors")
    assert "lengths" not in read_header(tmp_path / "again.safetensors"), "saved again, it is still recognised"


def test_lengths_in_a_saved_folder(tmp_path, capsys):
    encoders = Encoders(create_clip(TINY))
    D = encoders.clip.dim
    torch.manual_seed(0)
    images, text = inputs(3, D)
    retriever = Retriever(encoders, create_model("dvr@lengths=published", D, ffn=32)).eval()
    retriever.save_pretrained(tmp_path / "new")
    loaded = Retriever.from_pretrained(tmp_path / "new")
    with torch.no_grad():
        assert torch.equal(loaded.model.encode_query(images, text), retriever.model.encode_query(images, text))
    assert model_identity(loaded) == model_identity(retriever) and capsys.readouterr().err == ""
    config_file = tmp_path / "new" / "config.json"
    config = json.loads(config_file.read_text())
    assert config.pop("lengths") == {"image": 10, "text": 10, "crops": 10}
    config_file.write_text(json.dumps(config))
    early = Retriever.from_pretrained(tmp_path / "new")
    assert early.model.composer.lengths.crops == 1 and "crops keep length 1" in capsys.readouterr().err
    assert "lengths" not in early.record() and early.record()["settings"] == config["settings"]
    for wrong in ({"image": 0, "text": 1, "crops": 1}, {"images": 1}, [10, 8], "10x8", {"image": "10"}):
        config_file.write_text(json.dumps(config | {"lengths": wrong}))
        with pytest.raises(ErnError, match="no readable lengths"):
            Retriever.from_pretrained(tmp_path / "new")


def test_unit_lengths_leave_no_trace_in_a_record():
    "Otherwise an index built by an early version would no longer know its model."
    retriever = Retriever(Encoders(create_clip(TINY)), create_model("combiner", 128))
    assert "lengths" not in retriever.record() and retriever.record()["settings"] == {}


def test_a_later_setting_that_is_off_leaves_no_trace_in_the_identity():
    "As above: a fashionern of version 0.2 recorded no last_token."
    encoders = Encoders(create_clip(TINY))
    D = encoders.clip.dim
    torch.manual_seed(0)
    today = create_model("fashionern", D, ffn=32)
    models = {value: create_model("fashionern", D, ffn=32, last_token=value) for value in (True, False)}
    earlier = create_model("fashionern", D, ffn=32, last_token=False)
    del earlier.settings["last_token"]
    for model in (*models.values(), earlier):
        model.load_state_dict(today.state_dict())
    identity = {value: model_identity(Retriever(encoders, model)) for value, model in models.items()}
    assert identity[False] == model_identity(Retriever(encoders, earlier)) != identity[True]


def test_other_lengths_than_those_of_the_weights_are_reported(tmp_path, capsys):
    save_model(create_model("combiner", 16, lengths="10x8"), tmp_path / "best.safetensors")
    model = create_model("combiner", 16, lengths="unit")
    load_model(model, tmp_path / "best.safetensors")
    assert "trained with lengths=10x8, but lengths=unit is asked for" in capsys.readouterr().err
    assert model.composer.lengths.image == 1


def test_unreadable_settings_in_a_header_are_an_error(tmp_path):
    model = create_model("combiner", 8)
    for wrong in ("{", "[]", "7"):
        save_weights(tmp_path / "w.safetensors", model.state_dict(), model="combiner", settings=wrong)
        with pytest.raises(ErnError, match="no readable settings"):
            load_model(model, tmp_path / "w.safetensors")


def test_published_weights_of_a_composer_without_lengths_get_none(tmp_path, capsys):
    "Every composer has the attribute, but only some scale their inputs."
    artemis = create_model("artemis", 16)
    torch.save(artemis.composer.state_dict(), tmp_path / "artemis.pt")
    model = create_model("artemis", 16)
    load_model(model, tmp_path / "artemis.pt")
    assert "lengths" not in model.settings and capsys.readouterr().err == ""
    create_model(model.name, **model.settings)  # the record rebuilds the model
