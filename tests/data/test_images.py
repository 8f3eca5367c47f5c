"""`load_rgb`: whatever the bytes are, the answer is an upright RGB image or a located DataError."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from unimo.data import images
from unimo.data.image_metadata import without_metadata
from unimo.data.images import FORMATS, image_size, load_rgb, to_rgb
from unimo.errors import DataError


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(width: int = 37, height: int = 23) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8))


def equal(one, other) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


# ---- formats, orientation, colour


def test_seven_formats_are_read_and_every_other_is_refused_whatever_its_name(tmp_path):
    for form in FORMATS:
        image = load_rgb(encoded(smooth(), form))
        assert (image.mode, image.size) == ("RGB", (96, 64))
        assert np.abs(np.asarray(image, int) - np.asarray(smooth(), int)).mean() < (
            1e-9 if form in ("PNG", "BMP", "TIFF") else 12
        )
    path = tmp_path / "photo.jpg"
    for form in ("PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "PDF", "IM", "MSP"):
        path.write_bytes(encoded(smooth(64, 64).convert("1" if form == "MSP" else "RGB"), form))
        with pytest.raises(DataError, match=r"photo\.jpg") as caught:
            load_rgb(path)
        assert caught.value.expected and caught.value.do
    with pytest.raises(DataError, match="<html>"):
        load_rgb(b"<html>404 not found</html>", where="a.tar, key 3")


# what a camera held in each of the eight ways stores, written without Pillow's own tables
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form, options", [("PNG", {}), ("WEBP", {"lossless": True})])
def test_exif_orientation_is_undone(orientation, form, options):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(noise()))))
    data = encoded(stored, form, exif=turned(orientation), **options)
    assert equal(load_rgb(data), noise()) and image_size(data) == noise().size


def test_a_broken_exif_block_leaves_the_image_as_stored_and_nothing_of_the_metadata_survives():
    assert load_rgb(encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")).size == (96, 64)
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    assert load_rgb(encoded(smooth(), "JPEG", exif=exif, comment=b"secret")).info == {}


def test_colour_modes_have_a_defined_rgb_form():
    rgb, grey, palette = np.asarray(smooth(), int), smooth().convert("L"), smooth().quantize(16)
    for mode in ("CMYK", "YCbCr", "HSV", "RGBA"):
        assert np.abs(np.asarray(to_rgb(smooth().convert(mode)), int) - rgb).max() <= (12 if mode == "HSV" else 3), mode
    for image in (grey, grey.convert("LA"), grey.convert("F")):
        assert equal(np.asarray(to_rgb(image))[..., 0], grey), image.mode
    assert set(np.unique(np.asarray(load_rgb(encoded(grey.convert("1")))))) == {0, 255}
    unit = Image.fromarray(np.asarray(grey, np.float32) / 255)  # as a model writes a mask
    np.testing.assert_array_equal(load_rgb(encoded(unit, "TIFF")), load_rgb(encoded(grey)))
    assert equal(load_rgb(encoded(palette)), palette.convert("RGB"))
    levels = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)  # sixteen bits keep their levels
    assert equal(np.asarray(load_rgb(encoded(Image.fromarray(levels))))[..., 0].ravel(), np.arange(256))
    with pytest.raises(DataError, match="finite"):
        to_rgb(Image.fromarray(np.full((3, 4), np.nan, np.float32)))


def test_transparency_lies_over_white():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    for data, colour in (
        (encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0))), (255, 255, 255)),
        (encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), (127, 127, 127)),
        (encoded(palette, transparency=1), (255, 255, 255)),
        (encoded(palette, transparency=0), (200, 0, 0)),
    ):
        assert load_rgb(data).getpixel((0, 0)) == colour


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "CMYK", "L", "1"])
def test_strips_are_no_different_from_the_whole(mode, monkeypatch):
    levels = np.random.default_rng(1).integers(0, 65536, (23, 37), dtype=np.uint16)
    image = Image.fromarray(levels) if mode == "I;16" else noise().convert("RGBA").convert(mode)
    whole = to_rgb(image)
    monkeypatch.setattr(images, "_STRIP", 100)
    assert equal(to_rgb(image), whole)


# ---- limits


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of the images whose pixels Pillow has decoded since."""
    sizes, load = [], ImageFile.ImageFile.load

    def told(image):
        if image.tile:  # else they are there already
            sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", told)
    return sizes


def test_only_the_first_frame_is_read(decoded):
    frames = [Image.new("RGB", (300, 200), (i % 256, 0, 0)) for i in range(40)]
    data = encoded(frames[5], "GIF", save_all=True, append_images=frames[6:])
    decoded.clear()
    assert load_rgb(data).getpixel((0, 0))[0] == 5 and decoded == [(300, 200)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused_even_where_another_library_allowed_it(form, fraction, monkeypatch):
    data = encoded(noise(200, 150), form, **({"quality": 90} if form in ("JPEG", "WEBP") else {}))
    for lenient in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        with pytest.raises(DataError):
            load_rgb(data[: int(len(data) * fraction)], where="shard, key 7")


def chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


def bomb(width: int, height: int) -> bytes:
    """A one-bit PNG of zeros: a few kilobytes that claim width x height pixels."""
    rows, count = zlib.compressobj(), 0 if width >= 2**16 else min(height, 9000)
    body = b"".join(rows.compress(bytes(1 + (width + 7) // 8)) for _ in range(count)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_case_bombs_and_threads_of_pixels_are_refused_from_the_header(decoded):
    for width, height in [*((side, side) for side in (6400, 9000, 12000, 20000, 2**31 - 1)), (1, 40_000_000)]:
        for read in (load_rgb, image_size):
            with pytest.raises(DataError):
                read(bomb(width, height), where="thread")
    assert not decoded
    data = encoded(smooth(20, 10))
    assert load_rgb(data, max_pixels=200).size == (20, 10) and decoded
    with pytest.raises(DataError, match="20 x 10"):
        load_rgb(data, max_pixels=199)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # would block for ever if it were opened
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "link.jpg", "folder.jpg", "absent.jpg"):
        with pytest.raises(DataError) as caught:
            load_rgb(tmp_path / name)
        assert name in str(caught.value.where)


def test_case_sixteen_bits_take_no_more_memory_than_others(monkeypatch):
    """Of 40 million pixels of 16 bits: what numpy holds stays below two bytes a pixel (it was 18)."""
    levels = np.zeros((1500, 2000), np.uint16)
    monkeypatch.setattr(images, "_STRIP", 2**16)
    tracemalloc.start()
    to_rgb(Image.fromarray(levels))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * levels.size


# ---- metadata

SWOLLEN = zlib.compress(b"x" * 2**21)  # 2 kB that unpack to 2 MiB
CHUNKS = [
    chunk(b"zTXt", b"key\0\0" + SWOLLEN),
    chunk(b"iTXt", b"key\0\1\0\0\0" + SWOLLEN),
    chunk(b"iCCP", b"key\0\0" + SWOLLEN),
    chunk(b"zTXt", b"key\0\7" + SWOLLEN),
    chunk(b"tEXt", b"key\0value", sound=False),
    chunk(b"eXIf", b"II*\0 garbage", sound=False),
    chunk(b"cHRM", b"\0\0\0\0"),
    chunk(b"fcTL", bytes(26)),
    chunk(b"abCd", bytes(1000)),
    *(chunk(kind, body) for kind in (b"iCCP", b"gAMA", b"fdAT", b"pHYs", b"acTL") for body in (b"", b"\0")),
]


def test_case_metadata_of_a_png_costs_no_image():
    data = encoded(noise())
    for each in CHUNKS:
        for at in (33, len(data) - 12):  # before the pixels and behind them
            image = data[:at] + each + data[at:]
            assert equal(load_rgb(image), noise()) and image_size(image) == noise().size, each[4:8]
    exif = chunk(b"eXIf", turned(6).tobytes()[6:])  # behind the pixels, and found from the header
    image = data[:-12] + exif + data[-12:]
    assert load_rgb(image).size == image_size(image) == (noise().height, noise().width)


def test_metadata_of_jpeg_and_webp_costs_no_image():
    rng = random.Random(0)
    jpeg, webp = encoded(smooth(), "JPEG"), encoded(smooth(), "WEBP")
    plain = {data: load_rgb(data) for data in (jpeg, webp)}
    for _ in range(40):
        junk = rng.randbytes(rng.randrange(40))
        name = rng.choice([b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0", b"JFIF\0", b""])
        marker = rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xFE])
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(name + junk) + 2) + name + junk
        assert equal(load_rgb(jpeg[:2] + segment + jpeg[2:] + junk), plain[jpeg])
        chunks = [(b"VP8X", struct.pack("<II", 0x2C, 95)[:7] + struct.pack("<I", 63)[:3]), (b"ICCP", junk)]
        chunks += [(webp[12:16], webp[20:]), (b"XMP ", junk), (b"EXIF", junk)]
        body = b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in chunks) + junk[:3]
        assert equal(load_rgb(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + junk), plain[webp])


def test_many_comments_cost_their_length():
    """Pillow adds each comment to those before it."""
    gif, jpeg = encoded(smooth(), "GIF"), encoded(smooth(), "JPEG")
    at = 13 + 3 * 2 ** (1 + (gif[10] & 7))
    swollen = gif[:at] + b"\x21\xfe\x01x\x00" * 100_000 + gif[at:]
    assert without_metadata(swollen) == without_metadata(gif) and equal(load_rgb(swollen), load_rgb(gif))
    once, often = (jpeg[:2] + b"\xff\xe1\x00\x09Exif\0\0x" * n + jpeg[2:] for n in (1, 100_000))
    assert without_metadata(often) == without_metadata(once) and load_rgb(often).size == (96, 64)


@pytest.mark.parametrize("form", FORMATS)
def test_what_makes_the_pixels_is_left_as_it_is(form):
    """Cut and damaged files too are the same to a decoder with and without their metadata."""
    data = encoded(noise(), form)
    with_it, without = (Image.open(io.BytesIO(each)).convert("RGB") for each in (data, without_metadata(data)))
    assert equal(with_it, without)
    for end in range(0, len(data), max(1, len(data) // 40)):
        short = without_metadata(data[:end])
        assert len(short) <= end and short[:3] == data[:end][:3]


# ---- whatever the bytes are


def mutate(data: bytes, rng: random.Random) -> bytes:
    body, way = bytearray(data), rng.randrange(5)
    if way < 2:  # flipped bits, anywhere or where the headers are
        for _ in range(rng.choice([1, 4, 32])):
            body[rng.randrange(len(body) if way else min(64, len(body)))] ^= 1 << rng.randrange(8)
        return bytes(body)
    begin, length = rng.randrange(len(body)), rng.randrange(1, 64)
    if way == 2:
        del body[begin:]
    elif way == 3:
        del body[begin : begin + length]
    else:
        body[begin : begin + rng.choice([0, 16])] = rng.choice([rng.randbytes(length), b"\xff" * 16])
    return bytes(body)


def test_mutated_images_give_a_image_or_a_data_error():
    rng, refused = random.Random(0), 0
    sources = [encoded(smooth(), form) for form in FORMATS] + [encoded(noise(), "GIF")]
    sources += [encoded(smooth().quantize(8), "PNG"), encoded(smooth().convert("CMYK"), "JPEG")]
    for number in range(800):
        try:
            image = load_rgb(mutate(sources[number % len(sources)], rng), where="fuzz")
            assert image.mode == "RGB" and min(image.size) > 0
        except DataError as error:
            refused += 1
            assert error.where == "fuzz" and error.what and error.got
    assert 100 < refused < 790  # the mutations neither all miss nor all hit
