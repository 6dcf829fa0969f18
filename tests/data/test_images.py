"All kinds of image files and file names that photo collections hold, in the loader and in the feature store."

import os

import numpy as np
import pytest
import torch
from error_sentence import sentence
from PIL import Image, features
from torch.utils.data import DataLoader

from fashionern.data.images import ImageFinder, load_image
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import extract_features
from fashionern.errors import ErnError
from fashionern.search.inventory import find_photos

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
        ("RGB", ".bmp", {}),
        ("RGB", ".tif", {}),
        ("RGB", ".tiff", {"compression": "tiff_lzw"}),
        ("P", ".gif", {}),
        pytest.param(
            *("RGB", ".avif", {"quality": 100}),
            marks=pytest.mark.skipif("avif" not in features.modules, reason="Pillow 11.3 or newer reads AVIF"),
        ),
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
    assert list(ImageFinder(tmp_path).paths) == ["a"] and list(find_photos(tmp_path)) == [path.name]


def test_heic_photos_are_read_with_pillow_heif_or_counted(tmp_path):
    path = tmp_path / "a.heic"
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    heif.from_pillow(red("RGB")).save(path, quality=100)
    assert_red_left_white_right(path)
    assert list(find_photos(tmp_path)) == ["a.heic"]


RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))


@pytest.mark.parametrize(
    ("suffix", "pixels"),
    [
        (".png", (RAMP * 65_535).astype(np.uint16)),
        (".tif", (RAMP * 65_535).astype(np.uint16)),
        (".tif", (RAMP * 65_535).astype(np.int32)),
        (".tif", RAMP.astype(np.float32)),
        (".tif", (RAMP * 255).astype(np.float32)),
        (".tif", (RAMP * 65_535).astype(np.float32)),
        (".tif", (RAMP * 200_000 - 100_000).astype(np.float32)),
    ],
)
def test_a_ramp_of_more_than_8_bits_is_scaled(tmp_path, suffix, pixels):
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    read = np.asarray(load_image(tmp_path / f"a{suffix}"))
    assert abs(read.mean() - 127.5) < 1 and len(np.unique(read)) == 64
    assert (read.min(), read.max()) == (0, 255)


def test_a_dark_image_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 2_570, np.uint16)).save(tmp_path / "a.png")
    assert np.unique(np.asarray(load_image(tmp_path / "a.png"))).tolist() == [10]


def test_files_that_are_no_photos_are_left_out_and_linked_folders_are_read(tmp_path):
    junk = ("._a.png", ".DS_Store", "__MACOSX/a.png", "@eaDir/a.png", "new/.thumbs/a.png", "#recycle/a.png")
    for name in (*junk, "a.psd", "a.svg", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    names = ("photos/a.png", "photos/new/b.png", "elsewhere/c.png", "elsewhere/more/d.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        red("RGB").save(tmp_path / name)
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "photos" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "photos" / "x.png")
    photos = find_photos(tmp_path / "photos")
    assert list(photos) == ["a.png", "linked/c.png", "linked/more/d.png", "new/b.png"]
    assert set(ImageFinder(tmp_path / "photos").paths) == {"a", "linked/c", "linked/more/d", "new/b"}


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    assert "x.png is not a file" in sentence(load_image, tmp_path / "x.png")
    message = sentence(find_photos, tmp_path)
    assert "no image file below" in message and "1: not a regular file" in message


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
