"""Albums over HTTP, with real workers: what goes in, what comes out, what each bad file gets."""

import csv
import json
import signal
import socket
import struct
import subprocess
import sys
import unicodedata
import zipfile
from io import BytesIO
from shutil import which

import httpx
import numpy as np
import pytest
from redis import Redis

from inpaint import jobs
from inpaint.settings import Settings

ENDED = ("succeeded", "partial", "failed", "canceled")


@pytest.fixture(scope="module")
def service(start_service, server, tmp_path_factory, white_detector):
    """Gateway and worker with `telea` and a detector that takes white for damage."""
    settings = Settings(data=tmp_path_factory.mktemp("albums"), redis_url=server.url(4))
    variables = {"INPAINT_MODELS": "telea,scratches", "INPAINT_CHECKPOINTS": str(white_detector)}
    with start_service(settings, worker=True, **variables) as running:
        yield running


@pytest.fixture(scope="module")
def photos(encoded):
    """A function that makes PNG photographs, each another, none with anything white."""

    def make(count, seed=0):
        source = np.random.default_rng(seed)
        return [encoded(source.integers(0, 128, (48, 64, 3), np.uint8)) for _ in range(count)]

    return make


@pytest.fixture(scope="module")
def small_mask(encoded):
    hole = np.zeros((48, 64), np.uint8)
    hole[10:30, 20:40] = 255
    return encoded(hole)


def post(service, files, **fields):
    """POST /albums; files are (field, name, bytes)."""
    parts = [(field, (name, data)) for field, name, data in files]
    parts += [(field, (None, value)) for field, value in fields.items()]
    return service.client.post("/albums", files=parts)


def ended(service, answer, eventually):
    """The album and its items once all is done."""
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]
    eventually(lambda: service.client.get(path).json()["status"] in ENDED)
    items = service.client.get(f"{path}/items?limit=500").json()["items"]
    return service.client.get(path).json(), items


def archive(service, path):
    """The album's zip, whole."""
    answer = service.client.get(f"{path}/archive")
    assert answer.headers["content-type"] == "application/zip"
    found = zipfile.ZipFile(BytesIO(answer.content))
    assert found.testzip() is None
    return found


def zipped(*files):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as whole:
        for name, data in files:
            whole.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def encrypted(data):
    """A zip of one member that says it is encrypted."""
    data = bytearray(data)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + flags
        struct.pack_into("<H", data, at, struct.unpack_from("<H", data, at)[0] | 1)
    return bytes(data)


def blobs(service):
    return len(list(service.settings.blob_folder.iterdir()))


def test_an_album_comes_back_as_its_photographs_would_one_by_one(
    service, photos, small_mask, eventually
):
    first, second, alone = photos(3)
    files = [
        ("images", "box/a.png", first),
        ("images", "b.png", second),
        ("images", "c.png", alone),
    ]
    files += [("masks", f"{name}.png", small_mask) for name in ("a", "b", "nobody")]
    answer = post(service, files, name="Oma's box", mask_feather="2")
    album, items = ended(service, answer, eventually)

    assert album["status"] == "partial"
    assert album["counts"] == {
        **{"total": 3, "queued": 0, "running": 0},
        **{"succeeded": 2, "failed": 1, "canceled": 0},
    }
    assert album["warnings"] == [
        {"code": "mask-unmatched", "name": "nobody.png", "detail": "No photograph has its name."}
    ]
    assert [item["status"] for item in items] == ["succeeded", "succeeded", "failed"]
    assert items[2]["error"]["code"] == "mask-missing"
    whole = archive(service, album["links"]["self"])
    assert whole.namelist() == ["box/a.png", "b.png", "report.json", "report.csv"]
    for data, item, name in ((first, items[0], "box/a.png"), (second, items[1], "b.png")):
        single = service.client.post(
            "/inpaint",
            files={"image": ("x.png", data), "mask": ("m.png", small_mask)},
            data={"mask_feather": "2"},
        )
        assert whole.read(name) == single.content
        result = service.client.get(item["links"]["result"])
        assert (result.content, result.headers["content-type"]) == (single.content, "image/png")
        again = {"If-None-Match": result.headers["etag"]}
        assert service.client.get(item["links"]["result"], headers=again).status_code == 304
        assert service.client.get(item["links"]["mask"]).content == small_mask
    report = json.loads(whole.read("report.json"))
    assert report["counts"] == {"total": 3, "failed": 1, "succeeded": 2}
    assert [(row["name"], row["file"], row["code"]) for row in report["items"]] == [
        ("box/a.png", "box/a.png", None),
        ("b.png", "b.png", None),
        ("c.png", None, "mask-missing"),
    ]
    assert len(whole.read("report.csv").decode().splitlines()) == 4
    refused = service.client.get(f"{album['links']['self']}/items/3/result")
    assert (refused.status_code, refused.json()["code"]) == (409, "job-failed")
    assert refused.json()["item"]["error"]["code"] == "mask-missing"


def test_every_bad_file_of_a_zip_is_an_item_of_its_own_and_the_album_goes_on(
    service, photos, small_mask, encoded, eventually
):
    good = photos(9, seed=1)
    white = encoded(np.full((48, 64, 3), 255, np.uint8))
    data = zipped(
        ("good.png", good[0]),
        ("truncated.png", good[1][:-2000]),
        ("notes.txt", b"for Oma"),
        ("inner.zip", zipped(("a.png", good[1]))),
        ("../../out.png", good[2]),
        ("/abs/olute.png", good[3]),
        ("C:\\scans\\drive.png", good[4]),
        ("Größe.png", good[5]),
        (unicodedata.normalize("NFD", "Größe.png"), good[6]),
        ("GOOD.PNG", good[7]),
        ("damage.png", white),
        ("empty.png", b""),
        ("tiny.png", encoded(np.zeros((4, 4, 3), np.uint8))),
        ("__MACOSX/._good.png", b"x"),
    )
    answer = post(service, [("archive", "box.zip", data)], auto_mask="scratches")
    album, items = ended(service, answer, eventually)

    said = {item["name"]: item["error"]["code"] if item["error"] else "" for item in items}
    assert said == {
        "good.png": "",
        "truncated.png": "image-unreadable",
        "notes.txt": "unsupported-image-type",
        "inner.zip": "unsupported-image-type",
        "out.png": "",
        "abs/olute.png": "",
        "scans/drive.png": "",
        "Größe.png": "",
        "Größe (2).png": "",
        "GOOD (2).PNG": "",
        "damage.png": "mask-full",
        "empty.png": "unsupported-image-type",
        "tiny.png": "image-too-small",
    }
    assert album["status"] == "partial"
    given = {item["name"]: item["given_name"] for item in items}
    assert given["out.png"] == "../../out.png"
    assert given["scans/drive.png"] == "C:\\scans\\drive.png"
    assert given["GOOD (2).PNG"] == "GOOD.PNG"
    assert given["good.png"] is None
    whole = archive(service, album["links"]["self"])
    assert whole.namelist()[:-2] == [name for name, code in said.items() if not code]
    assert whole.read("good.png") == good[0]  # nothing was found: byte for byte
    assert items[0]["unchanged"]


def test_damage_is_found_where_nobody_painted_it_and_its_mask_is_told(
    service, photos, encoded, eventually
):
    pixels = np.random.default_rng(3).integers(0, 128, (48, 64, 3), np.uint8)
    pixels[20:22, 5:60] = 255
    files = [("images", "scratched.png", encoded(pixels)), ("images", "clean.png", photos(1, 4)[0])]
    answer = post(service, files, on_missing_mask="auto")
    album, items = ended(service, answer, eventually)
    assert album["status"] == "succeeded"
    _, again = ended(service, post(service, files, on_missing_mask="auto"), eventually)
    assert [item["reused"] for item in [*items, *again]] == [False, False, True, True]
    assert service.client.get(again[0]["links"]["mask"]).status_code == 200
    assert items[0]["mask"]["source"] == "scratches"
    assert 0.03 < items[0]["mask"]["coverage"] < 0.2
    assert (items[0]["unchanged"], items[1]["unchanged"]) == (False, True)
    mask = service.client.get(items[0]["links"]["mask"])
    assert mask.headers["content-type"] == "image/png"


def test_masks_are_reviewed_before_they_are_used(service, encoded, small_mask, eventually):
    pixels = np.random.default_rng(5).integers(0, 128, (48, 64, 3), np.uint8)
    pixels[20:22, 5:60] = 255
    photo = encoded(pixels)
    answer = post(
        service,
        [("images", "a.png", photo)],
        mask_only="true",
        auto_mask="scratches",
        model="telea",
    )
    album, _ = ended(service, answer, eventually)
    path = album["links"]["self"]
    proposed = archive(service, path).read("a.png")
    assert proposed != photo

    send = {"files": {"mask": ("a.png", small_mask)}}
    answer = service.client.post(f"{path}/items", **send)  # as edited
    assert (answer.status_code, answer.json()["number"]) == (202, 1)
    eventually(lambda: service.client.get(path).json()["status"] == "succeeded")
    single = service.client.post(
        "/inpaint", files={"image": ("x.png", photo), "mask": ("m.png", small_mask)}
    )
    assert archive(service, path).read("a.png") == single.content
    assert service.client.post(f"{path}/items", **send).status_code == 200  # it has it already
    for side, code in ((50, "mask-size-mismatch"), (5, "image-too-small")):
        wrong = {"mask": ("a.png", encoded(np.zeros((side, side), np.uint8)))}
        answer = service.client.post(f"{path}/items", files=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    unknown = service.client.post(f"{path}/items", files={"mask": ("z.png", small_mask)})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "invalid-field")
    assert archive(service, path).read("a.png") == single.content


def test_one_mask_for_all_and_fields_of_single_photographs(
    service, photos, small_mask, encoded, eventually
):
    one, other, large = *photos(2, 6), encoded(np.zeros((60, 60, 3), np.uint8))
    tiny = encoded(np.zeros((5, 5), np.uint8))
    files = [("images", "one.png", one), ("images", "other.png", other), ("images", "l.png", large)]
    files += [("images", "t.png", one), ("masks", "t.png", tiny), ("mask", "m.png", small_mask)]
    manifest = json.dumps({"other.png": {"output_format": "jpeg"}, "third.png": {}})
    answer = post(service, files, manifest=manifest, output_quality="80")  # PNG has none
    album, items = ended(service, answer, eventually)
    assert [item["status"] for item in items] == ["succeeded", "succeeded", "failed", "failed"]
    codes = [item["error"]["code"] for item in items[2:]]
    assert codes == ["mask-size-mismatch", "image-too-small"]
    with_mask = {"mask": ("t.png", small_mask)}  # the photograph is kept
    assert service.client.post(f"{album['links']['items']}", files=with_mask).status_code == 202
    assert archive(service, album["links"]["self"]).namelist()[:2] == ["one.png", "other.jpg"]
    assert [warning["code"] for warning in album["warnings"]] == ["manifest-unmatched"]


def test_a_photograph_without_a_mask_can_be_copied(service, photos, small_mask, eventually):
    one, other = photos(2, 7)
    files = [("images", "a.png", one), ("images", "b.png", other), ("masks", "a.jpg", small_mask)]
    album, items = ended(service, post(service, files, on_missing_mask="copy"), eventually)
    assert album["status"] == "succeeded"
    assert [item["unchanged"] for item in items] == [False, True]
    assert archive(service, album["links"]["self"]).read("b.png") == other


def test_a_black_mask_leaves_its_photograph_as_it_is(
    service, photos, small_mask, encoded, eventually
):
    data, other = photos(2, 40)
    black = encoded(np.zeros((48, 64), np.uint8))
    files = [("images", "a.png", data), ("images", "b.png", other)]
    for masks in (
        [("masks", "a.png", black), ("masks", "b.png", small_mask)],
        [("mask", "m.png", black)],
    ):
        album, items = ended(service, post(service, files + masks), eventually)
        assert album["status"] == "succeeded"
        assert (items[0]["unchanged"], items[0]["mask"]["coverage"]) == (True, 0)
        assert items[1]["unchanged"] == (len(masks) == 1)
        whole = archive(service, album["links"]["self"])
        assert whole.read("a.png") == data
        row = json.loads(whole.read("report.json"))["items"][0]
        assert (row["unchanged"], row["coverage"], row["code"]) == (True, 0, None)
    again = service.client.post(album["links"]["items"], files={"mask": ("a.png", small_mask)})
    assert again.status_code == 202
    refused = service.client.post("/inpaint", files={"image": data, "mask": black})
    assert refused.json()["code"] == "mask-empty"


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (lambda good: zipped(), 422, "album-unusable"),
        (lambda good: b"no zip", 422, "archive-unreadable"),
        (lambda good: zipped(("a.txt", b"x"), ("b.txt", b"y")), 422, "album-unusable"),
        (lambda good: encrypted(zipped(("a.png", good))), 422, "album-unusable"),
        (lambda good: zipped(*((f"{n}", b"") for n in range(8001))), 413, "album-too-large"),
    ],
    ids=["empty", "no zip", "nothing usable", "encrypted", "many entries"],
)
def test_an_archive_of_which_nothing_can_be_used_leaves_nothing(
    service, photos, small_mask, make, status, code
):
    before = blobs(service)
    files = [("archive", "a.zip", make(photos(1, 8)[0])), ("mask", "m.png", small_mask)]
    answer = post(service, files)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert blobs(service) == before
    if code == "album-unusable" and answer.json()["items"]:
        assert {"name", "code", "detail"} <= answer.json()["items"][0].keys()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"mask_grow": "999"}, "mask_grow"),
        ({"expect": "0"}, "expect"),
        ({"manifest": "{"}, "manifest"),
        ({"manifest": '{"a.png": {"nothing": 1}}'}, "nothing"),
        ({"manifest": json.dumps({"a.png": {"model": "\ud800"}})}, "manifest"),
        ({"on_missing_mask": "guess"}, "on_missing_mask"),
        ({"mask_only": "true"}, "mask_only"),
        ({"model": "unheard-of"}, "model"),
    ],
)
def test_a_form_that_is_wrong_for_all_is_refused_by_field(
    service, photos, small_mask, fields, named
):
    before = blobs(service)
    files = [("images", "a.png", photos(1, 9)[0]), ("mask", "m.png", small_mask)]
    answer = post(service, files, **fields)
    assert answer.status_code == 422
    assert named in [error["field"] for error in answer.json()["errors"]]
    assert blobs(service) == before


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ('{"a.png": {}, "a.png": {"mask_grow": 3}}', "the key 'a.png' is there twice"),
        ('{"a.png": {"mask_grow": 3, "mask_grow": 4}}', "the key 'mask_grow' is there twice"),
        ('{"a/b.png": {}, "a//b.png": {}}', "two entries for 'a/b.png'"),
    ],
)
def test_a_manifest_that_says_something_twice_is_refused(service, photos, manifest, said):
    answer = post(service, [("images", "a.png", photos(1)[0])], manifest=manifest)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-field")
    (fault,) = answer.json()["errors"]
    assert fault["field"] == "manifest"
    assert said in fault["detail"]


def test_a_long_manifest_that_is_all_wrong_gets_a_short_answer(service, photos):
    manifest = json.dumps({f"{number}.png": {"a": 1, "b": 2} for number in range(10_000)})
    answer = post(service, [("images", "a.png", photos(1, 9)[0])], manifest=manifest)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20


def test_names_that_systems_refuse_come_back_as_names_that_all_take(
    service, photos, small_mask, eventually, tmp_path
):
    given = ["a.jpg", "a.jpg/b.png", "a", "a/c.png", "CON.png", "dots. ./NUL", "report.json/d.png"]
    files = [("images", name, data) for name, data in zip(given, photos(7, 50), strict=True)]
    album, items = ended(
        service, post(service, [*files, ("mask", "m.png", small_mask)]), eventually
    )
    assert album["status"] == "succeeded"
    assert [item["given_name"] or item["name"] for item in items] == given
    answer = service.client.get(album["links"]["archive"])
    (tmp_path / "album.zip").write_bytes(answer.content)
    if which("unzip"):
        subprocess.run(["unzip", "-q", "album.zip"], cwd=tmp_path, check=True, timeout=30)
        found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")}
        assert found == {
            *("a.png", "a.jpg_/b.png", "a (2).png", "a/c.png", "_CON.png", "dots/_NUL.png"),
            "report.json_/d.png",
        }


def test_a_file_name_in_a_header_is_a_name_and_nothing_else(
    service, photos, small_mask, eventually
):
    name = 'up/Oma\r\nX: "1962"; %41 \u202eß.jpg'
    files = [("images", "x", photos(1, 60)[0]), ("mask", "m.png", small_mask)]
    manifest = json.dumps({})
    body = zipped((name, files[0][2]))
    answer = post(
        service, [("archive", "a.zip", body), files[1]], name="../a\nb/c\\d", manifest=manifest
    )
    album, (item,) = ended(service, answer, eventually)
    assert item["name"] == "up/Oma__X_ _1962_; %41 _ß.jpg"
    said = service.client.get(item["links"]["result"]).headers["content-disposition"]
    plain, encoded_ = "Oma__X_ _1962__ _41 __.png", "Oma__X_%20_1962_%3B%20%2541%20_%C3%9F.png"
    assert said == f"inline; filename=\"{plain}\"; filename*=UTF-8''{encoded_}"
    mask = service.client.get(item["links"]["mask"]).headers["content-disposition"]
    assert mask == said
    whole = service.client.head(album["links"]["archive"]).headers["content-disposition"]
    assert whole == "attachment; filename=\"d.zip\"; filename*=UTF-8''d.zip"


def test_head_is_answered_as_get_without_a_body(service, photos, small_mask, eventually):
    files = [("images", "a.png", photos(1, 70)[0]), ("mask", "m.png", small_mask)]
    album, (item,) = ended(service, post(service, files), eventually)
    links = [*album["links"].values(), *item["links"].values(), "/info", "/albums/x", "/problems/x"]
    for link in links:
        if link.endswith("retry"):
            continue
        asked = service.client.get(link)
        told = service.client.head(link)
        assert (told.status_code, told.content) == (asked.status_code, b""), link
        for header in ("content-type", "etag", "content-length", "content-disposition"):
            assert told.headers.get(header) == asked.headers.get(header), (link, header)
    for path, allowed in (("/albums", "POST"), ("/info", "GET, HEAD")):
        refused = service.client.request("PUT" if path == "/info" else "HEAD", path)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


def test_names_are_no_formulas_in_a_spreadsheet(service, photos, small_mask, eventually):
    names = ["=1+1.png", "-1.png", "@a.png", "+1.png", "a=1.png"]
    files = [("images", name, photo) for name, photo in zip(names, photos(5, 15), strict=True)]
    album, _ = ended(service, post(service, [*files, ("mask", "m.png", small_mask)]), eventually)
    whole = archive(service, album["links"]["self"])
    rows = list(csv.DictReader(whole.read("report.csv").decode().splitlines()))
    assert [row["file"] for row in rows] == [*(f"'{name}" for name in names[:4]), "a=1.png"]
    assert [row["file"] for row in json.loads(whole.read("report.json"))["items"]] == names
    assert whole.namelist()[:5] == names


DISPOSITION = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", DISPOSITION + b"half a file"),
        ("multipart/form-data; boundary=x", DISPOSITION.replace(b'name="images"; ', b"")),
        ("multipart/form-data; boundary=x", DISPOSITION[:-4] + b"x" * 20_000),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data", DISPOSITION),
        ("application/json", b"{}"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"x" * 2**21,
        ),
    ],
    ids=["cut", "no name", "long header", "none", "empty", "no boundary", "JSON", "long text"],
)
def test_what_is_no_form_leaves_nothing(service, kind, body):
    before = blobs(service)
    answer = service.client.post("/albums", content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-multipart")
    assert blobs(service) == before


def test_a_client_that_goes_in_the_middle_leaves_nothing(service, photos, eventually):
    before = blobs(service)
    host, port = service.url.removeprefix("http://").split(":")
    head = "POST /albums HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + (DISPOSITION + photos(1)[0] + b"\r\n") * 2)
        eventually(lambda: blobs(service) == before + 1)  # the first is whole
    eventually(lambda: blobs(service) == before)


def test_photographs_come_one_by_one_and_a_broken_upload_goes_on(
    service, photos, small_mask, eventually
):
    answer = post(service, [("mask", "m.png", small_mask)], expect="3", name="slow")
    assert (answer.status_code, answer.json()["status"]) == (202, "open")
    path = answer.headers["location"]
    one, other, third = photos(3, 10)

    def send(name, data):
        return service.client.post(f"{path}/items", files={"image": (name, data)})

    assert (send("a.png", one).status_code, send("a.png", one).status_code) == (202, 200)
    second = send("A.png", other).json()
    assert (second["number"], second["name"], second["given_name"]) == (2, "A (2).png", "A.png")
    assert send("A.png", other).json()["number"] == 2
    assert service.client.get(path).json()["status"] == "open"
    bad = send("bad.png", b"nothing")
    assert (bad.status_code, bad.json()["error"]["code"]) == (202, "unsupported-image-type")
    closed = send("late.png", third)
    assert (closed.status_code, closed.json()["code"]) == (409, "album-closed")
    assert send("a.png", one).status_code == 200
    eventually(lambda: service.client.get(path).json()["status"] == "partial")
    nothing = service.client.post(f"{path}/items", files={"mask_grow": (None, "1")})
    assert (nothing.status_code, nothing.json()["errors"][0]["field"]) == (422, "image")


def test_fills_are_refined_as_an_album_or_its_manifest_asks(
    service, photos, small_mask, eventually
):
    photo = photos(1, 13)[0]
    images = [("images", name, photo) for name in ("a.png", "b.png", "c.png")]
    files = [*images, ("mask", "m.png", small_mask)]
    manifest = json.dumps({"b.png": {"refine": "full"}, "c.png": {"refine": "none"}})
    answer = post(service, files, refine="patches", manifest=manifest)
    album, items = ended(service, answer, eventually)
    assert [item["reused"] for item in items] == [False, False, False]
    whole = archive(service, album["links"]["self"])
    for name, refine in (("a.png", "patches"), ("b.png", "full"), ("c.png", "none")):
        single = service.client.post(
            "/inpaint",
            files={"image": ("x.png", photo), "mask": ("m.png", small_mask)},
            data={"refine": refine},
        )
        assert whole.read(name) == single.content
    assert len({whole.read(name) for name in ("a.png", "b.png", "c.png")}) == 3

    _, again = ended(service, post(service, files, refine="full"), eventually)
    assert all(item["reused"] for item in again)
    _, other = ended(service, post(service, files), eventually)  # auto
    assert not other[0]["reused"]
    refused = post(service, files, refine="better")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "refine")


def test_an_album_is_closed_by_hand(service, photos, small_mask, eventually):
    answer = post(service, [], expect="100")
    path = answer.headers["location"]
    image, mask = ("x.png", photos(1, 11)[0]), ("x.png", small_mask)
    item = service.client.post(f"{path}/items", files={"image": image, "mask": mask})
    assert item.status_code == 202
    service.client.post(f"{path}/close")
    eventually(lambda: service.client.get(path).json()["status"] == "succeeded")


def test_the_same_content_is_not_computed_twice(service, photos, small_mask, eventually):
    photo = photos(1, 12)[0]
    files = [("images", "a.png", photo), ("masks", "a.png", small_mask)]
    first, (item,) = ended(service, post(service, files), eventually)
    assert not item["reused"]
    result = service.client.get(item["links"]["result"]).content

    again, (item,) = ended(service, post(service, files), eventually)
    assert item["reused"]
    _, (other,) = ended(service, post(service, files, mask_grow="1"), eventually)
    assert not other["reused"]

    assert service.client.delete(first["links"]["self"]).status_code == 204
    assert service.client.get(item["links"]["result"]).content == result  # it has its own copy
    outcome = service.client.get(item["links"]["result"]).headers["etag"].strip('"')
    (service.settings.blob_folder / outcome).unlink()  # its time is over
    gone = service.client.get(item["links"]["result"])
    assert (gone.status_code, gone.json()["code"]) == (410, "expired")
    assert archive(service, again["links"]["self"]).namelist() == ["report.json", "report.csv"]
    _, (item,) = ended(service, post(service, files), eventually)
    assert not item["reused"]
    assert service.client.get(item["links"]["result"]).content == result


def test_a_photograph_that_comes_twice_is_computed_once_and_each_keeps_its_result(
    service, photos, small_mask, encoded, eventually
):
    (data,) = photos(1, 80)
    files = [("images", f"{name}.png", data) for name in "ab"]
    before = blobs(service)
    answer = post(service, [*files, ("mask", "m.png", small_mask)])
    album, (first, second) = ended(service, answer, eventually)
    assert (first["reused"], second["reused"], album["status"]) == (False, True, "succeeded")
    assert first["seconds"] == second["seconds"]
    result = service.client.get(second["links"]["result"]).content
    assert result == service.client.get(first["links"]["result"]).content
    assert blobs(service) == before + 2 + 1 + 1
    other = encoded(np.eye(48, 64, dtype=np.uint8) * 255)
    again = service.client.post(album["links"]["items"], files={"mask": ("a.png", other)})
    assert (again.status_code, again.json()["number"]) == (202, 1)
    album, items = ended(service, answer, eventually)
    assert service.client.get(second["links"]["result"]).content == result
    assert service.client.get(first["links"]["result"]).content != result
    service.client.delete(album["links"]["self"])
    assert blobs(service) == before


def test_events_are_told_once_and_again_from_where_one_left(
    service, photos, small_mask, eventually
):
    files = [("images", f"{n}.png", data) for n, data in enumerate(photos(4, 13))]
    files += [("images", "bad.png", b"x"), ("mask", "m.png", small_mask)]
    path = post(service, files).headers["location"]

    def events(**headers):
        with service.client.stream("GET", f"{path}/events", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            texts = answer.read().decode().split("\n\n")
        return [dict(line.split(": ", 1) for line in text.splitlines()) for text in texts if text]

    told = events()
    items = [event for event in told if event["event"] == "item"]
    assert [event["id"] for event in items] == ["1", "2", "3", "4", "5"]
    assert {json.loads(event["data"])["number"] for event in items} == {1, 2, 3, 4, 5}
    assert told[-1]["event"] == "partial"
    assert json.loads(told[-1]["data"])["counts"]["succeeded"] == 4
    assert events(**{"Last-Event-ID": "3"}) == [*items[3:], told[-1]]
    assert events(**{"Last-Event-ID": "999"}) == [told[-1]]
    over = service.client.get(f"{path}/events", headers={"Last-Event-ID": told[-1]["id"]})
    assert over.status_code == 204
    strange = service.client.get(f"{path}/events", headers={"Last-Event-ID": "x"})
    assert (strange.status_code, strange.json()["code"]) == (422, "invalid-field")


def test_items_come_in_pages_and_by_state(service, photos, small_mask, eventually):
    files = [("images", f"{n}.png", data) for n, data in enumerate(photos(3, 14))]
    files += [("images", f"bad{n}.png", b"x") for n in range(3)] + [("mask", "m.png", small_mask)]
    album, items = ended(service, post(service, files), eventually)
    path, seen = f"{album['links']['self']}/items?limit=2&status=failed", []
    while path:
        answer = service.client.get(path)
        seen += [item["number"] for item in answer.json()["items"]]
        path = answer.json()["next"]
        assert (f'<{path}>; rel="next"' if path else None) == answer.headers.get("link")
    assert seen == [4, 5, 6]
    for query in ("limit=0", "limit=x", "cursor=-1", "status=lost"):
        refused = service.client.get(f"{album['links']['items']}?{query}")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid-field")
    for number in ("0", "99", "x", "٣"):
        missing = service.client.get(f"{album['links']['items']}/{number}")
        assert (missing.status_code, missing.json()["code"]) == (404, "not-found")


def test_an_album_that_is_deleted_leaves_no_files(service, photos, small_mask, eventually):
    before = blobs(service)
    files = [("images", f"{n}.png", data) for n, data in enumerate(photos(3, 15))]
    files += [("masks", "0.png", small_mask), ("masks", "1.png", small_mask)]
    album, _ = ended(service, post(service, files), eventually)
    assert blobs(service) == before + 3 + 2 + 2
    path = album["links"]["self"]
    assert service.client.delete(path).status_code == 204
    assert blobs(service) == before
    for request in ("", "/items", "/events", "/archive", "/items/1"):
        missing = service.client.get(path + request)
        assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    for request in ("/cancel", "/retry", "/close", "/items"):
        assert service.client.post(path + request).status_code == 404
    assert service.client.delete(path).status_code == 404


def test_limits_hold_and_stand_in_info(start_service, settings, by_hand, photos, eventually):
    limits = {"INPAINT_ALBUM_FILES": "2", "INPAINT_ALBUM_REQUEST_BYTES": "100000"}
    with start_service(settings, worker=False, **limits) as gateway, by_hand.reported():
        eventually(lambda: gateway.client.get("/readyz").is_success)
        many = [("images", f"{n}.png", data) for n, data in enumerate(photos(3))]
        for files in (many, [("archive", "a.zip", zipped(*((n, d) for _, n, d in many)))]):
            answer = post(gateway, files, on_missing_mask="copy")
            assert (answer.status_code, answer.json()["code"]) == (413, "album-too-large")
        answer = post(gateway, [], expect="3")
        assert (answer.status_code, answer.json()["code"]) == (413, "album-too-large")
        answer = post(gateway, [("images", "a.png", bytes(100_000))])
        assert (answer.status_code, answer.json()["code"]) == (413, "file-too-large")
        assert blobs(gateway) == 0
        assert gateway.client.get("/info").json()["limits"]["album_files"] == 2


def test_cancel_and_retry(start_service, settings, by_hand, photos, small_mask, eventually):
    with start_service(settings, worker=False) as gateway, by_hand.reported(rate=2.0):
        eventually(lambda: gateway.client.get("/readyz").is_success)
        files = [("images", f"{n}.png", data) for n, data in enumerate(photos(4))]
        answer = post(gateway, [*files, ("mask", "m.png", small_mask)])
        assert (answer.json()["status"], answer.json()["eta_seconds"]) == ("queued", 2)
        path = answer.headers["location"]
        canceled = gateway.client.post(f"{path}/cancel")
        assert (canceled.status_code, canceled.json()["status"]) == (202, "canceled")
        refused = gateway.client.get(f"{path}/items/1/result")
        assert (refused.status_code, refused.json()["code"]) == (409, "job-canceled")
        late = gateway.client.post(f"{path}/items", files={"image": ("x.png", photos(1, 16)[0])})
        assert late.json()["code"] == "album-closed"
        again = gateway.client.post(f"{path}/retry")
        assert (again.status_code, again.json()["status"]) == (202, "queued")
        assert again.json()["counts"]["queued"] == 4


def test_a_store_that_is_full_refuses_a_photograph_and_keeps_the_others(
    start_service, settings, own_server, by_hand, photos, small_mask, eventually
):
    blobs_url = {"INPAINT_BLOBS": own_server.url()}
    with start_service(settings, worker=False, **blobs_url) as gateway, by_hand.reported():
        eventually(lambda: gateway.client.get("/readyz").is_success)
        path = post(gateway, [("mask", "m.png", small_mask)], expect="2").headers["location"]
        one, other = photos(2)
        send = lambda name, data: gateway.client.post(  # noqa: E731
            f"{path}/items", files={"image": (name, data)}
        )
        assert send("a.png", one).status_code == 202
        with Redis.from_url(own_server.url()) as store:
            store.config_set("maxmemory", 1)
            refused = send("b.png", other)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage-unavailable")
            assert gateway.client.get(path).json()["counts"]["queued"] == 1
            store.config_set("maxmemory", 0)
        assert send("b.png", other).status_code == 202
        assert gateway.client.get(path).json()["counts"]["queued"] == 2


@pytest.mark.slow
def test_workers_and_the_gateway_may_die_and_every_good_photograph_is_there_once(
    start_service, own_server, tmp_path, photos, small_mask, eventually
):
    settings = Settings(data=tmp_path, redis_url=own_server.url())
    # shorter leases, and a busy machine loses some by itself
    variables = {"INPAINT_LEASE_SECONDS": "2", "INPAINT_MODELS": "telea"}
    good = {f"box/{number:03}.png": data for number, data in enumerate(photos(60, 17))}
    bad = {f"bad/{number}.png": data[: 20 * number] for number, data in enumerate(photos(4, 18))}
    with start_service(settings, worker=True, **variables) as service:
        path = post(service, [("mask", "m.png", small_mask)], expect="64").headers["location"]
        with jobs.connect(settings) as redis:
            command = [sys.executable, "-m", "inpaint"]
            given = {**variables, "INPAINT_DATA": str(tmp_path), "REDIS_URL": settings.redis}
            given |= {"INPAINT_MODEL": "telea", "OMP_NUM_THREADS": "1"}
            given["INPAINT_PORT"] = service.url.rpartition(":")[2]
            gateway = worker = None
            try:
                for count, (name, data) in enumerate([*good.items(), *bad.items()]):
                    if count == 20:  # the worker has begun
                        eventually(lambda: _counts(service, path)["succeeded"])
                    if count in (20, 40):
                        (worker or service.worker).send_signal(signal.SIGKILL)
                        (worker or service.worker).wait()
                        worker = subprocess.Popen([*command, "worker"], env=given)
                    if count == 30:
                        service.gateway.send_signal(signal.SIGKILL)
                        service.gateway.wait()
                        gateway = subprocess.Popen([*command, "serve"], env=given)
                        eventually(lambda: _answers(service.client))
                        repeated = list(good.items())[:30]  # the client knows not what came
                        for known, before in repeated:
                            answer = _send(service, path, known, before)
                            assert answer.status_code == 200
                    assert _send(service, path, name, data).status_code == 202
                own_server.kill()
                own_server.start()
                eventually(lambda: _status(service, path) == "partial", seconds=180)
                album = service.client.get(path).json()
                whole = archive(service, path)
                assert not redis.exists("inpaint:load")
            finally:
                for process in filter(None, (gateway, worker)):
                    process.terminate()
                    process.wait(60)
    assert album["counts"] == {
        **{"total": 64, "queued": 0, "running": 0},
        **{"succeeded": 60, "failed": 4, "canceled": 0},
    }
    assert whole.namelist() == [*good, "report.json", "report.csv"]
    rows = json.loads(whole.read("report.json"))["items"]
    assert [row["name"] for row in rows] == [*good, *bad]
    assert [row["file"] for row in rows] == [*good, *[None] * 4]
    if unzip := which("unzip"):
        (tmp_path / "album.zip").write_bytes(whole.fp.getvalue())
        subprocess.run([unzip, "-tq", tmp_path / "album.zip"], check=True)


def _answers(client):
    try:
        return client.get("/livez").is_success
    except httpx.TransportError:
        return False


def _send(service, path, name, data):
    return service.client.post(f"{path}/items", files={"image": (name, data)})


def _counts(service, path):
    return service.client.get(path).json()["counts"]


def _status(service, path):
    answer = service.client.get(path)
    return answer.json()["status"] if answer.is_success else None
