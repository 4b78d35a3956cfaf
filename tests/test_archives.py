"""What comes in as a zip: names, directories that lie, bombs, and members that cannot be read."""

import os
import struct
import tempfile
import unicodedata
import zipfile
from io import BytesIO

import psutil
import pytest

from inpaint.errors import AlbumTooLarge, ArchiveUnreadable
from inpaint.settings import Settings
from service.archives import confined, members

SETTINGS = Settings(album_files=20)


def zipped(*files, compression=zipfile.ZIP_STORED):
    """A zip of names and bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return buffer


def read(buffer, settings=SETTINGS):
    return list(members(buffer, settings))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a/b c.jpg", "a/b c.jpg"),
        ("../../etc/passwd.png", "etc/passwd.png"),
        ("/abs/a.png", "abs/a.png"),
        ("C:\\scans\\a.png", "scans/a.png"),
        ("c:a.png", "a.png"),
        ("..\\..\\a.png", "a.png"),
        ("a/./b/../c.png", "a/b/c.png"),
        ("line\nbreak\x07.png", "line_break_.png"),
        ("right\u202eleft.png", "right_left.png"),
        ("what?*.png", "what__.png"),
        ("trailing. /a.png", "trailing/a.png"),
        ("", "photo"),
        ("..", "photo"),
        (unicodedata.normalize("NFD", "Großmütter.jpg"), "Großmütter.jpg"),
        ("x" * 500 + ".jpeg", "x" * 195 + ".jpeg"),
        ("山" * 100 + ".jpeg", "山" * 65 + ".jpeg"),
        ("x" * 199 + "   y.jpg/a.png", "x" * 196 + ".jpg_/a.png"),
        ("y" * 199 + " z", "y" * 199),
        ("CON/nul.jpg", "_CON/_nul.jpg"),
        ("com1.txt/Lpt9 .png", "_com1.txt/_Lpt9 .png"),
        ("console/com.jpg", "console/com.jpg"),
        ("a.jpg/b.png", "a.jpg_/b.png"),
        ("report.json/1931.v2/b. .", "report.json_/1931.v2/b"),
    ],
)
def test_a_name_stays_below_its_folder_on_every_system(given, name):
    assert confined(given) == name


def test_files_come_in_order_and_what_systems_leave_behind_does_not():
    names = ["b/", "b/2.png", "__MACOSX/b/._2.png", "b/.DS_Store", "Thumbs.db", "a/1.png"]
    found = read(zipped(*((name, name.encode()) for name in names)))
    assert [(member.given, member.data) for member in found] == [
        ("b/2.png", b"b/2.png"),
        ("a/1.png", b"a/1.png"),
    ]


def test_names_are_read_as_their_author_meant_them():
    buffer = zipped(("Größe.png", b"x"))  # says that it is UTF-8
    unsaid = bytearray(buffer.getvalue())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = unsaid.index(signature) + flags
        unsaid[at : at + 2] = struct.pack("<H", struct.unpack_from("<H", unsaid, at)[0] & ~0x800)
    assert [member.given for member in read(buffer)] == ["Größe.png"]
    assert [member.given for member in read(BytesIO(unsaid))] == ["Größe.png"]


def test_an_empty_archive_has_no_files():
    assert read(zipped()) == []


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06", b"\0" * 100_000])
def test_what_is_no_archive_is_refused(data):
    with pytest.raises(ArchiveUnreadable):
        read(BytesIO(data))


def test_a_directory_of_a_hundred_thousand_entries_is_not_even_read():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    before = psutil.Process().memory_info().rss
    with pytest.raises(AlbumTooLarge, match="100000 entries"):
        read(buffer)
    assert psutil.Process().memory_info().rss - before < 8e6


def test_a_directory_that_is_longer_than_it_says_is_refused():
    buffer = zipped(*((f"{number}", b"") for number in range(200)))
    data = bytearray(buffer.getvalue())
    at = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, at + 8, 5, 5)
    with pytest.raises(AlbumTooLarge):
        read(BytesIO(data))


def zip64(data, entries, length, named):
    """A zip with a zip64 end of its own; another one lies where its locator says, at `named`."""
    at = data.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HII", data, at + 10)
    end = struct.Struct("<4sQHHIIQQQQ")
    first = end.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, length, 0)
    true = end.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start + len(first))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, named, 1)
    last = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 1, 2**32 - 1, 0)
    return BytesIO(first + data[:at] + true + locator + last)


def test_a_long_directory_is_not_read_whatever_other_end_its_locator_names():
    data = zipped(*((f"{number}", b"") for number in range(200))).getvalue()
    with pytest.raises(AlbumTooLarge, match="200 entries"):
        read(zip64(data, 1, 1, named=0))


def test_a_bomb_is_refused_before_it_is_inflated():
    small = SETTINGS.model_copy(update={"max_file_bytes": 2**40})
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(10):
                archive.writestr(f"{number}.png", bytes(16 * 1024 * 1024))
        with pytest.raises(AlbumTooLarge, match="swell"):
            read(file, small)


def test_more_than_an_album_may_have_is_refused_by_what_the_directory_says():
    narrow = SETTINGS.model_copy(update={"album_bytes": 100})
    with pytest.raises(AlbumTooLarge, match="101 bytes"):
        read(zipped(("a.png", b"x" * 50), ("b.png", b"x" * 51)), narrow)


def test_a_member_that_inflates_to_more_than_it_says_is_not_read_on():
    buffer = zipped(("a.png", bytes(50_000_000)), compression=zipfile.ZIP_DEFLATED)
    data = bytearray(buffer.getvalue())
    for signature, field in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + field, 1000)
    before = psutil.Process().memory_info().rss
    (member,) = read(BytesIO(data))
    assert (member.data, member.problem.code) == (None, "image-unreadable")
    assert psutil.Process().memory_info().rss - before < 8e6


def test_a_file_over_the_limit_is_not_read():
    narrow = SETTINGS.model_copy(update={"max_file_bytes": 10})
    one, other = read(zipped(("a.png", b"x" * 11), ("b.png", b"x" * 10)), narrow)
    assert (one.data, one.problem.code) == (None, "file-too-large")
    assert (other.data, other.problem) == (b"x" * 10, None)


def test_an_encrypted_file_is_named_and_the_others_are_read():
    data = bytearray(zipped(("secret.png", b"x"), ("open.png", b"y")).getvalue())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + flags
        struct.pack_into("<H", data, at, struct.unpack_from("<H", data, at)[0] | 1)
    secret, other = read(BytesIO(data))
    assert (secret.given, secret.problem.detail) == ("secret.png", "The file is encrypted.")
    assert other.data == b"y"


def test_a_file_whose_data_is_damaged_is_named_and_the_others_are_read():
    photo = os.urandom(200)
    data = bytearray(zipped(("a.png", photo), ("b.png", b"y" * 200)).getvalue())
    at = data.index(photo)
    data[at] ^= 0xFF
    damaged, other = read(BytesIO(data))
    assert damaged.problem.code == "image-unreadable"
    assert "CRC" in damaged.problem.detail
    assert other.data == b"y" * 200


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_ways_of_packing_are_refused_by_name(compression):
    (member,) = read(zipped(("a.png", b"x" * 100), compression=compression))
    assert member.problem.code == "image-unreadable"


def test_a_large_archive_with_a_zip64_directory_is_read():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a.png", "w", force_zip64=True) as f:
        f.write(b"x")
    assert [member.data for member in read(buffer)] == [b"x"]
