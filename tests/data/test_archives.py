"Malicious archives, built by hand, and archives that are merely damaged."

import bz2
import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from fashionern.data.download import archives
from fashionern.data.download.archives import Unpacked, flat, tree, unpack
from fashionern.errors import ErnError

JPG = (".jpg",)


def zip_of(path: Path, *members: tuple[str, bytes], mode: int = 0) -> Path:
    "A ZIP file with arbitrary names. `mode` applies to the last member."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode if (name, content) == members[-1] else 0) << 16
            z.writestr(info, content)
    return path


def tar_of(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, open_file=open) -> Path:
    "A TAR file. `kind` applies to the last member."
    with open_file(path, "wb") as f, tarfile.open(fileobj=f, mode="w") as t:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if (name, content) == members[-1]:
                info.type = kind
                info.linkname = "/etc/passwd"
            info.size = len(content) if info.isreg() else 0
            t.addfile(info, io.BytesIO(content))
    return path


def refused(path: Path, place=tree(JPG), **options) -> str:
    "The one-line error of a refused archive. Nothing is written, inside or outside the target folder."
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ErnError) as caught:
        unpack(path, path.parent / "out", place, progress=False, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before
    return str(caught.value)


HOSTILE_NAMES = [
    "/evil.jpg",
    "../evil.jpg",
    "a/../../evil.jpg",
    "..\\evil.jpg",
    "C:\\evil.jpg",
    "c:evil.jpg",
    "\\\\host\\share\\evil.jpg",
    "//host/share/evil.jpg",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("place", [tree(JPG), flat(JPG), tree((".png",))], ids=["tree", "flat", "other files"])
def test_names_outside_the_folder_are_refused(tmp_path, name, place):
    assert "outside its folder" in refused(zip_of(tmp_path / "a.zip", ("ok.jpg", b"1"), (name, b"2")), place)
    assert "outside its folder" in refused(tar_of(tmp_path / "a.tar", ("ok.jpg", b"1"), (name, b"2")), place)


@pytest.mark.parametrize("name", ["a\n.jpg", "a\x1b[2J.jpg", "a\x7f.jpg", "a\x85.jpg", "a\u2028.jpg", "a\0b.jpg"])
def test_names_with_control_characters_are_refused(tmp_path, name):
    assert "not valid text" in refused(zip_of(tmp_path / "a.zip", ("ok.jpg", b"1"), (name, b"2")))
    if "\0" not in name:  # a TAR name ends there
        assert "not valid text" in refused(tar_of(tmp_path / "a.tar", ("ok.jpg", b"1"), (name, b"2")))


def test_a_name_that_cannot_be_encoded_is_refused(tmp_path):
    path = tar_of(tmp_path / "a.tar", ("ok.jpg", b"1"), ("na\udcffme.jpg", b"2"))
    assert "not valid text" in refused(path)


def test_long_names_are_refused(tmp_path):
    for name in ("a" * 300 + ".jpg", "ab/" * 400 + "a.jpg"):
        assert "too long" in refused(zip_of(tmp_path / "a.zip", (name, b"2")))
        assert "too long" in refused(tar_of(tmp_path / "a.tar", (name, b"2")))


@pytest.mark.parametrize("suffix", [".jpg", ".txt"])
@pytest.mark.parametrize(
    "mode, kind, word",
    [
        (stat.S_IFLNK, tarfile.SYMTYPE, "a link"),
        (stat.S_IFLNK, tarfile.LNKTYPE, "a link"),
        (stat.S_IFCHR, tarfile.CHRTYPE, "a device"),
        (stat.S_IFBLK, tarfile.BLKTYPE, "a device"),
        (stat.S_IFIFO, tarfile.FIFOTYPE, "a device"),
        (stat.S_IFSOCK, b"Z", ""),
    ],
)
def test_links_and_devices_are_refused(tmp_path, mode, kind, word, suffix):
    members = ("ok.jpg", b"1"), (f"evil{suffix}", b"/etc/passwd")
    assert (word or "a device") in refused(zip_of(tmp_path / "a.zip", *members, mode=mode | 0o777))
    if word:  # by the standard, an unknown type is a plain file
        assert word in refused(tar_of(tmp_path / "a.tar", *members, kind=kind))


def test_folders_may_be_listed_and_permissions_are_not_restored(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as t:
        folder = tarfile.TarInfo("images")
        folder.type = tarfile.DIRTYPE
        file = tarfile.TarInfo("images/1.jpg")
        file.mode = 0o4777
        file.size = 3
        t.addfile(folder)
        t.addfile(file, io.BytesIO(b"one"))
    assert unpack(path, tmp_path / "out", tree(JPG), progress=False) == Unpacked(1, 0, 1)
    assert not (tmp_path / "out/images/1.jpg").stat().st_mode & (stat.S_ISUID | 0o111)


@pytest.mark.parametrize(
    "names, place, word",
    [
        (("a.jpg", "a.jpg"), tree(JPG), "two files named"),
        (("a.jpg", "A.jpg"), tree(JPG), "two files named"),
        (("x/a.jpg", "X/A.JPG"), tree(JPG), "two files named"),
        (("x/a.jpg", "y/a.jpg"), flat(JPG), "two files named"),
        (("\u00e9.jpg", "e\u0301.jpg"), tree(JPG), "two files named"),
        (("stra\u00dfe.jpg", "STRASSE.jpg"), tree(JPG), "two files named"),
        (("a\\b.jpg", "a/b.jpg"), tree(JPG), "two files named"),
        (("one/women/1.jpg", "two/women/1.jpg"), tree(JPG, "women"), "two files named"),
        (("a.jpg/b.jpg", "A.jpg"), tree(JPG), "as a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_colliding_names_are_refused(tmp_path, names, place, word):
    members = [(name, bytes([i])) for i, name in enumerate(names)]
    assert word in refused(zip_of(tmp_path / "a.zip", *members), place)
    assert word in refused(tar_of(tmp_path / "a.tar", *members), place)


def test_sizes_and_numbers_are_limited(tmp_path):
    members = [(f"{i}.jpg", bytes(1000)) for i in range(4)] + [("notes.txt", bytes(1000))]
    paths = (
        zip_of(tmp_path / "a.zip", *members),
        tar_of(tmp_path / "a.tgz", *members, open_file=gzip.open),
    )
    for path in paths:
        assert "more than 4.99e-06 GB" in refused(path, max_bytes=4990)
        assert "more than 4 files" in refused(path, max_members=4)
        unpacked = unpack(path, tmp_path / path.stem, tree(JPG), max_bytes=5000, max_members=5, progress=False)
        assert unpacked.files == 4
        path.unlink()
        for file in (tmp_path / "a").iterdir():
            file.unlink()


def test_listing_a_bomb_stops_early(tmp_path, monkeypatch):
    class Counted(gzip.GzipFile):
        got = 0

        def read(self, size=-1):
            content = super().read(size)
            Counted.got += len(content)
            return content

    with gzip.open(tmp_path / "bomb.tgz", "wb") as f:
        info = tarfile.TarInfo("a.jpg")
        info.size = 1 << 40
        f.write(info.tobuf())
        for _ in range(64):
            f.write(bytes(1 << 20))
    monkeypatch.setattr(archives.gzip, "open", Counted)
    assert "more than 20 GB" in refused(tmp_path / "bomb.tgz")
    assert Counted.got < 1 << 20


def fake_size(path: Path, name: bytes, claimed: int) -> None:
    "Change the unpacked size of a ZIP member, in its central and its local header."
    content = bytearray(path.read_bytes())
    for start, offset, length in ((b"PK\1\2", 24, 46), (b"PK\3\4", 22, 30)):
        position = next(
            i for i in range(len(content)) if content.startswith(start, i) and content.startswith(name, i + length)
        )
        struct.pack_into("<I", content, position + offset, claimed)
    path.write_bytes(content)


@pytest.mark.parametrize("claimed", [10, 2000])
def test_a_zip_with_false_sizes_is_refused(tmp_path, claimed):
    path = zip_of(tmp_path / "a.zip", ("bomb.jpg", bytes(1000)))
    fake_size(path, b"bomb.jpg", claimed)
    with pytest.raises(ErnError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out", tree(JPG), progress=False)
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_many_entries_for_one_content_are_refused(tmp_path):
    "An overlap bomb: a thousand directory entries point to one compressed megabyte."
    path = zip_of(tmp_path / "a.zip", ("0000.jpg", bytes(1 << 20)))
    content = path.read_bytes()
    start = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    entry = content[start:end]
    directory = b"".join(entry.replace(b"0000.jpg", b"%04d.jpg" % i) for i in range(1000))
    tail = bytearray(content[end:])
    struct.pack_into("<HHII", tail, 8, 1000, 1000, len(directory), start)
    path.write_bytes(content[:start] + directory + bytes(tail))
    assert "more than 0.1 GB" in refused(path, max_bytes=100_000_000)
    with pytest.raises(ErnError, match="cannot be unpacked"):  # entries do not match the contents
        unpack(path, tmp_path / "out", tree(JPG), progress=False)
    assert len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) <= 1


def test_a_zip_with_a_password_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("a.jpg", b"1"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "password" in refused(path)


def raw_tar(path: Path, *parts: bytes, open_file=open) -> Path:
    with open_file(path, "wb") as f:
        for part in parts:
            f.write(part + bytes(-len(part) % 512))
        f.write(bytes(1024))
    return path


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE],
    ids=["pax", "long name", "global"],
)
def test_a_header_of_impossible_size_is_refused(tmp_path, kind):
    path = raw_tar(tmp_path / "a.tgz", header("x", 1 << 36, kind), bytes(1 << 20), open_file=gzip.open)
    assert "impossible size" in refused(path)


def test_endless_headers_are_refused_and_long_ones_are_not_kept(tmp_path):
    name = header("x", 20, tarfile.GNUTYPE_LONGNAME) + b"a.jpg".ljust(512, b"\0")
    assert "cannot be unpacked" in refused(raw_tar(tmp_path / "a.tar", name * 2000))
    record = b"3000008 comment=" + b"a" * (3000008 - 17) + b"\n"
    long_header = header("x", len(record), tarfile.XHDTYPE) + record + bytes(-len(record) % 512)
    parts = [long_header + header(f"{i}.jpg", 0) for i in range(5)]
    path = raw_tar(tmp_path / "b.tgz", b"".join(parts), open_file=gzip.open)
    archive = archives._open_archive(path)
    assert len(list(archive.members())) == 5
    assert sum(len(member.entry.pax_headers) for member in archive.members()) == 0
    archive.close()


def test_a_sparse_file_is_refused(tmp_path):
    info = bytearray(header("a.jpg", 512, tarfile.GNUTYPE_SPARSE))
    info[386:410] = b"%011o\0" % 0 + b"%011o\0" % 512
    info[483:495] = b"%011o\0" % (1 << 30)
    info[148:156] = b"%06o\0 " % (sum(info[:148]) + 256 + sum(info[156:]))
    assert "special file" in refused(raw_tar(tmp_path / "a.tar", bytes(info), bytes(512)))


def test_a_tar_damaged_in_the_middle_is_refused(tmp_path):
    path = tar_of(tmp_path / "a.tar", *((f"{i}.jpg", b"x") for i in range(4)))
    content = bytearray(path.read_bytes())
    content[2048 + 20] ^= 255  # in the third header
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("open_file", [open, gzip.open, bz2.open], ids=["tar", "gz", "bz2"])
def test_a_truncated_tar_is_refused(tmp_path, open_file):
    noise = random.Random(0).randbytes(20_000)
    path = tar_of(tmp_path / "a.tar", ("1.jpg", noise), ("2.jpg", noise[::-1]), open_file=open_file)
    content = path.read_bytes()
    for length in (len(content) // 4, len(content) // 2, 21_504, len(content) - 10_200):
        if open_file is open or length < len(content) // 2 + 1:
            (tmp_path / "a.tar").write_bytes(content[:length])
            assert "cannot be unpacked" in refused(tmp_path / "a.tar")


def test_a_wrong_checksum_is_refused_before_anything_is_written(tmp_path):
    path = tar_of(tmp_path / "a.tar", ("1.jpg", b"x" * 1000), open_file=gzip.open)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # gzip's checksum
    path.write_bytes(content)
    assert "cannot be unpacked" in refused(path)


NOT_ARCHIVES = [
    b"",
    b"P",
    b"PK\3\4",
    b"\x1f\x8b",
    b"BZh9",
    b"<html>Sign in</html>",
    bytes(2000),
    b"Rar!\x1a\x07\0" * 99,
]


@pytest.mark.parametrize("content", NOT_ARCHIVES)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    assert "a.tar.gz" in refused(tmp_path / "a.tar.gz")


def test_a_missing_file_a_folder_and_a_full_disk_are_errors(tmp_path, monkeypatch):
    assert "No such file" in refused(tmp_path / "none.zip")
    (tmp_path / "folder.zip").mkdir()
    assert "Is a directory" in refused(tmp_path / "folder.zip")
    path = zip_of(tmp_path / "a.zip", ("a.jpg", b"1"), ("b.jpg", b"2"))

    def cannot_write(source, target, size):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(archives, "_write", cannot_write)
    assert "No space left" in refused(path) and "free disk space" in refused(path)


def test_random_damage_gives_an_error_or_complete_files(tmp_path):
    rng = random.Random(0)
    contents = {f"{i}.jpg": rng.randbytes(rng.randrange(2000)) for i in range(6)}
    sources = [zip_of(tmp_path / "a.zip", *contents.items()), tar_of(tmp_path / "a.tar", *contents.items())]
    sources.append(tar_of(tmp_path / "a.tgz", *contents.items(), open_file=gzip.open))
    refusals = 0
    for number in range(300):
        content = bytearray(sources[number % 3].read_bytes())
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        damaged = tmp_path / "damaged"
        out = tmp_path / f"out{number}"
        damaged.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            unpack(damaged, out, tree(JPG), progress=False)
        except ErnError as e:
            refusals += "\n" not in str(e)
        assert not list(tmp_path.rglob("*.part"))
        if number % 3 != 1:  # a plain TAR file has no checksum of its contents
            files = [p for p in out.rglob("*") if p.is_file()]
            assert all(p.read_bytes() in contents.values() for p in files)
    assert 150 < refusals < 300


def test_an_interrupted_run_resumes(tmp_path, monkeypatch):
    members = [(f"{i}.jpg", bytes([i]) * 100) for i in range(6)]
    write = archives._write
    calls = []

    def interrupt_fourth(source, target, size):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(source, target, size)

    paths = (
        zip_of(tmp_path / "a.zip", *members),
        tar_of(tmp_path / "b.tgz", *members, open_file=gzip.open),
    )
    for path in paths:
        calls.clear()
        out = tmp_path / path.stem
        monkeypatch.setattr(archives, "_write", interrupt_fourth)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, out, flat(JPG), progress=False)
        monkeypatch.setattr(archives, "_write", write)
        (out / "0.jpg").write_bytes(b"half")
        assert unpack(path, out, flat(JPG), progress=False) == Unpacked(6, 0, 4)
        assert [(out / n).read_bytes() for n, _ in members] == [c for _, c in members]


def test_only_wanted_files_are_unpacked(tmp_path):
    names = ("a.jpg", "run.py", ".hidden.jpg", "__MACOSX/._a.jpg", "b.JPG")
    path = zip_of(tmp_path / "a.zip", *((name, b"1") for name in names), ("dir/", b""))
    assert unpack(path, tmp_path / "out", tree(JPG), progress=False) == Unpacked(2, 3, 2)
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["a.jpg", "b.JPG"]
