"""Encoded images without what nobody needs of them: texts, colour profiles, thumbnails, later frames of a PNG.

A damaged or swollen comment says nothing about the pixels, but decoders refuse the file for it, or gather a million of
them in quadratic time. So it is taken out before anything is decoded; what makes the pixels and the EXIF orientation
stays byte for byte. Where the structure of a file is not what its format says, the rest is left as it is, for the
decoder to judge.

Sources: PNG (W3C, third edition, 5.3), JPEG (ITU-T T.81, annex B), WebP container (RFC 9649, section 2.7), GIF89a.
"""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_ANCILLARY = (b"tRNS", b"eXIf")  # the two that are needed
_JPEG_EXIF, _JPEG_ADOBE = 0xE1, 0xEE  # orientation, in EXIF or XMP; the colour transform
_JFIF_LENGTH = 16  # a shorter one is none (T.871), and is passed over by decoders of the image too
_WEBP_NEEDED = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF")
_WEBP_DROPPED_FLAGS = 0x20 | 0x04  # of VP8X: has a colour profile, has XMP


def without_metadata(data: bytes) -> bytes:
    """The file with what makes its pixels and their orientation; the same object where nothing is to be dropped."""
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return data


def _png(data: bytes) -> bytes:
    """EXIF is moved before the pixels, so that the header alone tells how the image stands."""
    view, at = memoryview(data), len(_PNG)
    kept: list[memoryview] = []
    exif: list[memoryview] = []
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):  # cut short: whether that matters depends on which chunk it is
            if not kind[0] & 0x20:
                kept.append(view[at:])
            break
        chunk = view[at:end]
        if kind == b"eXIf":
            if not exif and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big"):
                exif.append(chunk)
        elif kind in _PNG_ANCILLARY or not kind[0] & 0x20:  # the bit says: can be left out
            kept.append(chunk)
        at = end
        if kind == b"IEND":
            break
    return data if not kept else b"".join([_PNG, kept[0], *exif, *kept[1:]])


def _jpeg(data: bytes) -> bytes:
    view, at = memoryview(data), 2
    kept = [view[:2]]
    seen: set[bytes] = set()
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA:  # the scan begins, or no segment with a length
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            break
        name = data[at + 4 : at + 8]
        if marker == _JPEG_EXIF:  # of each kind the first: what it says goes on in others, but not the orientation
            needed = name not in seen and len(seen) < 3
            seen.add(name)
        elif marker == 0xE0:
            needed = end - at - 2 >= _JFIF_LENGTH
        else:
            needed = marker == _JPEG_ADOBE or not (0xE0 <= marker <= 0xEF or marker == 0xFE)
        if needed:
            kept.append(view[at:end])
        at = end
    kept.append(view[at:])
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def _gif(data: bytes) -> bytes:
    """Without comments and extensions of programs before the first frame, which is the one that is read."""
    view, at = memoryview(data), 13
    if len(data) > 10 and data[10] & 0x80:
        at += 3 * 2 ** (1 + (data[10] & 7))  # the palette
    kept = [view[:at]]
    while at + 2 < len(data) and data[at] == 0x21:
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if end > len(data):
            break
        if data[at + 1] not in (0xFE, 0xFF):
            kept.append(view[at:end])
        at = end
    kept.append(view[at:])
    return data if sum(map(len, kept)) == len(data) else b"".join(kept)


def _webp(data: bytes) -> bytes:
    view, at = memoryview(data), 12
    size = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    kept: list[bytes | memoryview] = []
    while at + 8 <= size:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if end > size:
            if kind in _WEBP_NEEDED:
                return data
            break
        if kind == b"VP8X" and length >= 10:
            kept.append(data[at : at + 8] + bytes([data[at + 8] & ~_WEBP_DROPPED_FLAGS]) + data[at + 9 : end])
        elif kind in _WEBP_NEEDED:
            kept.append(view[at:end])
        at = end
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
