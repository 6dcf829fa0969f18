"Image files: of an index or a dataset, uploaded, and fetched."

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fashionern.data.catalogue.photos import fingerprint
from fashionern.data.download.fetch import Refusal
from fashionern.data.download.image_urls import picture_suffix
from fashionern.data.images import load_image
from fashionern.data.transforms import Preprocess
from fashionern.web.uploads import decode_picture, encode_jpeg

from . import draw
from .harness import BrokenContract, target
from .hostile import STEPS, damaged


def _file(kind: str, mode: str, size: tuple[int, int], **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(out, kind, **options)
    return out.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "a picture", {0x9003: "2020:01:01 00:00:00", 0xA002: 12}
    return exif.tobytes()


def png(width: int, height: int, depth: int = 8, colour: int = 2, extra: bytes = b"", data: bytes = b"") -> bytes:
    "A PNG that says it has this size."
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


FILES = (
    _file("PNG", "RGB", (12, 9)), _file("PNG", "RGBA", (9, 12)), _file("PNG", "P", (8, 8)), _file("PNG", "LA", (8, 8)), _file("PNG", "1", (8, 8)), _file("PNG", "RGB", (8, 8), exif=_exif()),
    _file("JPEG", "RGB", (12, 9)), _file("JPEG", "L", (12, 9)), _file("JPEG", "CMYK", (9, 9)), _file("JPEG", "RGB", (9, 9), exif=_exif()), _file("JPEG", "RGB", (16, 16), progressive=True),
    _file("WEBP", "RGBA", (9, 9)), _file("WEBP", "RGB", (9, 9), exif=_exif()), _file("GIF", "P", (9, 9)), _file("BMP", "RGB", (5, 5)), _file("TIFF", "RGB", (6, 6)),
    _file("TIFF", "RGB", (6, 6), compression="tiff_lzw"), _file("TIFF", "L", (6, 6), compression="tiff_adobe_deflate"), _file("ICO", "RGBA", (16, 16)), _file("PPM", "RGB", (4, 4)), _file("EPS", "RGB", (4, 4)),
)  # fmt: skip
IMAGES = draw.builds(damaged, draw.sampled_from(FILES), STEPS)

SIDES = draw.sampled_from((0, 1, 2, 7, 300, 4_000, 15_000, 16_001, 20_000, 65_535, 1 << 20, (1 << 31) - 1))


def _bomb(width: int, height: int, colour: int, whole: bool) -> bytes:
    "A PNG of one colour, all of it there where that is no more than 60 million bytes."
    row = 1 + width * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    return png(width, height, colour=colour, data=bytes(row * height) if whole and row * height <= 60_000_000 else b"\0")


BOMBS = draw.builds(_bomb, SIDES, SIDES, draw.sampled_from((0, 2, 4, 6)), draw.sampled_from((False, True)))


def _seen(data: bytes, folder: Path) -> None:
    (folder / "a.png").write_bytes(data)
    image = load_image(folder / "a.png")
    if image.mode != "RGB" or not min(image.size):
        raise BrokenContract("a picture of the wrong kind", (image.mode, image.size))
    fingerprint(image)
    for pad in ("target", "square"):
        view = Preprocess(size=32, pad=pad, canvas=36)
        if view.global_view(image).shape != (3, 32, 32) or view.spread(image).shape != (3, 36, 36):
            raise BrokenContract("a view of another shape")


@target("image", IMAGES)
def _(data: bytes, folder: Path) -> None:
    _seen(data, folder)


@target("image-bomb", BOMBS, 0.01)
def _(data: bytes, folder: Path) -> None:
    _seen(data, folder)


def _uploaded(data: bytes) -> None:
    picture = decode_picture(data)
    if picture.mode != "RGB" or max(picture.size) > 1024:
        raise BrokenContract("a picture of the wrong kind", (picture.mode, picture.size))
    encode_jpeg(picture, 360)


@target("upload", IMAGES)
def _(data: bytes, folder: Path) -> None:
    _uploaded(data)


@target("upload-bomb", BOMBS, 0.01)
def _(data: bytes, folder: Path) -> None:
    _uploaded(data)


@target("fetched-picture", IMAGES)
def _(data: bytes, folder: Path) -> None:
    try:
        picture_suffix(data)
    except Refusal:
        pass  # the fetcher notes its reason and goes on
