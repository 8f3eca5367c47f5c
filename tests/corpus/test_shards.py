"""The tar reader agrees with Python's, and what it cannot read it reports; the index is atomic and checks
itself."""

from __future__ import annotations

import io
import multiprocessing
import random
import tarfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from unimo.corpus import index_file
from unimo.corpus.index_file import Index, index_path, load_index, save_index
from unimo.corpus.tar import Member, Oddity, scan_tar
from unimo.errors import DataError
from unimo.file_access import _OpenFiles, forget, read_range
from unimo.ragged import Strings, pack_strings


def write_tar(path, members, form=tarfile.USTAR_FORMAT, mtime=0):
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
    return path


def many(count=12):
    rng = random.Random(1)
    return [(f"{i:04d}.{e}", rng.randbytes(rng.randrange(0, 1500))) for i in range(count) for e in ("jpg", "json")]


def payloads(path):
    found = list(scan_tar(path))
    members = [entry for entry in found if isinstance(entry, Member)]
    read = [(m.name, read_range(path, m.offset, m.length)) for m in members]
    return read, [entry for entry in found if isinstance(entry, DataError)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_reads_what_tarfile_writes(form, mtime, tmp_path):
    long = "folder/" * 12 + "n" * 60 + ".jpg"  # fits a USTAR prefix; pax and GNU write extra headers
    members = [*many(), (long, b"long"), ("./dotted.jpg", b"dot"), ("empty.jpg", b"")]
    if form != tarfile.USTAR_FORMAT:
        members += [("x" * 300 + ".png", b"very long"), ("größe 图像 🐈.jpg", b"unicode")]
    path = write_tar(tmp_path / "a.tar", members, form, mtime)
    read, damage = payloads(path)
    with tarfile.open(path) as tar:
        expected = [(m.name.removeprefix("./"), tar.extractfile(m).read()) for m in tar]
    assert read == expected and not damage


def test_global_pax_headers_do_not_disturb(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "made by a test"}) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    assert [e.name for e in scan_tar(path)] == ["a.jpg"]


def test_only_regular_members_are_handed_out(tmp_path):
    path = tmp_path / "a.tar"
    kinds = [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
    ]
    with tarfile.open(path, "w") as tar:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("../../real.jpg"), io.BytesIO())
    found = list(scan_tar(path))
    assert [type(entry) for entry in found] == [Oddity] * 6 + [Member]
    assert found[-1].name == "../../real.jpg"  # a name, never a place


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_flipped_header_bit_is_reported_and_costs_one_member(form, tmp_path):
    """All bits of one header that its checksum covers, and random ones elsewhere. Python's reader stops
    silently."""
    original = write_tar(tmp_path / "a.tar", many(), form)
    data = original.read_bytes()
    headers = [m.offset - 512 for m in scan_tar(original)]
    expected, _ = payloads(original)
    rng = random.Random(0)
    flips = [headers[5] * 8 + bit for bit in range(0, 512 * 8, 7)] + [
        rng.choice(headers) * 8 + rng.randrange(512 * 8) for _ in range(150)
    ]
    reported = 0
    path = tmp_path / "b.tar"
    for flip in flips:
        body = bytearray(data)
        body[flip // 8] ^= 1 << flip % 8
        path.write_bytes(body)
        forget(path)
        read, damage = payloads(path)
        missing = [member for member in expected if member not in read]
        assert len(missing) <= 1 and (damage or not missing), flip
        if damage:
            reported += 1
            assert str(flip // 8 // 512 * 512) in str(damage[0].where)
    assert reported > 0.95 * len(flips)  # the rest: bits of the padding behind the checksum's digits


def test_a_tar_cut_anywhere_is_reported(tmp_path):
    data = write_tar(tmp_path / "a.tar", many()).read_bytes()
    expected, _ = payloads(tmp_path / "a.tar")
    end = data.rstrip(b"\0")
    path = tmp_path / "b.tar"
    for length in [0, 1, 511, 512, 513, *range(1000, len(end), 977), *range(512, len(end), 4096)]:
        path.write_bytes(data[:length])
        forget(path)
        read, damage = payloads(path)
        assert damage and "cut short" in damage[-1].what, length
        assert read == expected[: len(read)]


def test_blank_and_foreign_stretches_are_reported_and_skipped(tmp_path):
    path = write_tar(tmp_path / "a.tar", many())
    expected, _ = payloads(path)
    body = bytearray(path.read_bytes())
    header = [m.offset - 512 for m in scan_tar(path)][6]
    for filler in (bytes(512), b"\xaa" * 512):
        body[header : header + 512] = filler
        path.write_bytes(body)
        forget(path)
        read, damage = payloads(path)
        assert len(damage) == 1 and str(header) in str(damage[0].where)
        assert read == expected[:6] + expected[7:]


def test_sizes_that_lie_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    for length in (2**40, 2**33 - 1):
        info = tarfile.TarInfo("giant.jpg")
        info.size = length
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        forget(path)
        assert [type(entry) for entry in scan_tar(path)] == [DataError]


def test_replaced_file_is_seen_after_forget_and_descriptors_are_bounded(tmp_path):
    readers = _OpenFiles(limit=3)
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 8)
        assert readers.read(tmp_path / f"{number}", 2, 3) == bytes([number]) * 3
    assert len(readers.open) == 3
    replacement = tmp_path / "new"
    replacement.write_bytes(b"new bytes")
    replacement.replace(tmp_path / "9")
    assert readers.read(tmp_path / "9", 0, 3) == b"\x09\x09\x09"
    readers.forget(tmp_path / "9")
    assert readers.read(tmp_path / "9", 0, 3) == b"new"


def _read_in_child(path):
    return [read_range(path, offset, 4) for offset in range(0, 400, 4)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_do_not_disturb_each_other(method, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)) * 2)
    expected = [path.read_bytes()[offset : offset + 4] for offset in range(0, 400, 4)]
    assert read_range(path, 0, 4) == expected[0]  # opened before the fork
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        children = [pool.submit(_read_in_child, path) for _ in range(2)]
        assert [read_range(path, offset, 4) for offset in range(0, 400, 4)] == expected
        assert [child.result() for child in children] == [expected, expected]


def index() -> Index:
    blob, offsets = pack_strings(["a", "", "größe"])
    return Index(
        {"kind": "texts", "counts": "{}"},
        {"blob": blob, "offsets": offsets, "none": np.zeros((0, 2), np.int64)},
    )


def test_equal_indexes_are_equal_files(tmp_path):
    written = set()
    for _ in range(20):  # the library's own order of the metadata is drawn anew each time
        save_index(tmp_path / "i", index())
        written.add((tmp_path / "i").read_bytes())
    assert len(written) == 1


def test_index_round_trip_and_strings(tmp_path):
    save_index(tmp_path / "i", index())
    stored = load_index(tmp_path / "i")
    names = Strings(stored.arrays["blob"], stored.arrays["offsets"])
    assert list(names) == ["a", "", "größe"] and names[-1] == "größe" and names[:2] == ["a", ""] and len(names) == 3
    assert stored.header["kind"] == "texts" and stored.arrays["none"].shape == (0, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["i"]  # no temporary file stays


def test_every_flipped_bit_or_cut_of_an_index_is_noticed(tmp_path):
    path = tmp_path / "i"
    save_index(path, index())
    data = path.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        body = bytearray(data)
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        path.write_bytes(body)
        assert load_index(path) is None
        path.write_bytes(data[: rng.randrange(len(data))])
        assert load_index(path) is None
    path.write_bytes(data)
    assert load_index(path) is not None


def test_a_failed_write_keeps_the_former_index(tmp_path, monkeypatch):
    from unimo.errors import ResourceError

    path = tmp_path / "i"
    save_index(path, index())
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file.os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        save_index(path, index())
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["i"]


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
