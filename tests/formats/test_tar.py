"""The tar reader agrees with Python's, and what it cannot read it reports; files are read by range."""

from __future__ import annotations

import io
import multiprocessing
import random
import tarfile
from concurrent.futures import ProcessPoolExecutor

import pytest
from corpora import tar_of

from unimo.corpus.index_file import index_path
from unimo.errors import DataError
from unimo.file_access import _OpenFiles, forget, read_range
from unimo.formats import tar
from unimo.formats.tar import Member, Oddity, _read_extension, scan_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def many(count=12):
    rng = random.Random(1)
    return [(f"{i:04d}.{e}", rng.randbytes(rng.randrange(0, 1500))) for i in range(count) for e in ("jpg", "json")]


def payloads(path, data=None):
    if data is not None:
        path.write_bytes(data)
        forget(path)
    found = list(scan_tar(path))
    members = [(m.name, read_range(path, m.offset, m.length)) for m in found if isinstance(m, Member)]
    return members, [entry for entry in found if isinstance(entry, DataError)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_reads_what_tarfile_writes(form, mtime, tmp_path):
    long = "folder/" * 12 + "n" * 60 + ".jpg"  # fits a USTAR prefix; pax and GNU write extra headers
    members = [*many(), (long, b"long"), ("./dotted.jpg", b"dot"), ("empty.jpg", b"")]
    if form != tarfile.USTAR_FORMAT:
        members += [("x" * 300 + ".png", b"very long"), ("größe 图像 🐈.jpg", b"unicode")]
    path = tar_of(tmp_path / "a.tar", members, form, mtime)
    with tarfile.open(path) as archive:
        expected = [(m.name.removeprefix("./"), archive.extractfile(m).read()) for m in archive]
    assert payloads(path) == (expected, [])


def test_only_files_are_handed_out_and_global_headers_do_not_disturb(tmp_path):
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("../../real.jpg"), io.BytesIO())
    found = list(scan_tar(tmp_path / "a.tar"))
    assert [type(entry) for entry in found] == [Oddity] * 6 + [Member]
    assert found[-1].name == "../../real.jpg"  # a name, never a place


@pytest.mark.parametrize("form", FORMATS)
def test_every_flipped_header_bit_is_reported_and_costs_one_member(form, tmp_path):
    """Bits of one header that its checksum covers, and random ones elsewhere. Python's reader stops silently."""
    path = tar_of(tmp_path / "a.tar", many(), form)
    data, (expected, _) = path.read_bytes(), payloads(path)
    headers = [m.offset - 512 for m in scan_tar(path)]
    rng = random.Random(0)
    flips = [headers[5] * 8 + bit for bit in range(0, 512 * 8, 7)]
    flips += [rng.choice(headers) * 8 + rng.randrange(512 * 8) for _ in range(150)]
    reported = 0
    for flip in flips:
        body = bytearray(data)
        body[flip // 8] ^= 1 << flip % 8
        read, damage = payloads(path, body)
        missing = [member for member in expected if member not in read]
        assert len(missing) <= 1 and (damage or not missing), flip
        reported += bool(damage)
        assert not damage or str(flip // 8 // 512 * 512) in str(damage[0].where)
    assert reported > 0.95 * len(flips)  # the rest: bits of the padding behind the checksum's digits


def test_what_is_cut_off_blank_or_foreign_is_reported_and_skipped(tmp_path):
    path = tar_of(tmp_path / "a.tar", many())
    data, (expected, _) = path.read_bytes(), payloads(path)
    header = [m.offset - 512 for m in scan_tar(path)][6]
    for filler in (bytes(512), b"\xaa" * 512):
        read, damage = payloads(path, data[:header] + filler + data[header + 512 :])
        assert len(damage) == 1 and str(header) in str(damage[0].where) and read == expected[:6] + expected[7:]
    end = data.rstrip(b"\0")
    for length in [0, 1, 511, 512, 513, *range(1000, len(end), 977), *range(512, len(end), 4096)]:
        read, damage = payloads(path, data[:length])
        assert damage and "cut short" in damage[-1].what and read == expected[: len(read)], length
    for length in (2**40, 2**33 - 1):  # sizes that lie
        info = tarfile.TarInfo("giant.jpg")
        info.size = length
        assert [len(each) for each in payloads(path, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))] == [0, 1]


# ---- work that grows with the square of its input


def pax(records: bytes) -> bytes:
    """A tar of one empty member behind a pax header."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    body = records + bytes(-len(records) % 512)
    return header.tobuf(tarfile.USTAR_FORMAT) + body + tarfile.TarInfo("a.jpg").tobuf() + bytes(1024)


def record(name: bytes, value: bytes) -> bytes:
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


SIZES = [record(b"size", size) for size in (b"9" * 5000, b"-1", b"", b"1e3", b"9" * 20, "٣".encode())]
BROKEN = [b"9" * 600, b"7", b"-5 a=\n", b" a=\n", b"99999999999999999999 a=\n", b"5 a=x"]


@pytest.mark.parametrize("records", SIZES + BROKEN)
def test_case_a_size_that_is_none_and_pax_headers_that_do_not_parse_are_named(records, tmp_path):
    (tmp_path / "a.tar").write_bytes(pax(records))
    damage, member = scan_tar(tmp_path / "a.tar")
    assert isinstance(damage, DataError) and "byte offset 0" in str(damage.where) and member.name == "a.jpg"


class Metered(bytes):
    """Bytes that count how many of them are copied."""

    copied = 0

    def __getitem__(self, index):
        part = bytes.__getitem__(self, index)
        Metered.copied += len(part) if isinstance(index, slice) else 0
        return part


@pytest.mark.parametrize("records", [b"5 a=\n", record(b"path", b"x" * 50)])
def test_case_many_pax_records_cost_their_length(records, tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "read_range", lambda path, offset, length: Metered(records * (length // len(records))))

    def copied(n):
        Metered.copied = 0
        _read_extension(tmp_path, b"x", 0, n * len(records))
        return Metered.copied

    assert 0 < copied(4000) <= 4 * copied(1000) + 1000


def test_case_what_nobody_needs_of_pax_records_is_not_carried_from_member_to_member(tmp_path):
    records = b"".join(record(b"k%d" % i, b"v") for i in range(1000)) + record(b"path", b"b.jpg")
    (tmp_path / "a.tar").write_bytes(pax(records))
    assert [entry.name for entry in scan_tar(tmp_path / "a.tar")] == ["b.jpg"]
    assert set(_read_extension(tmp_path / "a.tar", b"g", 512, len(records))) == {"path"}


def test_many_broken_headers_cost_their_length(tmp_path, monkeypatch):
    read = [0]

    def counted(path, offset, length):
        read[0] += length
        return read_range(path, offset, length)

    monkeypatch.setattr(tar, "read_range", counted)

    def cost(n):
        path = tmp_path / f"{n}.tar"
        path.write_bytes(b"".join(tarfile.TarInfo(f"{i}.jpg").tobuf() + b"\x07" * 512 for i in range(n)) + bytes(1024))
        read[0] = 0
        assert len(list(scan_tar(path))) == 2 * n
        return read[0]

    assert cost(400) <= 5 * cost(100)


# ---- files by range


def test_replaced_file_is_seen_after_forget_and_descriptors_are_bounded(tmp_path):
    readers = _OpenFiles(limit=3)
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 8)
        assert readers.read(tmp_path / f"{number}", 2, 3) == bytes([number]) * 3
    assert len(readers.open) == 3
    (tmp_path / "new").write_bytes(b"new bytes")
    (tmp_path / "new").replace(tmp_path / "9")
    assert readers.read(tmp_path / "9", 0, 3) == b"\x09\x09\x09"
    readers.forget(tmp_path / "9")
    assert readers.read(tmp_path / "9", 0, 3) == b"new"


def _read_in_child(path):
    return [read_range(path, offset, 4) for offset in range(0, 400, 4)]


def test_processes_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)) * 2)
    expected = _read_in_child(path)  # opened before the fork
    assert b"".join(expected) == path.read_bytes()
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        children = [pool.submit(_read_in_child, path) for _ in range(2)]
        assert _read_in_child(path) == expected and [child.result() for child in children] == [expected, expected]


# ---- where an index lies


def test_read_only_folders_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    shard = data / "a.tar"
    shard.touch()
    assert index_path(shard, "pairs", None).parent == data
    data.chmod(0o555)
    assert index_path(shard, "pairs", None).is_relative_to(tmp_path / "cache")
    data.chmod(0o755)
    assert index_path(shard, "pairs", tmp_path / "x") != index_path(shard, "images", tmp_path / "x")
