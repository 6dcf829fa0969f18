"Views equal the published pixels on every size, and version 2 stays as it was."

import base64
import hashlib

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Pad, PILToTensor, Resize

from fashionern.data import transforms
from fashionern.data.transforms import Preprocess, encoder_preprocess
from fashionern.errors import ErnError

GOLDEN_VIEW = """AAAtdL2TAAAAAEKR1VAAAAAAV7K+GQAAAABr0nYbAAAAAITOOTQAAAAAn5E1SgAAAAClSVVcAAAABHAyd24AAAAAHoySVQAA
AAA7kIJWAAAAAEiFg1UAAAAATIWDVAAAAABQhYRWAAAAAFKDglIAAAAAToOCUgAAAABYhYJTAAAAAWNoSTYAAAABNWOFUAAAAAFjako0AAAAADRihFAA
AAABZGxKNAAAAAE1X4RRAAAAAWNuSzIAAAABM12CUwAA"""


def photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    "Noise with a hard edge."
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height), fill=(250, 10, 60))
    return image


def pattern(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = ((7 * x + 3 * y) % 256, (x * y) % 256, (5 * x + 11 * y) % 200)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def published_view(image: Image.Image, size: int, pad: str) -> torch.Tensor:
    "CLIP4Cir's TargetPad or SquarePad, then torchvision's transforms."
    width, height = image.size
    longer = max(width, height)
    ratio = 1.25 if pad == "target" else 1
    parts = [Resize(size, InterpolationMode.BICUBIC), CenterCrop(size), PILToTensor()]
    if pad != "none" and longer / min(width, height) >= ratio:
        sides = [max(0, int((longer / ratio - side) / 2)) for side in image.size]
        parts.insert(0, Pad(sides))
    return Compose(parts)(image)


@pytest.mark.parametrize("pad", ["target", "square", "none"])
def test_views_equal_torchvisions_on_every_size(pad):
    rng = np.random.default_rng(42)
    sizes = [(150, 164), (150, 192), (164, 150), (1, 1), (1, 90), (300, 2)]
    sizes += [tuple(rng.integers(1, 420, 2)) for _ in range(500)]
    for number, (width, height) in enumerate(sizes):
        if pad == "none" and max(width, height) > 60 * min(width, height):
            continue  # torchvision would resize it to gigabytes
        image = photo(rng, int(width), int(height))
        for size in (56, 224) if number < 60 else (56,):
            view = Preprocess(size=size, pad=pad).global_view(image)
            assert torch.equal(view, published_view(image, size, pad)), (width, height, size)


def test_the_known_geometries():
    pre = Preprocess()
    assert pre.resized(150, 164) == (224, 244)
    assert pre.padded(Image.new("RGB", (150, 192))).size == (152, 192)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("fill", [0, 127, (255, 0, 9)])
def test_views_equal_open_clips(mode, interpolation, fill):
    rng = np.random.default_rng(7)
    cfg = {"resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
    pre = encoder_preprocess({**cfg, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}, 64)
    library = open_clip.image_transform(64, is_train=False, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), **cfg)
    pixels = Compose(library.transforms[:-2])  # without the steps to a tensor and to unit variance
    sizes = [(1, 7), (7, 1), (33, 401), (640, 480), *rng.integers(3, 500, (16, 2)).tolist()]
    for width, height in sizes:
        image = photo(rng, width, height)
        view = pre.global_view(image)
        assert torch.equal(view, PILToTensor()(pixels(image))), (width, height)
        assert torch.allclose(pre.normalise(view), library(image), atol=1e-5)


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_very_long_images_do_not_crash(mode):
    for size in ((1, 4000), (4000, 1)):
        view = encoder_preprocess({"resize_mode": mode}, 56).global_view(Image.new("RGB", size, "red"))
        assert view.shape == (3, 56, 56)


@pytest.mark.parametrize("size", [(3, 200), (200, 3), (40, 900), (5, 7)])
def test_a_long_image_resized_in_strips_has_the_same_pixels(monkeypatch, size):
    image = photo(np.random.default_rng(1), *size)
    pre = Preprocess(size=60, pad="none")
    whole = pre.global_view(image)
    monkeypatch.setattr(transforms, "_MAX_PIXELS", 0)
    assert torch.equal(pre.global_view(image), whole)


def test_the_canvas_is_pillows_lanczos():
    image = photo(np.random.default_rng(3), 231, 310)
    published = image.resize((360, 360), Image.Resampling.LANCZOS)
    assert torch.equal(Preprocess().spread(image), PILToTensor()(published))
    bicubic = image.resize((360, 360), Image.Resampling.BICUBIC)
    assert torch.equal(Preprocess(canvas_filter="bicubic").spread(image), PILToTensor()(bicubic))


def version_2_view(image: Image.Image, size: int) -> torch.Tensor:
    "The view of version 2 without padding, as it was written then."
    scale = size / min(image.size)
    width = max(size, round(image.width * scale))
    height = max(size, round(image.height * scale))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)[0]
    left, top = (width - size) // 2, (height - size) // 2
    return resized[:, top : top + size, left : left + size]


def test_version_2_keeps_its_pixels():
    rng = np.random.default_rng(5)
    before = Preprocess.from_dict({"size": 56, "pad": "none", "canvas": 72})
    for width, height in ((150, 164), (150, 192), (31, 90)):
        image = photo(rng, width, height)
        assert torch.equal(before.global_view(image), version_2_view(image, 56))
    golden = np.frombuffer(base64.b64decode(GOLDEN_VIEW), np.uint8).reshape(3, 8, 8)  # written by version 2
    view = Preprocess.from_dict({"size": 8, "canvas": 12}).global_view(pattern(31, 90))
    assert np.abs(view.numpy().astype(int) - golden.astype(int)).max() <= 1  # processors round differently


HAS_AVX = torch.backends.cpu.get_cpu_capability().startswith("AVX")


@pytest.mark.skipif(not HAS_AVX, reason="digests of another processor")
def test_version_2_keeps_its_pixels_exactly():
    digests = {}
    for pad in ("target", "square", "none"):
        before = Preprocess.from_dict({"size": 56, "pad": pad, "canvas": 72})
        view = before.global_view(pattern(150, 192)).contiguous().numpy()
        digests[pad] = hashlib.sha256(view.tobytes()).hexdigest()[:16]
        canvas = before.spread(pattern(150, 192)).contiguous().numpy()
    assert digests == {"target": "9a0676913e26f167", "square": "563820f9ec42de3d", "none": "9c4f009ff7434454"}
    assert hashlib.sha256(canvas.tobytes()).hexdigest()[:16] == "a04ca9733bf22d5a"


def test_version_2_has_the_values_of_version_2_only():
    for field, value in (("interpolation", "bilinear"), ("resize_mode", "squash"), ("canvas_filter", "lanczos")):
        with pytest.raises(ErnError, match=f"rounding 'centred' cannot have {field}"):
            Preprocess.from_dict({field: value})
    with pytest.raises(ErnError, match="no field 'colour'"):
        Preprocess.from_dict({"colour": 1})


def test_bilinear_crops_equal_pillows():
    pre = Preprocess(size=50, canvas=72, interpolation="bilinear")
    canvas = pre.spread(photo(np.random.default_rng(9), 90, 80))
    crop = Image.fromarray(canvas[:, :36, :36].permute(1, 2, 0).numpy())
    expected = PILToTensor()(crop.resize((50, 50), Image.Resampling.BILINEAR))
    assert (pre.crops(canvas[None])[0, 0].int() - expected.int()).abs().max() <= 1


def test_an_image_tower_that_is_not_square_is_refused():
    assert encoder_preprocess({}, (224, 224)).size == 224
    with pytest.raises(ErnError, match="224 × 336 pixels"):
        encoder_preprocess({}, (224, 336))
