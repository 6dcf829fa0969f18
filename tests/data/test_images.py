"Every kind of picture and every kind of name that photo collections hold, through the loader and through the feature store."

import numpy as np
import pytest
import torch
from PIL import Image

from fashionern.data.images import ImageFinder, load_image
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import extract_features
from fashionern.errors import ErnError

RED = (220, 30, 40)


def red(mode: str) -> Image.Image:
    "A 12 × 8 picture, red on the left and white on the right, in that mode."
    image = Image.new("RGB", (12, 8), "white")
    image.paste(RED, (0, 0, 6, 8))
    return image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGB", ".png", {}), ("RGB", ".jpg", {"quality": 95, "subsampling": 0}), ("RGB", ".jpeg", {"quality": 95, "subsampling": 0}), ("RGB", ".webp", {"lossless": True}),
        ("P", ".png", {}), ("RGBA", ".png", {}), ("RGBA", ".webp", {"lossless": True}), ("CMYK", ".jpg", {"quality": 95, "subsampling": 0}), ("RGB", ".PNG", {}),
    ],
)  # fmt: skip
def test_colours_survive(tmp_path, mode, suffix, options):
    path = tmp_path / f"a{suffix}"
    red(mode).save(path, **options)
    seen = np.asarray(load_image(path)).astype(int)
    assert seen.shape == (8, 12, 3) and abs(seen[4, 2] - RED).max() < 12 and seen[4, 10].min() > 240


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("L", ".jpg"), ("1", ".png"), ("I;16", ".png"), ("LA", ".png")])
def test_grey_pictures_become_rgb(tmp_path, mode, suffix):
    grey = Image.new("L", (12, 8), 255)
    grey.paste(0, (0, 0, 6, 8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / f"a{suffix}")
    seen = np.asarray(load_image(tmp_path / f"a{suffix}")).astype(int)
    assert seen.shape == (8, 12, 3) and seen[4, 2].max() < 10 and seen[4, 10].min() > 245, "black left, white right"


@pytest.mark.parametrize("save", [dict(mode="RGBA"), dict(mode="LA"), dict(mode="P", transparency=0), dict(mode="RGB", transparency=(0, 0, 0))])
def test_what_is_transparent_is_white(tmp_path, save):
    mode = save.pop("mode")
    Image.new(mode, (6, 6), 0 if mode == "P" else None or (0,) * len(Image.new(mode, (1, 1)).getbands())).save(tmp_path / "a.png", **save)
    assert np.asarray(load_image(tmp_path / "a.png")).min() == 255


@pytest.mark.parametrize("mark", range(1, 9))
def test_exif_turns_pictures_upright(tmp_path, mark):
    "All eight marks: the stored picture is turned back so that red is on the left."
    back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}  # fmt: skip
    stored = red("RGB") if mark == 1 else red("RGB").transpose(back[mark])
    exif = Image.Exif()
    exif[0x0112] = mark
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    seen = np.asarray(load_image(tmp_path / "a.jpg")).astype(int)
    assert seen.shape == (8, 12, 3) and abs(seen[4, 2] - RED).max() < 12 and seen[4, 10].min() > 240


@pytest.mark.parametrize("content", [b"", b"<html>gone</html>", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ErnError, match="a.png cannot be read"):
        load_image(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("1", (3000, 3000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ErnError, match="a.png cannot be read"):
        load_image(tmp_path / "a.png")


def test_odd_names_and_formats_reach_the_feature_store(tmp_path):
    names = ["with blanks", "sub dir/größe 42", "深/い.v2", "plain", "UPPER"]
    for name, (mode, suffix) in zip(names, (("RGB", ".jpg"), ("RGBA", ".png"), ("L", ".webp"), ("CMYK", ".jpeg"), ("P", ".PNG"))):
        path = tmp_path / "images" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        red(mode).save(path)
    finder = ImageFinder(tmp_path / "images")
    assert set(finder.paths) == set(names)
    store = extract_features(create_clip(TINY), finder, names, tmp_path / "features", workers=0)
    seen = store[names]
    assert seen.local.shape == (5, 13, store.dim) and torch.isfinite(seen.embedding).all() and torch.allclose(seen.embedding.norm(dim=1), torch.ones(5), atol=1e-5)


def test_long_and_foreign_sentences_are_encoded():
    clip = create_clip(TINY)
    seen = clip.encode_text(clip.tokenize(["is red " * 500, "größer, 赤い, أحمر 👗", "", "is red"]))
    assert seen.tokens.shape[:2] == (4, clip.tokenize(["x"]).shape[1]) and torch.isfinite(seen.embedding).all()
    assert seen.mask[0].all() and not seen.mask[3].all()
