"""Images of every kind as 8-bit RGB: the values that the file means, upright, on white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medyate import tasks
from medyate.errors import InputError
from medyate.tasks.pixels import decode

RAMP = np.linspace(0, 1, 63).reshape(7, 9)  # of grey, from black to white


def stored(image, suffix="png", **options):
    stream = io.BytesIO()
    image.save(stream, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
    return stream.getvalue()


def grey(content):
    pixels = np.asarray(decode(content, "it").image)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def of_16_bits(bits=16):
    return Image.fromarray(np.rint(RAMP * ((1 << bits) - 1)).astype(np.uint16))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_by_their_range(suffix):
    assert np.abs(grey(stored(of_16_bits(), suffix)).astype(int) - 255 * RAMP).max() <= 1


def test_16_bits_of_the_other_byte_order():
    big = Image.frombytes("I;16B", (9, 7), np.rint(RAMP * 65_535).astype(">u2").tobytes())
    assert np.abs(grey(stored(big, "tif")).astype(int) - 255 * RAMP).max() <= 1


def test_a_tiff_whose_white_is_zero_is_no_negative():
    negative = Image.fromarray(np.rint((1 - RAMP) * 65_535).astype(np.uint16))
    assert np.abs(grey(stored(negative, "tif", tiffinfo={262: 0})).astype(int) - 255 * RAMP).max() <= 1


def png_of_16_bits(values):
    """A PNG of (H, W, 3) colours of 16 bits, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@pytest.mark.parametrize("bits", [12, 16])
def test_colours_of_more_than_8_bits_say_how_much_of_their_range_they_use(bits):
    values = np.rint(np.stack([RAMP, RAMP / 2, RAMP / 3], -1) * ((1 << bits) - 1)).astype(np.uint16)
    picture = decode(png_of_16_bits(values), "it")
    assert (np.asarray(picture.image) == values >> 8).all()
    assert picture.peak == pytest.approx(((1 << bits) - 1 >> 8) / 255)
    assert decode(stored(Image.fromarray((values >> 8).astype(np.uint8))), "it").peak is None


def pgm(bits):
    values = np.rint(RAMP * ((1 << bits) - 1)).astype(">u2" if bits > 8 else np.uint8)
    return b"P5 9 7 %d\n" % ((1 << bits) - 1) + values.tobytes()


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_pgm_says_its_largest_value(bits):
    assert np.abs(grey(pgm(bits)).astype(int) - 255 * RAMP).max() <= 1


def test_12_bits_in_16_come_out_by_the_range_of_the_file():
    assert np.abs(grey(stored(of_16_bits(12))).astype(int) - 255 * RAMP / 16).max() <= 1


@pytest.mark.parametrize(
    "image, words",
    [
        (Image.fromarray(RAMP.astype(np.float32)), "mode 'F', floating-point numbers"),
        (Image.fromarray(np.rint(RAMP * 2**31 - 1).astype(np.int32)), "mode 'I', 32-bit integers"),
    ],
)
def test_values_of_an_unknown_range_are_refused(image, words):
    with pytest.raises(InputError, match=f"'it' has pixels of {words}, .*; allowed: 8 or 16 bits"):
        decode(stored(image, "tif"), "it")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_lie_on_white(mode):
    value, alpha = np.random.default_rng(0).integers(0, 256, (2, 4, 6), np.uint8)
    image = Image.merge("LA", [Image.fromarray(value), Image.fromarray(alpha)]).convert(mode)
    expected = 255 + alpha / 255 * (value.astype(float) - 255)
    assert np.abs(grey(stored(image)) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparent_colour_becomes_white(mode):
    image = Image.fromarray(np.array([[0, 0, 255], [255, 0, 0]], np.uint8)).convert(mode)
    key = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    assert (grey(stored(image, transparency=key)) == 255).all()


def test_a_transparent_value_of_16_bits_becomes_white():
    assert (grey(stored(Image.fromarray(np.full((3, 3), 7, np.uint16)), transparency=7)) == 255).all()


def test_a_palette_with_several_degrees_of_transparency():
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0] * 3)
    image.putdata([0, 1, 2])
    assert grey(stored(image, transparency=bytes([0, 128, 255]))).tolist() == [[255, 127, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_opaque_modes_are_what_pillow_makes_of_them(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).convert(mode)
    content = stored(image, "tif")
    with Image.open(io.BytesIO(content)) as plain:
        assert np.array_equal(decode(content, "it").image, plain.convert("RGB"))


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(suffix, orientation):
    """What a camera writes of one scene in each position, by EXIF's definition of the tag."""
    scene = np.zeros((16, 32), np.uint8)  # the upper left quarter is white, so no turn keeps it
    scene[:8, :16] = 255
    written = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.T,
        6: scene.T[::-1],
        7: scene.T[::-1, ::-1],
        8: scene.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(written)).convert("RGB")
    found = grey(stored(image, suffix, exif=exif, **({"lossless": True} if suffix == "webp" else {})))
    assert found.shape == scene.shape and np.abs(found.astype(int) - scene).mean() < 8


def test_damaged_exif_data_spoil_no_picture():
    image = Image.new("RGB", (8, 8), "red")
    assert decode(stored(image, "jpg", exif=b"Exif\0\0MM\0*\xff\xff"), "it").image.size == (8, 8)


def folder(path, **images):
    for group in ("cat", "dog"):
        for number in range(3):
            place = path / group / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(stored(Image.new("L", (9, 9), 20 * number + 100 * (group == "cat"))))
    for name, content in images.items():
        (path / "cat" / name.replace("_", ".")).write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))


def test_every_image_that_cannot_be_used_is_counted(tmp_path):
    bad = {f"x{n}_png": b"no" for n in range(7)} | {"f_tif": stored(Image.new("F", (3, 3)), "tif")}
    with pytest.raises(InputError) as caught:
        tasks.load(f"folder:{folder(tmp_path / 'pets', **bad)}", resolution=8)
    told = str(caught.value)
    assert "8 images cannot be used" in told and "'pets/cat/f.tif' has pixels of mode 'F'" in told
    assert "'pets/cat/x0.png' is not a readable image" in told and told.endswith("; ..")
    assert "object at" not in told and "\n" not in told


def test_nearly_black_images_are_told(tmp_path):
    path = folder(tmp_path / "pets", dark_png=stored(of_16_bits(12)))
    with pytest.warns(UserWarning, match="1 images of 16 bits use no value above 6 % of their range"):
        tasks.load(f"folder:{path}", resolution=8)
