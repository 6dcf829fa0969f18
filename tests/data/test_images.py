"All kinds of image files and file names that photo collections hold, in the loader and in the feature store."

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fashionern.data.images import ImageFinder, load_image
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import extract_features
from fashionern.errors import ErnError

RED = (220, 30, 40)


def red(mode: str) -> Image.Image:
    "A 12 × 8 image in that mode, red on the left and white on the right."
    image = Image.new("RGB", (12, 8), "white")
    image.paste(RED, (0, 0, 6, 8))
    return image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)


def assert_red_left_white_right(path) -> None:
    pixels = np.asarray(load_image(path)).astype(int)
    assert pixels.shape == (8, 12, 3)
    assert abs(pixels[4, 2] - RED).max() < 12
    assert pixels[4, 10].min() > 240


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGB", ".png", {}),
        ("RGB", ".PNG", {}),
        ("RGB", ".jpg", {"quality": 95, "subsampling": 0}),
        ("RGB", ".jpeg", {"quality": 95, "subsampling": 0}),
        ("RGB", ".webp", {"lossless": True}),
        ("P", ".png", {}),
        ("RGBA", ".png", {}),
        ("RGBA", ".webp", {"lossless": True}),
        ("CMYK", ".jpg", {"quality": 95, "subsampling": 0}),
    ],
)
def test_colours_are_kept(tmp_path, mode, suffix, options):
    path = tmp_path / f"a{suffix}"
    red(mode).save(path, **options)
    assert_red_left_white_right(path)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("L", ".jpg"), ("1", ".png"), ("I;16", ".png"), ("LA", ".png")]
)
def test_grey_images_become_rgb(tmp_path, mode, suffix):
    grey = Image.new("L", (12, 8), 255)
    grey.paste(0, (0, 0, 6, 8))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / f"a{suffix}")
    pixels = np.asarray(load_image(tmp_path / f"a{suffix}")).astype(int)
    assert pixels.shape == (8, 12, 3)
    assert pixels[4, 2].max() < 10, "black on the left"
    assert pixels[4, 10].min() > 245, "white on the right"


@pytest.mark.parametrize(
    ("mode", "colour", "options"),
    [
        ("RGBA", (0, 0, 0, 0), {}),
        ("LA", (0, 0), {}),
        ("P", 0, {"transparency": 0}),
        ("RGB", (0, 0, 0), {"transparency": (0, 0, 0)}),
    ],
)
def test_transparent_parts_become_white(tmp_path, mode, colour, options):
    Image.new(mode, (6, 6), colour).save(tmp_path / "a.png", **options)
    assert np.asarray(load_image(tmp_path / "a.png")).min() == 255


STORED = {  # EXIF orientation → how an upright image is stored with it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    stored = red("RGB") if orientation == 1 else red("RGB").transpose(STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert_red_left_white_right(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"<html>gone</html>", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP"])
def test_a_file_that_is_no_image_is_named_in_the_error(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ErnError, match="a.png cannot be read"):
        load_image(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("1", (3000, 3000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ErnError, match="a.png cannot be read"):
        load_image(tmp_path / "a.png")


def test_odd_names_and_formats_reach_the_feature_store(tmp_path):
    names = ["with spaces", "sub dir/größe 42", "深/い.v2", "plain", "UPPER"]
    formats = (("RGB", ".jpg"), ("RGBA", ".png"), ("L", ".webp"), ("CMYK", ".jpeg"), ("P", ".PNG"))
    for name, (mode, suffix) in zip(names, formats):
        path = tmp_path / "images" / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        red(mode).save(path)
    finder = ImageFinder(tmp_path / "images")
    assert set(finder.paths) == set(names)
    store = extract_features(create_clip(TINY), finder, names, tmp_path / "features", workers=0)
    features = store[names]
    assert features.local.shape == (5, 13, store.dim)
    assert torch.isfinite(features.embedding).all()
    assert torch.allclose(features.embedding.norm(dim=1), torch.ones(5), atol=1e-5)


def test_the_error_of_a_worker_process_is_its_message_alone(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"not an image")
    with pytest.raises(ErnError) as caught:
        list(DataLoader([path], num_workers=1, collate_fn=lambda paths: load_image(paths[0])))
    assert str(caught.value).startswith(f"Image {path} cannot be read")


def test_long_and_non_english_texts_are_encoded():
    clip = create_clip(TINY)
    features = clip.encode_text(clip.tokenize(["is red " * 500, "größer, 赤い, أحمر 👗", "", "is red"]))
    assert features.tokens.shape[:2] == (4, clip.tokenize(["x"]).shape[1])
    assert torch.isfinite(features.embedding).all()
    assert features.mask[0].all()
    assert not features.mask[3].all()
