"""An image file of any kind as 8-bit RGB."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

import numpy as np

from ..errors import InputError

ORIENTATION = 0x0112  # EXIF's tag
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF's


class Picture(NamedTuple):
    """image: PIL's, mode RGB; peak: the largest value's share of the range where the file has more than 8 bits."""

    image: object
    peak: float | None = None


def decode(content: bytes, name: str) -> Picture:
    """The first picture of a file as RGB of 8 bits, upright and on white.

    It is turned as its EXIF orientation says, as every viewer shows it (torchvision's ImageFolder does not turn).
    Values of 9 to 16 bits are scaled by the range of their type, and transparent pixels lie on white.
    Raises InputError for what is no image, and for floats and 32-bit integers, whose range nobody knows.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            deep = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))  # gone once it is loaded
            image.load()
            return _rgb(image, name, deep)
    except InputError:
        raise
    except UnidentifiedImageError:
        reason = "no format of images is known that begins so" if content else "the file is empty"
    except Exception as error:  # a damaged file may raise anything in Pillow's readers
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    raise InputError(f"{name!r} is not a readable image: {reason}")


def _rgb(image, name: str, deep: bool) -> Picture:
    """``deep``: the file has more than 8 bits a colour, of which Pillow has kept the upper 8."""
    from PIL import Image

    upright = _orientation(image)
    levels = _range(image, name)
    if levels is None:
        peak = float(np.asarray(image)[..., :3].max()) / 255 if deep and image.mode in ("RGB", "RGBA", "RGBX") else None
        if image.mode == "La":  # Pillow has no way from it to RGBA
            image = image.convert("LA")
        picture = Picture(
            _on_white(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB"), peak
        )
    else:
        values = np.asarray(image).astype(np.int64)
        if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # white is zero, which Pillow turns for 8 bits alone
            values = levels - values
        grey = np.rint(values * (255 / levels)).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        picture = Picture(Image.fromarray(grey).convert("RGB"), float(values.max()) / levels)
    return picture if upright is None else picture._replace(image=picture.image.transpose(upright))


def _on_white(image):
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _range(image, name: str) -> int | None:
    """The largest value of pixels of more than 8 bits; None where they have 8."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # a TIFF may have 12
        return (1 << bits) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # 16 bits; other files have 32
        return 65_535
    if image.mode in ("I", "F"):
        kind = {"I": "32-bit integers", "F": "floating-point numbers"}[image.mode]
        tags = getattr(image, "tag_v2", {})
        if image.mode == "I" and tags.get(SAMPLE_FORMAT, (1,))[0] == 2 and tags.get(BITS_PER_SAMPLE, (32,))[0] == 16:
            kind = "signed 16-bit integers"
        raise InputError(
            f"{name!r} has pixels of mode {image.mode!r}, {kind}, whose range is not known; allowed: 8 or 16 bits "
            "without a sign"
        )
    return None


def _orientation(image):
    """How PIL turns the picture upright; None where it stands so."""
    from PIL import Image

    turns = Image.Transpose
    ways = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }
    with contextlib.suppress(Exception):  # damaged EXIF data spoil no picture
        return ways.get(image.getexif().get(ORIENTATION))
    return None
