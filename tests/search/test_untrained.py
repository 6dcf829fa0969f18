"Search by a pretrained encoder alone: `ern_index build --encoder`, its record, and the weight of the text."

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fashionern.data.drawn.garments import draw_pictures, sample_designs
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.encoders.words import learn_words
from fashionern.errors import ErnError
from fashionern.models.embedder import query_vectors
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.records import ImageFeatures, TextFeatures
from fashionern.search import index as search_index
from fashionern.search.config import parse_index, parse_search
from fashionern.search.indexing import run_index
from fashionern.search.inventory import open_store
from fashionern.search.results import run_search
from fashionern.search.searcher import Searcher

COUNT = 12


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    "photos/ and two files of weights of ern-tiny."
    root = tmp_path_factory.mktemp("shop")
    (root / "photos").mkdir()
    paths = {f"{i}": root / "photos" / f"{i}.png" for i in range(COUNT)}
    designs = sample_designs("dress", COUNT, np.random.default_rng(0), set())
    draw_pictures(dict(zip(paths, designs)), paths, size=64, workers=1)
    for seed in (0, 1):
        torch.manual_seed(seed)
        Encoders(create_clip(TINY)).save(root / f"clip{seed}.safetensors")
    return root


@pytest.fixture
def weights(shop, tmp_path) -> Path:
    return Path(shutil.copy(shop / "clip0.safetensors", tmp_path / "clip.safetensors"))


def index(command: str, shop: Path, folder: Path, *flags: str) -> int:
    place = ("--out" if command == "build" else "--index", str(folder / "index"))
    photos = ("--images", str(shop / "photos"), "--num-workers", "0", "--device", "cpu")
    return run_index(parse_index([command, *place, *(() if command == "info" else photos), *flags]))


def search(folder: Path, *flags: str) -> list:
    return run_search(parse_search(["--index", str(folder / "index"), "--device", "cpu", *flags]))


def test_an_encoder_searches_by_photo_text_and_both(shop, weights, tmp_path, capsys):
    assert index("build", shop, tmp_path, "--encoder", TINY, "--clip-path", str(weights)) == 0
    assert "random" not in capsys.readouterr().out
    clip = create_clip(TINY, clip_path=weights)
    names = [f"{i}.png" for i in range(COUNT)]
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim)).eval()
    gallery = retriever.encode_targets([shop / "photos" / name for name in names])
    with torch.inference_mode():
        text = clip.encode_text(clip.tokenize(["Is red"])).embedding[0]
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert searcher.describe() == f"sum over ern-tiny with the weights {weights}, no training, regions crops"
    assert searcher.describe(full=False).startswith("sum over ern-tiny with the weights clip.safetensors, no training")
    assert repr(searcher) == f"Searcher(12 photos, {searcher.describe()})"
    both = F.normalize(gallery[3] + text, dim=0)
    photo = shop / "photos" / "3.png"
    for given, query in (((photo, ""), gallery[3]), ((None, "is red"), text), ((photo, "is red"), both)):
        hits = searcher.search(*given, k=COUNT, keep_reference=True)
        expected = dict(zip(names, (gallery @ query).tolist()))
        assert {h.name: h.score for h in hits} == pytest.approx(expected, abs=1e-4)
    hits = search(tmp_path, "--image", str(photo), "--text", "is red", "--text-weight", "1", "-k", "5", "--json")[0]
    shown = capsys.readouterr()
    assert json.loads(shown.out)["query"]["text_weight"] == 1 and not shown.err
    scores = dict(zip(names, (gallery @ text).tolist()))
    assert all(h.score == pytest.approx(scores[h.name], abs=1e-4) for h in hits)
    search(tmp_path, "--text", "is red", "--text-weight", "1")
    assert "--text-weight changes nothing" in capsys.readouterr().err
    explained = ("--image", str(photo), "--text", "is red", "--explain", str(tmp_path / "why.png"))
    search(tmp_path, *explained, "--text-weight", "0.8")
    capsys.readouterr()
    assert (tmp_path / "why.png").stat().st_size > 5_000
    index("info", shop, tmp_path, "--json")
    about = json.loads(capsys.readouterr().out)
    assert about["answered_by"] == searcher.describe() and about["encoder"]["name"] == TINY


def test_the_command_says_what_of_a_text_is_ignored(shop, tmp_path, capsys):
    clip = create_clip(TINY, clip_path=shop / "clip0.safetensors")
    learn_words(clip, ["is red"])
    Encoders(clip).save(tmp_path / "trained.safetensors")
    index("build", shop, tmp_path, "--encoder", TINY, "--clip-path", str(tmp_path / "trained.safetensors"))
    photo = ("--image", str(shop / "photos" / "3.png"), "-k", "2")
    capsys.readouterr()
    hits = search(tmp_path, *photo, "--text", "is maxi")[0]
    sentence = "I don't know the word 'maxi', so the results follow the photo alone."
    assert hits.ignored == [sentence] and capsys.readouterr().out.splitlines()[-1] == sentence
    search(tmp_path, *photo, "--text", "is maxi", "--json")
    assert json.loads(capsys.readouterr().out)["ignored"] == [sentence]
    assert "arbitrary" in search(tmp_path, *photo, "--text", "maxi", "--text-weight", "1")[0].ignored[0]
    capsys.readouterr()
    search(tmp_path, *photo, "--text", "is red")
    assert "know" not in capsys.readouterr().out


def test_updates_find_the_encoder_in_the_index(shop, weights, tmp_path):
    photos = shutil.copytree(shop / "photos", tmp_path / "photos")
    flags = ("--encoder", TINY, "--clip-path", str(weights))
    index("build", tmp_path, tmp_path, *flags)
    shutil.copy(photos / "1.png", photos / "late.png")
    (photos / "2.png").unlink()
    assert index("add", tmp_path, tmp_path) == 0
    assert index("update", tmp_path, tmp_path) == 0
    expected = {f"{i}.png" for i in range(COUNT)} - {"2.png"} | {"late.png"}
    assert open_store(tmp_path / "index").marks().keys() == expected
    assert index("add", tmp_path, tmp_path, *flags) == 0
    with pytest.raises(ErnError, match="no run to choose a model of. Omit --run-model"):
        index("add", tmp_path, tmp_path, "--run-model", "sum")


def test_a_moved_or_changed_encoder_is_noticed(shop, weights, tmp_path):
    index("build", shop, tmp_path, "--encoder", TINY, "--clip-path", str(weights))
    shutil.copy(shop / "clip1.safetensors", weights)
    with pytest.raises(ErnError, match="other weights or other preprocessing: its fingerprint is [0-9a-f]{16}, and"):
        search(tmp_path, "--text", "red")
    with pytest.raises(ErnError, match="fingerprint"):
        index("update", shop, tmp_path)
    weights.unlink()
    with pytest.raises(ErnError, match=r"cannot be loaded. There is no file .*If it has moved.*--model"):
        search(tmp_path, "--text", "red")
    moved = ("--model", str(shop / "clip0.safetensors"))
    assert search(tmp_path, "--text", "red", *moved)[0] and index("update", shop, tmp_path, *moved) == 0
    with pytest.raises(ErnError, match="fingerprint"):
        search(tmp_path, "--text", "red", "--model", str(shop / "clip1.safetensors"))


def test_an_index_keeps_its_kind_of_local_features(shop, tmp_path, capsys):
    index("build", shop, tmp_path, "--encoder", TINY)
    capsys.readouterr()
    index("info", shop, tmp_path, "--json")
    about = json.loads(capsys.readouterr().out)
    assert about["regions"] == about["encoder"]["regions"] == "grid"
    assert index("add", shop, tmp_path, "--encoder", TINY) == 0
    with pytest.raises(ErnError, match="built the index with --regions grid, .*of --regions crops. Give one with"):
        index("add", shop, tmp_path, "--encoder", TINY, "--regions", "crops")
    with pytest.raises(ErnError, match="--regions belongs to --encoder"):
        parse_index(["add", "--images", "photos", "--index", "i", "--regions", "crops"])


def test_an_index_of_an_earlier_version_has_crops(shop, tmp_path, monkeypatch):
    today = search_index._record

    def earlier(*args) -> dict:
        about = {k: v for k, v in today(*args).items() if k != "regions"}
        return about | {"encoder": {"name": TINY, "random": True}}

    with monkeypatch.context() as patched:
        patched.setattr(search_index, "_record", earlier)
        index("build", shop, tmp_path, "--encoder", TINY, "--regions", "crops")
    assert index("update", shop, tmp_path) == 0
    assert index("add", shop, tmp_path, "--encoder", TINY) == 0
    assert Searcher.load(tmp_path / "index", device="cpu").describe().endswith("random weights, no training")
    with pytest.raises(ErnError, match="fingerprint"):
        index("add", shop, tmp_path, "--encoder", TINY, "--regions", "grid")


def test_another_preprocessing_is_another_encoder(shop, weights, tmp_path):
    bare = tmp_path / "bare.pt"
    torch.save(create_clip(TINY, clip_path=weights).model.state_dict(), bare)
    flags = ("--encoder", TINY, "--clip-path", str(bare), "--regions", "crops")
    index("build", shop, tmp_path, *flags)
    assert index("add", shop, tmp_path, *flags) == 0
    with pytest.raises(ErnError, match="other preprocessing: its fingerprint"):
        index("add", shop, tmp_path, *flags, "--preprocess", "centred")


def test_random_weights_are_said_and_opened_again(shop, tmp_path, capsys):
    assert index("build", shop, tmp_path, "--encoder", TINY) == 0
    assert "ern-tiny has random weights here, so the results will mean little. Give the tag" in capsys.readouterr().out
    torch.manual_seed(5)  # another state of the generator
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert searcher.describe() == "sum over ern-tiny with random weights, no training, regions grid"
    assert searcher.search(shop / "photos" / "2.png", k=1, keep_reference=True)[0].name == "2.png"


def test_an_encoder_folder_may_move(shop, weights, tmp_path):
    encoder = tmp_path / "shop-clip"
    encoder.mkdir()
    clip = create_clip(TINY, clip_path=weights)
    (encoder / "open_clip_config.json").write_text(json.dumps({"model_cfg": clip.config}))
    torch.save(clip.model.state_dict(), encoder / "open_clip_pytorch_model.bin")
    index("build", shop, tmp_path, "--encoder", f"local-dir:{encoder}")
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert searcher.describe(full=False) == "sum over shop-clip, no training, regions grid"
    before = searcher.search(text="a red dress")
    encoder.rename(tmp_path / "elsewhere")
    with pytest.raises(ErnError, match="cannot be loaded.*If it has moved"):
        search(tmp_path, "--text", "a red dress")
    assert search(tmp_path, "--text", "a red dress", "--model", str(tmp_path / "elsewhere"))[0] == before


def test_the_default_weight_belongs_to_the_index(shop, weights, tmp_path):
    flags = ("--encoder", TINY, "--clip-path", str(weights))
    index("build", shop, tmp_path, *flags, "--text-weight", "0.8")
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert searcher.text_weight == 0.8
    query = (shop / "photos" / "2.png", "is red", COUNT)
    default, same = searcher.search(*query), searcher.search(*query, text_weight=0.8)
    half = searcher.search(*query, text_weight=0.5)
    assert default == same and [h.score for h in default] != [h.score for h in half]
    assert index("build", shop, tmp_path, *flags) == 0, "the command resumes without the flag"
    with pytest.raises(ErnError, match="begun with --text-weight 0.8"):
        index("build", shop, tmp_path, *flags, "--text-weight", "0.2")


def test_a_model_without_a_weight_refuses_one(shop, tmp_path):
    Retriever(Encoders(create_clip(TINY)), create_model("combiner", 128)).save_pretrained(tmp_path / "model")
    with pytest.raises(ErnError, match="'combiner' has no weight between image and text"):
        index("build", shop, tmp_path, "--model", str(tmp_path / "model"), "--text-weight", "0.3")
    assert not (tmp_path / "index").exists()
    index("build", shop, tmp_path, "--model", str(tmp_path / "model"))
    query = ("--image", str(shop / "photos/1.png"), "--text", "red")
    assert search(tmp_path, *query)[0]
    with pytest.raises(ErnError, match=r"'combiner' has no weight.*\(--text-weight\) cannot be set"):
        search(tmp_path, *query, "--text-weight", "0.3")
    assert Searcher.load(tmp_path / "index", device="cpu").text_weight is None


def test_an_index_of_earlier_versions_opens(shop, tmp_path):
    Retriever(Encoders(create_clip(TINY)), create_model("sum", 128)).save_pretrained(tmp_path / "model")
    index("build", shop, tmp_path, "--model", str(tmp_path / "model"))
    store = open_store(tmp_path / "index")
    about = {k: v for k, v in store.about.items() if k not in ("clip_model_name", "regions")}
    assert set(about) == {"format", "model", "model_name", "identity", "dim", "kind"}, "what they recorded"
    with store.records.writing():
        store.records.set_fact("about", about)
    store.close()
    searcher = Searcher.load(tmp_path / "index", device="cpu")
    assert searcher.describe(full=False) == "sum from model, encoder ern-tiny" and searcher.text_weight == 0.5
    assert index("update", shop, tmp_path) == 0


_WRONG = [{"encoder": 3}, {"encoder": {"url": "x"}}, {"text_weight": "0.5"}, {"text_weight": 7}]


@pytest.mark.parametrize("wrong", _WRONG)
def test_a_damaged_record_is_refused(shop, tmp_path, wrong):
    index("build", shop, tmp_path, "--encoder", TINY)
    store = open_store(tmp_path / "index")
    with store.records.writing():
        store.records.set_fact("about", store.about | wrong)
    store.close()
    with pytest.raises(ErnError, match="Rebuild the index"):
        search(tmp_path, "--text", "red")


def test_half_is_the_plain_sum_bit_by_bit():
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(64, 512), dim=-1) for _ in range(2))
    reference = ImageFeatures(image, image[:, None].repeat(1, 13, 1))
    words = TextFeatures(text, text[:, None], torch.ones(64, 1, dtype=torch.bool))
    model = create_model("sum", 512)
    assert torch.equal(model.encode_query(reference, words), F.normalize(image + text, dim=-1))
    assert model.settings == {"dim": 512}, "records of earlier versions, and the identity of their indexes, stay valid"
    half = torch.full((64,), 0.5)
    assert torch.equal(model.encode_query(reference, words, half), model.encode_query(reference, words))
    named = create_model("sum@text_weight=0.7", 512)
    expected = F.normalize(0.3 * image + 0.7 * text, dim=-1)
    assert torch.allclose(named.encode_query(reference, words), expected, atol=1e-6)
    with pytest.raises(ErnError, match="text_weight is 7"):
        create_model("sum@text_weight=7", 512)


def test_weights_of_a_batch_stay_with_their_queries(shop, weights):
    clip = create_clip(TINY, clip_path=weights)
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim)).eval()
    photos = [shop / "photos" / f"{i}.png" for i in range(8)]
    images = [None if i == 2 else photo for i, photo in enumerate(photos)]
    texts = [f"is {colour}" for colour in "red blue gold black white green grey pink".split()]
    texts[5] = ""
    shares = [0.0, 1.0, 0.4, None, 0.25, 0.9, 0.75, 0.5]
    batch = query_vectors(retriever, images, texts, batch_size=3, text_weights=shares)
    for row in range(8):
        alone = query_vectors(retriever, [images[row]], [texts[row]], text_weights=[shares[row]])
        assert torch.allclose(batch[row], alone[0], atol=1e-5), row


def test_a_model_that_reads_no_crops_encodes_one_view(shop, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("fashionern.encoders.clip.ClipEncoder.encode_views", lambda *_: pytest.fail("crops"))
    assert index("build", shop, tmp_path, "--encoder", TINY, "--clip-path", str(weights)) == 0
    assert search(tmp_path, "--image", str(shop / "photos/1.png"), "--text", "red")[0]
