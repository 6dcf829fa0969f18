"What of a text is ignored: words that never occurred in training, and the end of a text that is cut."

from dataclasses import replace

import pytest
import torch

from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.encoders.clip import TINY, ClipEncoder, create_clip, recorded_tokens
from fashionern.encoders.tme import Encoders, load_encoders
from fashionern.encoders.words import learn_words, read_part, unknown_words, what_is_ignored
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.models.untrained import encoder_spec, untrained_retriever
from fashionern.search.index import model_identity
from fashionern.training.config import get_preset
from fashionern.training.run import train
from fashionern.training.trained import load_retriever
from fashionern.weights import read_header, read_weights, save_weights

MAXI = "I don't know the word 'maxi'"


@pytest.fixture
def clip() -> ClipEncoder:
    "A tiny encoder that knows a few words."
    clip = create_clip(TINY)
    learn_words(clip, ["is red and has long sleeves", "a blue dress without a logo"])
    return clip


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Is red.", []),
        ("", []),
        ("?! 🧵", ["'?! 🧵' has no word, so the results follow the photo alone."]),
        ("is the one that I'd like, please: LONG Sleeves", []),
        ("is a red maxi", [f"{MAXI}."]),
        ("Maxi, MAXI and red", [f"{MAXI}."]),
        ("red maxi, boho", ["I don't know the words 'maxi' and 'boho'."]),
        ("maxi boho kimono, red", ["I don't know the words 'maxi', 'boho' and 'kimono'."]),
        ("is maxi", [f"{MAXI}, so the results follow the photo alone."]),
        ("without maxi", [f"{MAXI}, so the results follow the photo alone."]),
        ("red كم", ["I don't know the word 'كم'."]),
        ("Not red!", ["I may miss a refusal such as 'not red'. Say what you want instead."]),
        ("please, anything but blue", ["I may miss a refusal such as 'anything but blue'. Say what you want instead."]),
        ("without a logo", ["I may miss a refusal such as 'without a logo'. Say what you want instead."]),
        ("is red, not blue", []),
        ("not blue but red", []),
        ("red and without a logo", []),
        ("red " + "x" * 60, [f"I don't know the word '{'x' * 40}…'."]),
        (
            "red maxi boho kimono tartan paisley gingham",
            ["I don't know the words 'maxi', 'boho', 'kimono', 'tartan' and 2 others."],
        ),
    ],
)
def test_unknown_words(clip, text, sentences):
    assert what_is_ignored(clip, text) == sentences


def test_a_text_alone_of_unknown_words(clip):
    assert what_is_ignored(clip, "is maxi", has_photo=False) == [f"{MAXI}, so the results are arbitrary."]


def test_a_cut_text_names_the_last_words_that_are_read(clip):
    text = "long blue " * 13 + "dress"  # 27 words, but room for 26
    expected = 'The text is too long: everything after "… blue long blue" is ignored.'
    assert what_is_ignored(clip, text) == [expected]
    assert what_is_ignored(clip, text + " maxi") == [expected], "a word that is not read is not reported twice"
    assert what_is_ignored(clip, text.removesuffix(" dress")) == []
    read = read_part(clip, text)
    assert clip.tokenize([read]).equal(clip.tokenize([text])) and len(read.split()) == clip.context - 2


def test_a_cut_in_the_first_word(clip):
    assert what_is_ignored(clip, "red" + "🧵" * 200) == ["The text is too long: its end is ignored."]
    assert what_is_ignored(clip, "red " + "🧵" * 200) == ['The text is too long: everything after "red" is ignored.']


def test_pretrained_weights_report_only_cuts(clip, tmp_path):
    torch.save(clip.model.state_dict(), tmp_path / "pretrained.pt")
    pretrained = create_clip(TINY, clip_path=tmp_path / "pretrained.pt")
    learn_words(pretrained, ["is red"])
    assert pretrained.known_tokens is None and what_is_ignored(pretrained, "is maxi") == []
    assert what_is_ignored(pretrained, "maxi " * 27)[0].startswith("The text is too long: everything after")


def test_the_laptop_encoder_reports_only_cuts(laptop):
    clip = create_clip(laptop)
    learn_words(clip, ["is red"])
    assert clip.context == 64 and what_is_ignored(clip, "maxi " + "red " * 61) == []
    expected = 'The text is too long: everything after "… red red red" is ignored.'
    assert what_is_ignored(clip, "maxi " + "red " * 62) == [expected]


def test_the_record_is_saved_and_loaded(clip, tmp_path):
    encoders = Encoders(clip)
    encoders.save(tmp_path / "encoders.safetensors")
    retriever = Retriever(encoders, create_model("sum", clip.dim)).eval()
    retriever.save_pretrained(tmp_path / "model")
    spec = encoder_spec(TINY, clip_path=tmp_path / "encoders.safetensors")
    loaded = [
        load_encoders(TINY, tmp_path / "encoders.safetensors"),
        load_retriever(tmp_path / "model").encoders,
        untrained_retriever(spec).encoders,
    ]
    for other in loaded:
        assert other.clip.known_tokens == clip.known_tokens
        assert what_is_ignored(other.clip, "red maxi") == [f"{MAXI}."]


def test_files_without_a_record_say_nothing(clip, tmp_path):
    "Runs and folders of earlier versions; training such an encoder further records nothing either."
    file = tmp_path / "encoders.safetensors"
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim)).eval()
    identity = model_identity(retriever)
    retriever.save_pretrained(tmp_path / "model")
    retriever.encoders.save(file)
    for path in (file, tmp_path / "model" / "model.safetensors"):
        header = {k: v for k, v in read_header(path).items() if k not in ("known_tokens", "digest")}
        save_weights(path, read_weights(path), **header)
    for other in (load_encoders(TINY, file), load_retriever(tmp_path / "model").encoders):
        learn_words(other.clip, ["is red"])
        assert other.clip.known_tokens is None and what_is_ignored(other.clip, "maxi") == []
    assert model_identity(load_retriever(tmp_path / "model")) == identity, "earlier indexes stay valid"


def test_a_damaged_record_is_none():
    for value in ("", "{", "[1.5]", "[true]", '"7"', "[" * 100_000):
        assert recorded_tokens({"known_tokens": value}) is None


def test_a_run_records_the_words_of_its_stages(tmp_path):
    draw_fashioniq(tmp_path / "data", 12, 12, 12, 16, 6, 4, size=32, workers=1)
    short = {"model": "combiner", "compare": (), "num_epochs": 1, "warmup_epochs": 1, "num_workers": 0}
    short |= {"device": "cpu", "batch_size": 16, "warmup_batch_size": 16}
    short |= {"stages": ("warmup", "dvr"), "root": tmp_path / "data", "run_dir": tmp_path / "run"}
    cfg = replace(get_preset("demo"), **short)
    train(cfg)
    warmed_up = load_encoders(TINY, cfg.run_dir / "clip.safetensors").clip
    trained = load_retriever(cfg.run_dir).encoders.clip
    assert unknown_words(warmed_up, "red dress, instead of maxi") == ["maxi"]
    assert warmed_up.known_tokens < trained.known_tokens
    assert unknown_words(trained, "red dress, maxi") == ["maxi"]
