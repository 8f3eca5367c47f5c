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


def noise(width: int = 37, height: int = 23, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int = 96, height: int = 64) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("form", FORMATS)
def test_the_five_formats_are_read(form):
    image = load_rgb(encoded(smooth(), form))
    assert (image.mode, image.size) == ("RGB", (96, 64))
    if form in ("PNG", "BMP"):
        assert np.array_equal(np.asarray(image), np.asarray(smooth()))
    else:
        assert np.abs(np.asarray(image, int) - np.asarray(smooth(), int)).mean() < 12


@pytest.mark.parametrize("form", ["TIFF", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "EPS", "PDF", "IM", "MSP"])
def test_every_other_format_is_refused_whatever_its_name(form, tmp_path):
    source = smooth(64, 64).convert("1") if form == "MSP" else smooth(64, 64)
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(source, form))
    with pytest.raises(DataError) as caught:
        load_rgb(path)
    assert "photo.jpg" in str(caught.value) and caught.value.expected and caught.value.do


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation, form):
    upright = np.asarray(noise())
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encoded(stored, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    assert np.array_equal(np.asarray(load_rgb(data)), upright)
    assert image_size(data) == load_rgb(data).size


def test_a_broken_exif_block_leaves_the_image_as_stored():
    data = encoded(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert load_rgb(data).size == (96, 64)


def test_colour_modes_have_a_defined_rgb_form():
    rgb = np.asarray(smooth(), int)
    for mode in ("CMYK", "YCbCr", "HSV", "RGBA"):
        assert np.abs(np.asarray(to_rgb(smooth().convert(mode)), int) - rgb).max() <= (12 if mode == "HSV" else 3), mode
    grey = smooth().convert("L")
    for image in (grey, grey.convert("LA"), grey.convert("F")):
        assert np.array_equal(np.asarray(to_rgb(image))[..., 0], np.asarray(grey)), image.mode
    assert set(np.unique(np.asarray(load_rgb(encoded(grey.convert("1")))))) == {0, 255}
    palette = smooth().quantize(16)
    assert np.array_equal(np.asarray(load_rgb(encoded(palette))), np.asarray(palette.convert("RGB")))


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert load_rgb(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert load_rgb(encoded(half)).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    assert load_rgb(encoded(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert load_rgb(encoded(palette, transparency=0)).getpixel((0, 0)) == (200, 0, 0)


def test_sixteen_bits_keep_their_levels():
    levels = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)
    image = np.asarray(load_rgb(encoded(Image.fromarray(levels))))
    assert np.array_equal(image[..., 0].ravel(), np.arange(256))


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
    frames = [Image.new("RGB", (300, 200), (i % 256, 0, 0)) for i in range(400)]
    data = encoded(frames[5], "GIF", save_all=True, append_images=frames[6:])
    decoded.clear()
    assert load_rgb(data).getpixel((0, 0))[0] == 5
    assert decoded == [(300, 200)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused(form, share):
    data = encoded(noise(200, 150), form, **({"quality": 90} if form in ("JPEG", "WEBP") else {}))
    with pytest.raises(DataError):
        load_rgb(data[: int(len(data) * share)], where="shard, key 7")


def test_truncation_is_refused_even_where_another_library_allowed_it(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(noise(200, 150), "JPEG")
    with pytest.raises(DataError):
        load_rgb(data[: len(data) // 2])


def bomb(width: int, height: int) -> bytes:
    """A one-bit PNG of zeros: a few kilobytes that claim width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compressobj()
    body = b"".join(rows.compress(bytes(1 + (width + 7) // 8)) for _ in range(min(height, 9000))) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6400, 9000, 12000, 20000, 2**31 - 1])
def test_bombs_are_refused_from_the_header(side, decoded):
    data = (
        bomb(side, side)
        if side < 2**16
        else bomb(8, 8).replace(struct.pack(">II", 8, 8), struct.pack(">II", side, side))
    )
    with pytest.raises(DataError):
        load_rgb(data)
    with pytest.raises(DataError):
        image_size(data)
    assert not decoded
    load_rgb(encoded(smooth(20, 10)))
    assert decoded


def test_the_cap_is_exact():
    data = encoded(smooth(20, 10))
    assert load_rgb(data, max_pixels=200).size == (20, 10)
    with pytest.raises(DataError, match="20 x 10"):
        load_rgb(data, max_pixels=199)


def test_only_regular_files_are_opened(tmp_path):
    pipe, link, folder = tmp_path / "pipe.jpg", tmp_path / "link.jpg", tmp_path / "folder.jpg"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nothing.jpg")
    folder.mkdir()
    for path in (
        pipe,
        link,
        folder,
        tmp_path / "absent.jpg",
    ):  # a pipe would block for ever if it were opened
        with pytest.raises(DataError) as caught:
            load_rgb(path)
        assert path.name in str(caught.value.where)


def test_html_named_jpg_says_what_it_is():
    with pytest.raises(DataError, match="<html>"):
        load_rgb(b"<html>404 not found</html>", where="a.tar, key 3")


def png_chunk(kind: bytes, body: bytes, *, sound: bool = True) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ (not sound))


SWOLLEN = zlib.compress(b"x" * 2**21)  # 2 kB that unpack to 2 MiB


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"key\0\0" + SWOLLEN),
        png_chunk(b"iTXt", b"key\0\1\0\0\0" + SWOLLEN),
        png_chunk(b"iCCP", b"key\0\0" + SWOLLEN),
        png_chunk(b"zTXt", b"key\0\7" + SWOLLEN),
        png_chunk(b"iCCP", b""),
        png_chunk(b"tEXt", b"key\0value", sound=False),
        png_chunk(b"eXIf", b"II*\0 garbage", sound=False),
        png_chunk(b"pHYs", b"\0"),
        png_chunk(b"gAMA", b""),
        png_chunk(b"cHRM", b"\0\0\0\0"),
        png_chunk(b"acTL", b"\0"),
        png_chunk(b"fcTL", bytes(26)),
        png_chunk(b"fdAT", b""),
        png_chunk(b"abCd", bytes(1000)),
    ],
    ids=lambda chunk: chunk[4:8].decode(),
)
def test_case_metadata_of_a_png_costs_no_image(chunk):
    data = encoded(noise())
    for at in (33, len(data) - 12):  # before the pixels and behind them
        image = data[:at] + chunk + data[at:]
        assert np.array_equal(np.asarray(load_rgb(image)), np.asarray(noise()))
        assert image_size(image) == noise().size


def test_exif_behind_the_pixels_of_a_png_is_found_from_the_header():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noise())
    image = data[:-12] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[-12:]
    assert load_rgb(image).size == image_size(image) == (noise().height, noise().width)


def test_metadata_of_jpeg_and_webp_costs_no_image():
    rng = random.Random(0)
    jpeg, webp = encoded(smooth(), "JPEG"), encoded(smooth(), "WEBP")
    plain = {data: np.asarray(load_rgb(data)) for data in (jpeg, webp)}
    for _ in range(40):
        noise_bytes = rng.randbytes(rng.randrange(40))
        name = rng.choice([b"Exif\0\0", b"ICC_PROFILE\0", b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0", b"JFIF\0", b""])
        marker = rng.choice([0xE0, 0xE1, 0xE2, 0xED, 0xFE])
        segment = bytes([0xFF, marker]) + struct.pack(">H", len(name + noise_bytes) + 2) + name + noise_bytes
        found = load_rgb(jpeg[:2] + segment + jpeg[2:] + noise_bytes)
        assert np.array_equal(np.asarray(found), plain[jpeg])
        chunks = [(b"VP8X", struct.pack("<II", 0x2C, 95)[:7] + struct.pack("<I", 63)[:3]), (b"ICCP", noise_bytes)]
        chunks += [(webp[12:16], webp[20:]), (b"XMP ", noise_bytes), (b"EXIF", noise_bytes)]
        body = b"".join(k + struct.pack("<I", len(b)) + b + b"\0" * (len(b) % 2) for k, b in chunks) + noise_bytes[:3]
        found = load_rgb(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + noise_bytes)
        assert np.array_equal(np.asarray(found), plain[webp])


def test_many_comments_cost_their_length():
    """Pillow adds each comment to those before it."""
    gif, jpeg = encoded(smooth(), "GIF"), encoded(smooth(), "JPEG")
    at = 13 + 3 * 2 ** (1 + (gif[10] & 7))
    comments = b"\x21\xfe\x01x\x00" * 100_000
    swollen = gif[:at] + comments + gif[at:]
    assert without_metadata(swollen) == without_metadata(gif)
    assert np.array_equal(np.asarray(load_rgb(swollen)), np.asarray(load_rgb(gif)))
    exif = b"\xff\xe1\x00\x09Exif\0\0x"
    once, often = (jpeg[:2] + exif * n + jpeg[2:] for n in (1, 100_000))
    assert without_metadata(often) == without_metadata(once)
    assert load_rgb(often).size == (96, 64)


@pytest.mark.parametrize("form", FORMATS)
def test_what_makes_the_pixels_is_left_as_it_is(form):
    """Cut and damaged files too are the same to a decoder with and without their metadata."""
    data = encoded(noise(), form)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(without_metadata(data))).convert("RGB")),
                          np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))  # fmt: skip
    for end in range(0, len(data), max(1, len(data) // 40)):
        short = without_metadata(data[:end])
        assert len(short) <= end and short[:3] == data[:end][:3]


def test_images_without_an_rgb_form_are_refused():
    with pytest.raises(DataError, match="finite"):
        to_rgb(Image.fromarray(np.full((3, 4), np.nan, np.float32)))


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "CMYK", "L", "1"])
def test_strips_are_no_different_from_the_whole(mode, monkeypatch):
    levels = np.random.default_rng(1).integers(0, 65536, (23, 37), dtype=np.uint16)
    image = Image.fromarray(levels) if mode == "I;16" else noise().convert("RGBA").convert(mode)
    whole = np.asarray(to_rgb(image))
    monkeypatch.setattr(images, "_STRIP", 100)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)


def test_case_sixteen_bits_take_no_more_memory_than_others(monkeypatch):
    """Of 40 million pixels of 16 bits: what numpy holds stays below two bytes a pixel (it was 18)."""
    levels = np.zeros((1500, 2000), np.uint16)
    image = Image.fromarray(levels)
    monkeypatch.setattr(images, "_STRIP", 2**16)
    tracemalloc.start()
    to_rgb(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * levels.size


def test_case_a_thread_of_pixels_is_refused_from_its_header():
    data = bomb(1, 40_000_000)
    for read in (load_rgb, image_size):
        with pytest.raises(DataError, match="1 x 40000000"):
            read(data, where="thread")


def test_nothing_of_the_metadata_survives():
    exif = Image.Exif()
    exif[0x010E] = "<script>"
    assert load_rgb(encoded(smooth(), "JPEG", exif=exif, comment=b"secret")).info == {}


def mutate(data: bytes, rng: random.Random) -> bytes:
    body = bytearray(data)
    way = rng.randrange(6)
    if way == 0:  # flipped bits
        for _ in range(rng.choice([1, 4, 32])):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif way == 1:  # flipped bits where the headers are
        for _ in range(rng.choice([1, 4])):
            body[rng.randrange(min(64, len(body)))] ^= 1 << rng.randrange(8)
    elif way == 2:
        del body[rng.randrange(len(body)) :]
    elif way == 3:
        begin = rng.randrange(len(body))
        del body[begin : begin + rng.randrange(1, 64)]
    elif way == 4:
        begin = rng.randrange(len(body))
        body[begin:begin] = rng.randbytes(rng.randrange(1, 64))
    else:
        begin = rng.randrange(len(body))
        body[begin : begin + 16] = b"\xff" * 16
    return bytes(body)


def test_mutated_images_give_an_image_or_a_data_error():
    rng = random.Random(0)
    sources = [encoded(smooth(), form) for form in FORMATS]
    sources += [
        encoded(noise(), "GIF"),
        encoded(smooth().quantize(8), "PNG"),
        encoded(smooth().convert("CMYK"), "JPEG"),
    ]
    refused = 0
    for number in range(800):
        data = mutate(sources[number % len(sources)], rng)
        try:
            image = load_rgb(data, where="fuzz")
            assert image.mode == "RGB" and min(image.size) > 0
        except DataError as error:
            refused += 1
            assert error.where == "fuzz" and error.what
    assert 100 < refused < 790  # the mutations neither all miss nor all hit
