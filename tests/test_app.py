"The page and its API: what it does, what it refuses, who sees what, and what is left behind."

import ast
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import trimesh
from app_fakes import Deep, Moody, Slope, Upright, Warner, make_slope
from PIL import Image

from dogdepth import app as A
from dogdepth import store, uploads, workers
from dogdepth.app import ASSETS, FILES, MADE, Limits, Refused, create_app, sniff, words
from dogdepth.files import MM16_MAX_M
from dogdepth.depth import read_depth
from dogdepth.predict import Prediction, default_camera
from dogdepth.server import make_server
from dogdepth.store import sweep
from dogdepth.uploads import LANGUAGES

ROOT = Path(__file__).resolve().parents[1]


def picture(h=60, w=80, colour=(120, 90, 60), kind="JPEG", **how):
    img = np.full((h, w, 3), colour, np.uint8)
    img[: h // 4] = 255 - img[: h // 4]
    out = io.BytesIO()
    Image.fromarray(img).save(out, kind, **how)
    return out.getvalue()


PHOTO = picture()


def post(client, data=PHOTO, name="photo.jpg", key=None, query="?wait=20", path="/api/predict", **form):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return client.post(
        path + query,
        data={"photo": (io.BytesIO(data), name), **form},
        headers=headers,
        content_type="multipart/form-data",
    )


def opened(tmp_path, predictor=None, **limits):
    app = create_app(predictor or Slope(), tmp_path, Limits(**limits), decoders=1)
    return app, app.extensions["dogdepth"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "One app for the tests that leave it as it was."
    app, desk = opened(tmp_path_factory.mktemp("app"), Moody(), photos=60, all_photos=500)
    yield app
    desk.close()


@pytest.fixture
def client(served):
    return served.test_client()


@pytest.fixture
def me(client):
    "A program with a photo: its client, headers, and what the API says of the photo."
    r = post(client)
    assert r.status_code == 200, r.json
    return client, {"Authorization": "Bearer " + r.json["key"]}, r.json


def until(check, seconds=20):
    end = time.monotonic() + seconds
    while not (r := check()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return r


# --- a photo becomes depth, and files


def test_photo_to_depth(me):
    client, key, it = me
    assert (
        it["state"] == "done"
        and it["camera"]["lens"] == "assumed"
        and (it["camera"]["width"], it["camera"]["height"]) == (80, 60)
    )
    grid = np.frombuffer(client.get(it["files"]["grid"]["url"], headers=key).data, "<u2").reshape(
        it["depth"]["height"], it["depth"]["width"]
    )
    want = np.linspace(1, 3, 80) * it["camera"]["fx"] / 80
    assert np.abs(grid / 1000 - want).max() < 6e-4
    assert it["depth"]["near_m"] == pytest.approx(np.percentile(want, 2), abs=0.02)
    png = client.get(it["files"]["depth"]["url"], headers=key).data
    assert np.abs(cv2.imdecode(np.frombuffer(png, np.uint8), -1) / 1000 - want).max() < 6e-4


@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_files_open_elsewhere(me, kind, tmp_path):
    client, key, it = me
    path = f"/api/items/{it['id']}/files/{kind}"
    assert client.get(path, headers=key).status_code == 404
    r = client.post(path + "?wait=20", headers=key)
    assert r.status_code == 200 and r.json["files"][kind]["state"] == "done"
    got = client.get(path + "?save", headers=key)
    assert "attachment" in got.headers["Content-Disposition"] and len(got.data) == r.json["files"][kind]["bytes"]
    (tmp_path / f"x.{kind}").write_bytes(got.data)
    room = trimesh.load(tmp_path / f"x.{kind}")
    low, high = room.bounds
    z = np.linspace(1, 3, 80) * it["camera"]["fx"] / 80
    if kind == "glb":
        assert high[2] == pytest.approx(-z.min(), abs=0.02) and low[2] == pytest.approx(
            -z.max(), abs=0.05
        )  # y up, z towards the viewer
    else:
        assert low[1] == pytest.approx(z.min(), abs=0.02) and high[1] == pytest.approx(
            z.max(), abs=0.05
        )  # z up, y forward: upright in Blender
        half = 30 / it["camera"]["fy"] * z.max()
        assert high[2] == pytest.approx(half, rel=0.1) and low[2] == pytest.approx(-half, rel=0.1)
    assert (
        client.delete(path, headers=key).json["files"][kind]["state"] == "none"
        and client.get(path, headers=key).status_code == 404
    )


def test_a_file_deleted_while_the_shelf_is_counted_weighs_nothing(tmp_path):
    (tmp_path / "there").write_bytes(b"12345")
    listing = SimpleNamespace(iterdir=lambda: iter([tmp_path / "there", tmp_path / "gone"]))
    item = lambda folder: store.Item("a", "me", folder, {}, "given", ({}, "given"))
    assert item(listing).bytes() == item(tmp_path).bytes() == 5
    assert item(tmp_path / "no folder any more").bytes() == 0


def test_field_of_view_changes_depth_and_drops_old_files(me):
    client, key, it = me
    url = f"/api/items/{it['id']}"
    client.post(url + "/files/ply?wait=20", headers=key)
    r = client.patch(url + "?wait=20", json={"fov": 90}, headers=key).json
    assert (
        r["camera"]["fov_deg"] == pytest.approx(90)
        and r["camera"]["lens"] == "given"
        and r["files"]["ply"]["state"] == "none"
    )
    assert r["depth"]["far_m"] / it["depth"]["far_m"] == pytest.approx(40 / it["camera"]["fx"], rel=2e-3)
    back = client.patch(url + "?wait=20", json={"fov": None}, headers=key).json
    assert back["camera"] == it["camera"] and back["depth"] == it["depth"]


def test_fov_comes_with_the_photo_too(client):
    assert post(client, fov="100").json["camera"]["fov_deg"] == pytest.approx(100)
    assert client.post("/api/predict?wait=20&fov=50", data=PHOTO, content_type="image/jpeg").json["camera"][
        "fov_deg"
    ] == pytest.approx(50)


def test_no_depth_of_the_old_lens_beside_the_new_camera(me, monkeypatch):
    client, key, it = me
    url, desk = f"/api/items/{it['id']}", client.application.extensions["dogdepth"]
    monkeypatch.setattr(desk.bench, "add", lambda item, kind: store.Job(item, kind))  # a queue that does not get to it
    r = client.patch(url, json={"fov": 90}, headers=key)
    assert r.status_code == 202 and r.json["camera"]["fov_deg"] == pytest.approx(90)
    assert (
        r.json["depth"] is None
        and r.json["files"]["depth"]["state"] != "done"
        and r.json["files"]["photo"]["state"] == "done"
    )
    for kind in ("depth", "grid"):
        assert client.get(f"{url}/files/{kind}", headers=key).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        dict(side=0),
        dict(keep_s=-1.0),
        dict(upload_mb=float("nan")),
        dict(disk_mb=float("inf")),
        dict(photos=0),
        dict(megapixels="50"),
    ],
)
def test_impossible_limits(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} should be a number"):
        Limits(**wrong)


@pytest.mark.parametrize("fov", ["4", "151", "nan", "inf", "x", "", "1e999"])
def test_impossible_fov(client, fov):
    r = post(client, fov=fov)
    assert r.status_code == 422 and r.json["error"] == "bad_fov"


@pytest.mark.parametrize(
    "body",
    [
        {"fov": "70"},
        {"fov": int("1" * 400)},
        {"fov": True},
        {"fov": [1]},
        {"fov": 60, "x": 1},
        {},
        [],
        {"fov": "1e3"},
        {"fov": {}},
    ],
)
def test_impossible_change(me, body):
    client, key, it = me
    r = client.patch(f"/api/items/{it['id']}", json=body, headers=key)
    assert r.status_code == 422 and r.json["error"] == "bad_fov"


@pytest.mark.parametrize(
    "body, status",
    [("[" * 500, 400), ("[" * 100_000, 413), ('{"fov":', 400), ("", 400), ('{"fov": 60}' + " " * 600, 413)],
)
def test_bodies_that_are_no_change(me, body, status):
    client, key, it = me
    assert (
        client.patch(
            f"/api/items/{it['id']}", data=body, headers={**key, "Content-Type": "application/json"}
        ).status_code
        == status
    )


def test_list_and_delete(me):
    client, key, it = me
    k = key["Authorization"].split()[1]
    second = post(client, key=k).json
    assert [i["id"] for i in client.get("/api/items", headers=key).json["items"]] == [it["id"], second["id"]]
    assert client.delete(f"/api/items/{it['id']}", headers=key).status_code == 204
    assert [i["id"] for i in client.get("/api/items", headers=key).json["items"]] == [second["id"]]
    assert client.get(it["files"]["photo"]["url"], headers=key).status_code == 404


def test_ranges_for_players(me):
    client, key, it = me
    whole = client.get(it["files"]["photo"]["url"], headers=key).data
    part = client.get(it["files"]["photo"]["url"], headers={**key, "Range": "bytes=10-19"})
    assert part.status_code == 206 and part.data == whole[10:20]
    assert client.get(it["files"]["photo"]["url"], headers={**key, "Range": "bytes=9999999-"}).status_code == 416


def test_a_predictor_that_cannot_travel_works_here(tmp_path):
    class Local(Slope):
        pass

    app, desk = opened(tmp_path, Local())
    assert post(app.test_client()).json["state"] == "done" and desk.bench.helper.pid is None
    desk.close()
    app, desk = opened(tmp_path, lambda: Local())  # nor can this
    assert post(app.test_client()).json["state"] == "done" and desk.bench.helper.pid is None
    desk.close()
    app, desk = opened(tmp_path, lambda: 1 / 0)  # and this is nothing at all
    assert desk.bench.ready.wait(60) and desk.bench.trouble == "division by zero"
    desk.close()
    for maker in (make_slope, Slope):
        app, desk = opened(tmp_path, maker)
        assert post(app.test_client()).json["state"] == "done" and desk.bench.helper.pid
        desk.close()


@pytest.mark.slow
def test_default_predictor_is_ours(tmp_path):
    from skimage import data

    from dogdepth.predict import Predictor

    img = np.ascontiguousarray(data.coffee())
    app = create_app(data_dir=tmp_path, decoders=1)
    out = io.BytesIO()
    Image.fromarray(img).save(out, "PNG")
    client = app.test_client()
    r = post(client, out.getvalue(), "c.png").json
    assert r["state"] == "done"
    jpg = client.get(r["files"]["photo"]["url"], headers={"Authorization": "Bearer " + r["key"]}).data
    png = client.get(r["files"]["depth"]["url"], headers={"Authorization": "Bearer " + r["key"]}).data
    seen = cv2.imdecode(np.frombuffer(jpg, np.uint8), 1)[..., ::-1]
    want = Predictor(device="cpu").predict(seen, default_camera(*img.shape[:2])).depth_m
    got = cv2.imdecode(np.frombuffer(png, np.uint8), -1) / 1000
    assert np.abs(got - want).max() < 0.02
    app.extensions["dogdepth"].close()


# --- what comes in


def test_a_text_file_is_400_and_a_helpful_sentence(client):
    r = post(client, b"Dear diary", "photo.jpg")
    assert r.status_code == 400 and r.json["message"] == "This is not a photo. Send a JPEG, PNG or WebP picture."


@pytest.mark.parametrize(
    "kind, name",
    [
        ("JPEG", "a.jpg"),
        ("PNG", "a.png"),
        ("WEBP", "a.webp"),
        ("PNG", "a.JPG"),
        ("JPEG", "no extension"),
        ("JPEG", "../../etc/passwd"),
        ("JPEG", "사진.jpeg"),
        ("JPEG", "a\x00b.jpg"),
    ],
)
def test_kinds_that_are_read(client, served, kind, name):
    r = post(client, picture(kind=kind), name)
    assert r.status_code == 200 and r.json["state"] == "done"
    root = served.extensions["dogdepth"].shelf.root
    assert all(
        re.fullmatch(r"[0-9a-f]{32}|scratch|\.lock|photo\.jpg|grid|depth\.png|room\.\w+", p.name)
        for p in root.rglob("*")
    )


def exif(orientation, **more):
    e = Image.Exif()
    e[0x0112] = orientation
    e[0x010F] = "secret maker"
    ifd = e.get_ifd(0x8769)
    ifd.update(more or {0xA405: 28})
    gps = e.get_ifd(0x8825)
    gps[1], gps[2] = "N", (37.0, 33.0, 0.0)
    return e


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_is_applied_then_dropped(client, turn):
    """Each of the eight turns: the white corner ends up where it was before it was turned away; nothing of the metadata
    remains."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255
    undo = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: a[::-1, ::-1],
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(undo[turn](upright))).save(
        out, "JPEG", quality=95, exif=exif(turn), comment=b"secret words"
    )
    r = post(client, out.getvalue()).json
    got = client.get(r["files"]["photo"]["url"], headers={"Authorization": "Bearer " + r["key"]}).data
    assert np.abs(np.asarray(Image.open(io.BytesIO(got))).astype(int) - upright).mean() < 4
    assert b"secret" not in got and b"Exif" not in got and not Image.open(io.BytesIO(got)).getexif()
    assert r["camera"]["lens"] == "exif" and r["camera"]["fx"] == pytest.approx(
        28 / 43.267 * 80, rel=1e-3
    )  # a focal length is a hint we keep


def test_large_photos_are_shrunk_with_their_camera(client):
    r = post(client, picture(1500, 2000, exif=exif(1))).json
    assert (r["camera"]["width"], r["camera"]["height"]) == (1280, 960) and r["camera"]["fx"] == pytest.approx(
        28 / 43.267 * 1600, rel=1e-3
    )
    assert (r["depth"]["width"], r["depth"]["height"]) == (640, 480)


def test_transparent_becomes_white_and_palettes_work(client):
    for im in (Image.new("RGBA", (64, 48), (255, 0, 0, 0)), Image.new("LA", (64, 48), (0, 0))):
        out = io.BytesIO()
        im.save(out, "PNG")
        r = post(client, out.getvalue(), "a.png").json
        got = client.get(r["files"]["photo"]["url"], headers={"Authorization": "Bearer " + r["key"]}).data
        assert np.asarray(Image.open(io.BytesIO(got))).min() > 250
    out = io.BytesIO()
    Image.new("P", (64, 48)).save(out, "PNG")
    assert post(client, out.getvalue(), "a.png").json["state"] == "done"
    out = io.BytesIO()
    Image.new("CMYK", (64, 48)).save(out, "JPEG")
    assert post(client, out.getvalue()).json["state"] == "done"


# where pillow-heif is installed, such a file is opened, and found to be damaged
HEIC_REFUSED = (422, "damaged") if importlib.util.find_spec("pillow_heif") else (415, "kind_not_read")


@pytest.mark.parametrize(
    "data, status, why",
    [
        (b"", 400, "empty"),
        (b"GIF89a" + b"\0" * 50, 415, "kind_not_read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "kind_not_read"),
        (b"\xef\xbb\xbf  <?xml version='1.0'?><svg/>", 415, "kind_not_read"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, *HEIC_REFUSED),
        (b"%PDF-1.7", 415, "kind_not_read"),
        (b"II*\0" + b"\0" * 50, 415, "kind_not_read"),
        (PHOTO[:200], 422, "damaged"),
        (PHOTO[: len(PHOTO) // 2], 422, "damaged"),
        (b"\xff\xd8\xff" + b"x" * 100, 422, "damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, 422, "damaged"),
        (PHOTO + b"<SCRIPT>alert(1)</SCRIPT>", 422, "double_faced"),
        (PHOTO + b"PK\5\6" + b"\0" * 18, 422, "double_faced"),
        (picture(20, 20), 422, "odd_shape"),
        (picture(33, 900), 422, "odd_shape"),
    ],
)
def test_refused_uploads(client, data, status, why):
    r = post(client, data)
    assert (r.status_code, r.json["error"]) == (status, why)
    assert r.json["message"].endswith(".") and len(r.json["message"]) < 140 and "{" not in r.json["message"]


@pytest.mark.parametrize(
    "name",
    [
        "IMG_0001.HEIC",
        "photo.jpe",
        "scan.2024",
        "a.php",
        "a.html",
        "a.svg",
        "a.jpg.sh",
        "",
        ".",
        "noname",
        "a.pdf",
        "\u202egpj.exe",
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        "image/jpeg",
        "image/jpg",
        "image/pjpeg",
        "image/*",
        "image/heic",
        "application/octet-stream",
        "text/html",
        "x",
        "",
    ],
)
def test_no_label_overrules_content(client, name, kind):
    "A photo is what its bytes are: neither its name nor its declared type matters."
    body = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="' + name.encode() + b'"\r\n'
    body += (b"Content-Type: " + kind.encode() + b"\r\n" if kind else b"") + b"\r\n" + PHOTO + b"\r\n--x--\r\n"
    r = client.post("/api/predict", data=body, content_type="multipart/form-data; boundary=x")
    assert r.status_code == 202, r.json
    assert (
        client.delete(f"/api/items/{r.json['id']}", headers={"Authorization": "Bearer " + r.json["key"]}).status_code
        == 204
    )


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "image/jpg",
        "image/*",
        "image/heic",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "nonsense",
    ],
)
def test_a_bare_body_needs_no_true_type(client, kind):
    "curl --data-binary says x-www-form-urlencoded; others say nothing, or the wrong thing."
    r = client.post("/api/predict?fov=50", data=PHOTO, headers={"Content-Type": kind} if kind else {})
    assert r.status_code == 202 and r.json["camera"]["fov_deg"] == pytest.approx(50)


@pytest.mark.parametrize("kind", [None, "multipart/form-data", "image/jpeg", "application/octet-stream"])
def test_a_form_is_known_by_its_content_too(client, kind):
    part = lambda name, data, more=b"": (
        b'--frontier\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + data + b"\r\n"
    )
    for more in (
        b"",
        b'; filename=""',
        b'; filename="x.heic"',
    ):  # a part without a file name is a photo if its bytes are
        body = part(b"fov", b"70") + part(b"photo", PHOTO, more) + b"--frontier--\r\n"
        r = client.post("/api/predict", data=body, headers={"Content-Type": kind} if kind else {})
        assert r.status_code == 202 and r.json["camera"]["fov_deg"] == pytest.approx(70), (kind, more, r.json)


@pytest.mark.parametrize(
    "name, kind", [("a.jpg", "image/jpeg"), ("a.png", "image/png"), ("", ""), ("a.heic", "image/heic")]
)
def test_no_label_makes_a_photo(client, name, kind):
    for data, status, why in (
        (b"Dear diary", 400, "not_a_photo"),
        (b"<svg/>", 415, "kind_not_read"),
        (b"%PDF-1.7", 415, "kind_not_read"),
    ):
        for r in (
            client.post("/api/predict", data={"photo": (io.BytesIO(data), name, kind)}),
            client.post("/api/predict", data=data, content_type=kind),
        ):
            assert (r.status_code, r.json["error"]) == (status, why)


def boxes(main, *brands):
    return (16 + 4 * len(brands)).to_bytes(4, "big") + b"ftyp" + main + bytes(4) + b"".join(brands) + bytes(40)


def test_brands_of_a_file_of_boxes():
    "Both AVIF and HEIC may call themselves `mif1` first; what follows says which."
    for want, head in (
        ("AVIF", boxes(b"avif", b"mif1")),
        ("AVIF", boxes(b"mif1", b"miaf", b"avif")),
        ("HEIC", boxes(b"heic", b"mif1")),
        ("HEIC", boxes(b"mif1", b"heic")),
        ("HEIC", boxes(b"msf1", b"hevc")),
        ("MP4", boxes(b"isom", b"mp41")),
        ("MP4", b"\xff\xff\xff\xffftyp"),
    ):
        assert sniff(head) == want, head


@pytest.mark.skipif(not uploads.features.check("avif"), reason="Pillow was built without AVIF")
def test_avif_is_read_where_pillow_can(client):
    out = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(out, "AVIF")
    assert post(client, out.getvalue(), "photo.jpg").status_code == 200


def test_heic_is_read_where_pillow_heif_is(monkeypatch):
    """With a stand-in for pillow-heif: what is asked of it, and that HEIC then counts as readable; without it, a
    sentence."""
    called = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: called.append(1)))
    uploads.readable.cache_clear()
    assert "HEIC" in uploads.readable() and called
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    uploads.readable.cache_clear()
    assert "HEIC" not in uploads.readable()
    with pytest.raises(Refused, match="kind_not_read") as e:
        uploads.clean_photo(boxes(b"heic", b"mif1"), Limits())
    assert e.value.sentence() == "HEIC files are not read here. Save it as JPEG, PNG or WebP."
    uploads.readable.cache_clear()


def test_sixteen_bit_depth_is_not_a_photo(client):
    png = cv2.imencode(".png", np.full((60, 80), 2000, np.uint16))[1].tobytes()
    assert post(client, png, "d.png").json["error"] == "not_8_bit"


def test_form_must_hold_one_photo(client):
    two = client.post("/api/predict", data={"photo": [(io.BytesIO(PHOTO), "a.jpg"), (io.BytesIO(PHOTO), "b.jpg")]})
    other = client.post("/api/predict", data={"file": (io.BytesIO(PHOTO), "a.jpg")})
    text = client.post("/api/predict", data={"photo": "no file"}, content_type="multipart/form-data")
    more = client.post("/api/predict", data={"photo": (io.BytesIO(PHOTO), "a.jpg"), "extra": "1"})
    assert [r.json["error"] for r in (two, other, text, more)] == ["one_photo"] * 4
    assert client.post("/api/predict", json={}).json["error"] == "not_a_photo"


def png_header(w, h):
    "A PNG that promises w x h pixels in a few bytes."
    import struct
    import zlib

    chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 10000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("w, h", [(8000, 8000), (30000, 30000), (65535, 65535)])
def test_bombs_are_refused_by_their_header(client, w, h):
    t = time.monotonic()
    r = post(client, png_header(w, h), "b.png")
    assert r.status_code == 413 and "million" in r.json["message"] and time.monotonic() - t < 5


def test_decoder_has_no_memory_to_waste_and_no_disk():
    code = """if True:
        import tempfile
        from dogdepth.workers import set_up_decoder
        set_up_decoder(dict(memory_mb=1500))
        try: bytearray(3 << 30); print("memory")
        except MemoryError: pass
        try:
            with tempfile.TemporaryFile() as f: f.write(b"x"); f.flush()
            print("disk")
        except OSError: pass"""
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert r.stdout == "" and (r.returncode == 0 or r.returncode == -signal.SIGXFSZ), r.stderr


def test_a_bomb_that_outgrows_the_decoder_is_refused(tmp_path):
    "Where the cap on pixels is set too high, the cap on memory still holds."
    app, desk = opened(tmp_path, megapixels=1000, memory_mb=900)
    zeros = io.BytesIO()
    Image.new("1", (13000, 13000)).save(zeros, "PNG")  # 169 million pixels in 20 kB; 0.7 GB once decoded
    r = post(app.test_client(), zeros.getvalue(), "b.png")
    assert (r.status_code, r.json["error"]) in ((413, "too_large_to_decode"), (422, "damaged"))
    assert post(app.test_client()).json["state"] == "done"
    desk.close()


# --- caps


def test_upload_size(tmp_path):
    app, desk = opened(tmp_path, upload_mb=0.05)
    r = post(app.test_client(), PHOTO + bytes(60_000))
    assert r.status_code == 413 and r.json["message"] == "The upload is too large."
    desk.close()


def test_photos_of_one_visitor_and_of_all(tmp_path):
    app, desk = opened(tmp_path, photos=2, all_photos=3)
    c = app.test_client()
    key = post(c).json["key"]
    assert post(c, key=key).status_code == 200
    r = post(c, key=key)
    assert r.status_code == 429 and r.json["error"] == "too_many_photos" and "Retry-After" in r.headers
    assert post(c).status_code == 200
    assert (post(c).status_code, post(c).json["error"]) == (503, "full")
    desk.close()


def test_disk(tmp_path):
    app, desk = opened(tmp_path, disk_mb=0.1)
    c = app.test_client()
    noisy = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8))[1].tobytes()
    r = post(c, noisy)
    assert r.status_code == 200 and r.json["state"] == "failed" and r.json["files"]["depth"]["error"] == "full"
    assert post(c).status_code == 503
    desk.close()


def test_queue_and_fair_turns(tmp_path):
    app, desk = opened(tmp_path, Moody(), jobs=3, queue=5)
    c = app.test_client()
    slow = post(c, picture(colour=(0, 255, 0)), query="").json  # 30 s of work: everyone waits
    until(lambda: desk.shelf.items[slow["id"]].jobs["depth"].state == "working")
    ann = post(c, query="").json
    many = [post(c, key=ann["key"], query="") for _ in range(2)]
    full = post(c, key=ann["key"], query="")
    assert (full.status_code, full.json["error"]) == (429, "too_many_jobs") and len(
        desk.shelf.of(ann["key"].rpartition(".")[0])
    ) == 3
    bob = post(c, query="").json
    assert post(c, query="").status_code == 202
    assert post(c, query="").json["error"] == "busy"
    order = [j for j in desk.bench.waiting]
    assert [o.item.id for o in order[:4]] == [ann["id"], many[0].json["id"], many[1].json["id"], bob["id"]]
    first, second = desk.bench._next(), desk.bench._next()
    assert (first.item.id, second.item.id) == (ann["id"], bob["id"])  # bob does not wait for all of ann's
    desk.close()


# --- who sees what


def test_ids_and_keys_cannot_be_guessed(me, client):
    _, key, it = me
    assert len(it["id"]) >= 22 and len(key["Authorization"]) > 60
    other = {"Authorization": "Bearer " + post(client).json["key"]}
    url = f"/api/items/{it['id']}"
    for r in (
        client.get(url, headers=other),
        client.get(url),
        client.delete(url, headers=other),
        client.patch(url, json={"fov": 60}, headers=other),
        client.post(url + "/files/ply", headers=other),
        client.delete(url + "/files/ply", headers=other),
        *(client.get(f"{url}/files/{k}", headers=other) for k in FILES),
    ):
        assert r.status_code == 404 and r.json["error"] == "no_such"
    assert client.get(url, headers=key).status_code == 200
    assert it["id"] not in client.get("/api/items", headers=other).text and client.get("/api/items").json == {
        "items": []
    }


@pytest.mark.parametrize("bad", ["x", "", "a.b", "Bearer", "é.1", "x" * 5000])
def test_false_keys(client, bad):
    r = client.get("/api/items", headers={"Authorization": "Bearer " + bad})
    assert r.status_code == 401 and r.json["error"] == "bad_key"


def test_a_key_of_another_server_is_no_key(me, tmp_path):
    app, desk = opened(tmp_path)
    assert app.test_client().get("/api/items", headers=me[1]).status_code == 401
    desk.close()


def browser(served):
    "A client with the page's cookie, and its token."
    c = served.test_client()
    page = c.get("/").text
    return c, {"X-CSRF-Token": re.search(r'csrf-token" content="(\w+)"', page)[1]}


def test_a_browser_needs_its_token(served):
    (c, token), (_, foreign) = browser(served), browser(served)
    send = lambda headers: c.post("/api/predict?wait=20", data={"photo": (io.BytesIO(PHOTO), "a.jpg")}, headers=headers)
    for wrong in ({}, foreign, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "é"}):
        assert (send(wrong).status_code, send(wrong).json["error"]) == (403, "no_token")
    it = send(token).json
    assert it["state"] == "done" and "key" not in it
    url = f"/api/items/{it['id']}"
    assert [
        c.delete(url).status_code,
        c.patch(url, json={"fov": 60}).status_code,
        c.post(url + "/files/ply").status_code,
    ] == [403] * 3
    assert c.get(url).status_code == 200 and c.delete(url, headers=token).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost"},
    ],
)
def test_another_site_cannot_use_a_visitor(served, headers):
    c, token = browser(served)
    strange = headers != {"Origin": "http://localhost"}
    r = c.post("/api/predict", data={"photo": (io.BytesIO(PHOTO), "a.jpg")}, headers={**token, **headers})
    assert r.status_code == (403 if strange else 202)
    r = served.test_client().post("/api/predict", data={"photo": (io.BytesIO(PHOTO), "a.jpg")}, headers=headers)
    assert r.status_code == 403  # a browser without a cookie


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("evil.example", 400),
        ("localhost.evil.example:80", 400),
        ("127.0.0.1.nip.io", 400),
    ],
)
def test_rebinding(client, host, status):
    assert client.get("/", headers={"Host": host}).status_code == status


def test_cookie_and_headers(served):
    c = served.test_client()
    r = c.get("/")
    cookie = r.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    for r in (r, c.get("/api/items"), c.get("/nothing"), c.get("/static/app.js"), c.post("/"), post(c, b"x")):
        csp = r.headers["Content-Security-Policy"]
        assert (
            "default-src 'none'" in csp and "unsafe" not in csp and "frame-ancestors 'none'" in csp and "*" not in csp
        )
        assert (
            r.headers["X-Content-Type-Options"] == "nosniff"
            and r.headers["Referrer-Policy"] == "no-referrer"
            and r.headers["X-Frame-Options"] == "DENY"
        )
        assert r.headers["Cache-Control"] in ("no-store", "no-cache")
    assert not served.debug and not served.testing


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page.html",
        "/static/%2e%2e/words/en.json",
        "/static/..%2fopenapi.json",
        "/api/items/../../etc/passwd",
        "/api/items/%2e%2e%2f%2e%2e",
        "/api/items/x/files/../../grid",
        "/api/items/x/files/%2e%2e%2fphoto.jpg",
        "/static//etc/passwd",
        "/static/%00",
        "/api/items/%00",
        "/page.html",
        "/words/en.json",
    ],
)
def test_path_tricks(me, path):
    client, key, _ = me
    r = client.get(path, headers=key)
    assert r.status_code in (404, 308) and "root:" not in r.text


def test_errors_tell_nothing_of_the_inside(tmp_path, capfd):
    app, desk = opened(tmp_path, Moody())
    r = post(app.test_client(), picture(colour=(0, 0, 255)))
    desk.close()
    assert r.status_code == 200 and r.json["state"] == "failed" and r.json["files"]["depth"]["error"] == "job_failed"
    assert "secret" not in r.text and "/" not in r.json["files"]["depth"]["message"]
    assert "a secret place" in capfd.readouterr().err  # but the log does


def test_unforeseen_errors(client, monkeypatch):
    monkeypatch.setattr(A, "uploaded", lambda: 1 / 0)
    r = post(client)
    assert r.status_code == 500 and r.json == {"error": "http_500", "message": "Something went wrong on our side."}


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("put", "/api/predict", 405),
        ("get", "/api/predict", 405),
        ("get", "/nothing", 404),
        ("patch", "/api/items/x", 404),
    ],
)
def test_statuses(me, method, path, status):
    r = getattr(me[0], method)(path, headers=me[1])
    assert r.status_code == status and r.json["message"].endswith(".")
    assert status != 405 or "Allow" in r.headers


@pytest.mark.parametrize("wait", ["-1", "31", "x", "nan"])
def test_bad_wait(client, wait):
    assert post(client, query=f"?wait={wait}").json["error"] == "bad_wait"


# --- what is left behind


def test_everything_expires(tmp_path):
    app, desk = opened(tmp_path, keep_s=1.5)
    c = app.test_client()
    it = post(c).json
    key = {"Authorization": "Bearer " + it["key"]}
    folder = desk.shelf.items[it["id"]].folder
    assert folder.is_dir() and it["expires_in_s"] <= 2
    until(lambda: not folder.exists(), 5)  # without anyone asking
    assert c.get(f"/api/items/{it['id']}", headers=key).status_code == 404 and c.get(
        "/api/items", headers=key
    ).json == {"items": []}
    desk.close()


def test_delete_leaves_no_file(tmp_path):
    app, desk = opened(tmp_path)
    c = app.test_client()
    it = post(c).json
    key = {"Authorization": "Bearer " + it["key"]}
    c.post(f"/api/items/{it['id']}/files/glb?wait=20", headers=key)
    before = {p.name for p in desk.shelf.root.rglob("*") if p.is_file()}
    assert before == {".lock", "photo.jpg", "grid", "depth.png", "room.glb"}
    c.delete(f"/api/items/{it['id']}", headers=key)
    assert {p.name for p in desk.shelf.root.rglob("*")} == {".lock", "scratch"}
    root = desk.shelf.root
    desk.close()
    assert not root.exists() and not list(tmp_path.iterdir())


def test_folder_is_ours_alone(tmp_path):
    app, desk = opened(tmp_path)
    assert desk.shelf.root.stat().st_mode & 0o077 == 0
    desk.close()


def test_leftovers_of_a_killed_server_are_swept(tmp_path):
    code = f"""if True:
        import sys, time; sys.path.insert(0, {str(ROOT / 'tests')!r})
        from app_fakes import Slope; from dogdepth.app import create_app
        app = create_app(Slope(), {str(tmp_path)!r}, decoders=1); app.extensions['dogdepth'].bench.ready.wait(); (app.extensions['dogdepth'].shelf.root/'photo.jpg').write_bytes(b'x'); print('up', flush=True); time.sleep(60)"""
    p = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "up\n"
    assert sweep(tmp_path) == 0 and list(tmp_path.glob("serve-*/photo.jpg"))  # it lives: hands off
    (tmp_path / "mine.txt").write_text("mine")
    p.kill()
    p.wait()
    app, desk = opened(tmp_path)
    assert not list(tmp_path.glob("serve-*/photo.jpg")) and (tmp_path / "mine.txt").read_text() == "mine"
    desk.close()


def test_a_folder_of_someone_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"dogdepth-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="belongs to someone else: pass data_dir="):
        create_app(Slope())


# --- crashes, kills, cancelling


def scratch(desk):
    return list((desk.shelf.root / "scratch").iterdir())


def test_a_crash_loses_no_other_job(tmp_path):
    app, desk = opened(tmp_path, Moody())
    c = app.test_client()
    red = picture(colour=(255, 0, 0))
    many = [post(c, red if k % 2 else PHOTO, query="").json for k in range(6)]
    jobs = [desk.shelf.items[i["id"]].jobs["depth"] for i in many]
    until(lambda: all(j.over for j in jobs), 60)
    done = [c.get(f"/api/items/{i['id']}", headers={"Authorization": "Bearer " + i["key"]}).json for i in many]
    assert [d["state"] for d in done] == ["done", "failed"] * 3
    assert done[1]["files"]["depth"]["error"] == "job_died" and done[1]["files"]["photo"]["state"] == "done"
    assert scratch(desk) == []
    desk.close()


def test_a_killed_worker_comes_back(tmp_path):
    app, desk = opened(tmp_path, Moody())
    c = app.test_client()
    it = post(c, picture(colour=(0, 255, 0)), query="").json
    job = desk.shelf.items[it["id"]].jobs["depth"]
    until(lambda: job.state == "working" and scratch(desk))
    waiting = post(c, query="").json
    os.kill(desk.bench.helper.pid, signal.SIGKILL)
    until(lambda: job.over)
    assert (job.state, job.why) == ("failed", "job_died")
    assert (
        c.get(f"/api/items/{waiting['id']}?wait=20", headers={"Authorization": "Bearer " + waiting["key"]}).json[
            "state"
        ]
        == "done"
    )
    assert scratch(desk) == [] and not (desk.shelf.items[it["id"]].folder / "depth.png").exists()
    desk.close()


def test_a_killed_decoder_comes_back(tmp_path):
    app, desk = opened(tmp_path)
    c = app.test_client()
    assert post(c).status_code == 200
    os.kill(desk.decoders.queue[0].pid, signal.SIGKILL)
    assert post(c).status_code == 200
    desk.close()


def test_a_file_gets_two_decoders_and_no_third(tmp_path):
    "One that dies halfway may have been killed for another reason; a file that ends two is refused."
    app, desk = opened(tmp_path)
    c, h = app.test_client(), desk.decoders.queue[0]
    real, deaths = h.call, iter([1, 0, 1, 1])

    def call(*args, **how):
        if next(deaths):
            raise workers.Died()
        return real(*args, **how)

    h.call = call
    assert post(c).status_code == 200
    assert (post(c).status_code, desk.decoders.qsize()) == (422, 1)
    desk.close()


def test_jobs_that_take_too_long(tmp_path):
    app, desk = opened(tmp_path, Moody(), job_s=1)
    t = time.monotonic()
    r = post(app.test_client(), picture(colour=(0, 255, 0)))
    assert r.json["state"] == "failed" and r.json["files"]["depth"]["error"] == "job_died" and time.monotonic() - t < 15
    desk.close()


@pytest.mark.parametrize("how", ["delete the photo", "stop the file"])
def test_cancel(tmp_path, how):
    app, desk = opened(tmp_path, Moody())
    c = app.test_client()
    it = post(c, picture(colour=(0, 255, 0)), query="").json
    key, url = {"Authorization": "Bearer " + it["key"]}, f"/api/items/{it['id']}"
    job = desk.shelf.items[it["id"]].jobs["depth"]
    until(lambda: job.state == "working")
    if how == "delete the photo":
        assert c.delete(url, headers=key).status_code == 204
        until(lambda: job.over, 10)
        assert job.state == "cancelled" and scratch(desk) == [] and not desk.shelf.items
    else:
        assert c.post(url + "/files/ply", headers=key).json["files"]["ply"]["state"] == "waiting"
        assert c.delete(url + "/files/ply", headers=key).json["files"]["ply"]["state"] == "none"
        assert not desk.bench.waiting
    desk.close()


def test_cooperative_stop_keeps_the_worker(tmp_path):
    "Work that reports progress is asked to stop, not killed: nobody waits for a new worker."
    app, desk = opened(tmp_path)
    post(app.test_client())
    pid, h = desk.bench.helper.pid, desk.bench.helper
    with pytest.raises(Refused, match="cancelled"):
        h.call("rehearse", 200, seconds=30, stop=lambda: True)
    assert h.pid == pid and h.call("rehearse", 1)[0] == {"steps": 1}
    desk.close()


# --- words, page, description


def test_both_languages_say_the_same_things():
    en, ko = words("en"), words("ko")
    for part in en:
        assert en[part].keys() == ko[part].keys()
        for k, text in en[part].items():
            places = [
                sorted(re.findall(r"\{[^}]*\}", t.replace("{man}", "{most:g}"))) for t in (text, ko[part][k])
            ]  # millions; Korean counts in ten thousands
            assert places[0] == places[1], (part, k)
            assert text.strip() and ko[part][k].strip()
    assert sum(bool(re.search("[가-힣]", t)) for p in ko.values() for t in p.values()) > 90
    assert (
        "5,000만 픽셀" in Refused(413, "too_large_to_decode", **uploads.most(Limits())).sentence("ko")
        and "50 million" in Refused(413, "too_large_to_decode", **uploads.most(Limits())).sentence()
    )


def test_every_refusal_has_a_sentence_and_every_sentence_a_use():
    modules = ("app", "uploads", "workers", "store", "door", "server")
    source = "\n".join((ROOT / f"dogdepth/{m}.py").read_text(encoding="utf-8") for m in modules)
    raised = {
        n.args[1].value
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Refused" and isinstance(n.args[1], ast.Constant)
    }
    assert raised | {"job_died", "job_failed"} == set(words("en")["refused"])
    html, js = (
        (ASSETS / "page.html").read_text(encoding="utf-8"),
        (ASSETS / "static/app.js").read_text(encoding="utf-8"),
    )
    assert set(re.findall(r"\bw\.(\w+)", html)) == set(words("en")["page"])
    used = (
        set(re.findall(r"words\.(\w+)", js))
        | set(re.findall(r"say\('(\w+)'", js))
        | {"waiting", "working", "lens_exif", "lens_assumed", "lens_given"}
    )
    assert used == set(words("en")["script"])


@pytest.mark.parametrize(
    "header, lang",
    [("ko-KR,ko;q=0.9,en;q=0.8", "ko"), ("ko", "ko"), ("en-US", "en"), ("de", "en"), ("", "en"), ("en;q=0.5,ko", "ko")],
)
def test_language(served, header, lang):
    r = served.test_client().get("/", headers={"Accept-Language": header})
    client = served.test_client()
    assert f'<html lang="{lang}">' in r.text and words(lang)["page"]["title"] in r.text
    assert post(client, b"x").json["message"] == words("en")["refused"]["not_a_photo"]
    bad = client.post("/api/predict", data={"photo": (io.BytesIO(b"x"), "x")}, headers={"Accept-Language": header}).json
    assert bad["message"] == words(lang)["refused"]["not_a_photo"]


def test_page_asks_nothing_of_the_network_and_runs_nothing_inline(client):
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|<style|\sstyle=|javascript:", page)
    for name in ["page.html", *(f"static/{p.name}" for p in (ASSETS / "static").iterdir())]:
        text = (ASSETS / name).read_text(encoding="utf-8")
        assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)\w+\.\w+", re.sub(r"^\s*//.*$", "", text, flags=re.M)), (
            name
        )
    urls = [u for u in re.findall(r'(?:src|href)="([^"]+)"', page) if u[0] not in "#?"]
    assert len(urls) >= 8
    for url in urls:
        assert client.get("/" + url).status_code == 200
    assert client.get("/static/app.js").mimetype == "text/javascript"
    assert (
        client.get("/sample.jpg").data == client.get("/sample/room.jpg").data
        and client.get("/sample/room.jpg").data[:3] == b"\xff\xd8\xff"
    )
    assert client.get("/sample/nothing.jpg").status_code == 404


def test_page_speaks_to_screen_readers(client):
    page = client.get("/").text
    assert (
        'role="status" aria-live="polite"' in page
        and 'role="alert"' in page
        and 'class="skip"' in page
        and "<main>" in page
    )
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for ref in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', page):
        assert set(ref.split()) <= set(ids)
    for tag in re.findall(r"<(?:canvas|video|progress|input)[^>]*>", page):
        assert "aria-" in tag or re.search(r'type="file"', tag), tag
    assert 'capture="environment"' in page and 'name="viewport"' in page


def luminance(colour):
    v = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4) for w, x in zip((0.2126, 0.7152, 0.0722), v)
    )


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable(dark):
    "Contrast of at least 4.5 : 1 (WCAG 2.2, 1.4.3)."
    css = (ASSETS / "static/app.css").read_text(encoding="utf-8")
    roots = re.findall(r":root \{([^}]*)\}", css)
    c = dict(re.findall(r"--(\w+):(#\w{6})", roots[0])) | (
        dict(re.findall(r"--(\w+):(#\w{6})", roots[1])) if dark else {}
    )
    for ground, ink in [*((g, i) for g in ("bg", "card") for i in ("ink", "soft", "accent", "bad")), ("accent", "on")]:
        a, b = sorted((luminance(c[ground]), luminance(c[ink])), reverse=True)
        assert (a + 0.05) / (b + 0.05) >= 4.5, (ground, ink)
    assert "prefers-reduced-motion" in css and ":focus-visible" in css


def test_colours_of_the_page_are_turbo():
    from matplotlib import colormaps

    stops = re.search(r"TURBO = '([\da-f ]+)'", (ASSETS / "static/app.js").read_text(encoding="utf-8"))[1].split()
    rgb = np.array([[int(s[i : i + 2], 16) for i in (0, 2, 4)] for s in stops])
    got = np.stack([np.interp(np.linspace(0, len(rgb) - 1, 256), range(len(rgb)), rgb[:, k]) for k in range(3)], -1)
    assert np.abs(got - colormaps["turbo"](np.arange(256))[:, :3] * 255).max() < 6


def test_description_lists_every_route(served, client):
    doc = client.get("/api/openapi.json").json
    routes = {
        (m.lower(), re.sub(r"<(\w+)>", r"{\1}", r.rule))
        for r in served.url_map.iter_rules()
        if r.rule.startswith("/api/")
        for m in r.methods - {"HEAD", "OPTIONS"}
    }
    assert routes == {(m, p) for p, ops in doc["paths"].items() for m in ops if m != "parameters"}
    assert set(doc["components"]["schemas"]["Item"]["properties"]["files"]["required"]) == set(FILES)
    from dogdepth import __version__

    assert doc["info"]["version"] == __version__ and doc["openapi"].startswith("3.1")


def test_sniff_reads_bytes_not_names():
    assert [sniff(picture(kind=k)) for k in ("JPEG", "PNG", "WEBP")] == ["JPEG", "PNG", "WEBP"]
    assert sniff(b"") == sniff(b"RIFF1234WAVE") == sniff(b"hello") == ""


# --- the server


@pytest.fixture(scope="module")
def url(served):
    server = make_server(served, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield "127.0.0.1", int(server.effective_port)
    server.task_dispatcher.shutdown()


def raw(url, data, seconds=20, slowly=0):
    with socket.create_connection(url, timeout=seconds) as s:
        try:
            for k in range(0, len(data), 64) if slowly else [0]:
                s.sendall(data[k : k + 64] if slowly else data)
                time.sleep(slowly)
        except OSError:
            pass
        got = b""
        try:
            while part := s.recv(65536):
                got += part
        except OSError:
            pass
    return got


def test_server_says_nothing_about_itself(url):
    got = raw(url, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (
        got.startswith(b"HTTP/1.1 200")
        and b"erver:" not in got.split(b"\r\n\r\n")[0]
        and b"Step into your photo" in got
    )


def test_server_refuses_huge_uploads_before_they_arrive(url):
    got = raw(
        url,
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 999999999\r\n\r\n"
        + bytes(1000),
    )
    assert got.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("silent", [False, True])
def test_slow_uploads(tmp_path, silent):
    app, desk = opened(tmp_path, upload_s=1)
    server = make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    where, head = (
        ("127.0.0.1", int(server.effective_port)),
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n",
    )
    t = time.monotonic()
    got = raw(where, head, 20) if silent else raw(where, head + bytes(5000), 20, slowly=0.1)
    assert time.monotonic() - t < 12 and (
        got == b"" if silent else got.startswith(b"HTTP/1.1 408") and b"took too long" in got
    )
    assert raw(where, b"GET /api/items HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
    server.task_dispatcher.shutdown()
    desk.close()


def test_many_waiters_do_not_block_the_server(tmp_path):
    app, desk = opened(tmp_path, Moody())
    server = make_server(app, port=0, threads=8)
    threading.Thread(target=server.run, daemon=True).start()
    where = ("127.0.0.1", int(server.effective_port))
    c = app.test_client()
    it = post(c, picture(colour=(0, 255, 0)), query="").json
    ask = f"GET /api/items/{it['id']}?wait=20 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {it['key']}\r\n\r\n".encode()
    for _ in range(10):
        threading.Thread(target=raw, args=(where, ask), daemon=True).start()
    time.sleep(0.5)
    t = time.monotonic()
    assert (
        raw(where, b"GET /api/items HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )
        and time.monotonic() - t < 5
    )
    desk.close()
    server.task_dispatcher.shutdown()


def test_limits_and_files_are_what_the_texts_say():
    assert (
        set(MADE) < set(FILES)
        and LANGUAGES == ("en", "ko")
        and all((ASSETS / "words" / f"{k}.json").is_file() for k in LANGUAGES)
    )
    assert json.loads((ASSETS / "openapi.json").read_text(encoding="utf-8"))["paths"]


def test_depth_of_the_wrong_shape_is_refused(tmp_path):
    class Odd(Slope):
        def predict(self, img, camera=None):
            return Prediction(np.ones((5, 5), np.float32), camera, img)

    app, desk = opened(tmp_path, Odd())
    assert post(app.test_client()).json["state"] == "failed"
    desk.close()


def test_depth_png_is_read_by_the_library(me, tmp_path):
    client, key, it = me
    (tmp_path / "d.png").write_bytes(client.get(it["files"]["depth"]["url"], headers=key).data)
    assert read_depth(tmp_path / "d.png").shape == (60, 80)


def test_work_that_keeps_reporting_is_late_and_heard_too():
    "Progress every 20 ms must not hide the clock, nor the visitor who cancels."
    from dogdepth.app import Died
    from dogdepth.workers import Helper

    h = Helper("set_up_decoder", asdict(Limits()))
    try:
        t = time.monotonic()
        with pytest.raises(Died):
            h.call("rehearse", 500, seconds=0.5)
        with pytest.raises(Refused, match="cancelled"):
            h.call("rehearse", 500, stop=lambda: True)
        assert time.monotonic() - t < 9  # 10 seconds each, if nobody minds the clock
    finally:
        h.kill()


def test_a_helper_ended_by_two_at_once_ends_once():
    "Whoever waits for it sees it die and cleans up while the page closes: the line must be closed by one of them only."
    from dogdepth.workers import Helper

    h = Helper("set_up_decoder", asdict(Limits()))
    h.start()
    line, closed = h.line, []

    class Slow:
        def close(self):
            closed.append(1)
            time.sleep(0.2)
            line.close()

    h.line, raised = Slow(), []

    def end():
        try:
            h.kill()
        except OSError as e:
            raised.append(e)

    both = [threading.Thread(target=end) for _ in range(2)]
    [t.start() for t in both]
    [t.join() for t in both]
    assert closed == [1] and not raised and h.pid is None


# --- what there is to know about a photo


def test_depth_beyond_what_a_png_holds_is_clamped_and_said(tmp_path):
    app, desk = opened(tmp_path, Deep())
    c = app.test_client()
    it = post(c).json
    assert (
        it["state"] == "done"
        and [n["note"] for n in it["notes"]] == ["clamped"]
        and "65.5 m" in it["notes"][0]["message"]
    )
    key = {"Authorization": "Bearer " + it["key"]}
    mm = cv2.imdecode(np.frombuffer(c.get(it["files"]["depth"]["url"], headers=key).data, np.uint8), -1)
    grid = np.frombuffer(c.get(it["files"]["grid"]["url"], headers=key).data, "<u2").reshape(mm.shape)
    most = round(1000 * MM16_MAX_M)
    for a in (mm, grid):
        assert (a[:, 30:] == most).all() and a[0, 0] == most and (a[1:, :20] == 2000).all()
    assert (
        c.get(f"/api/items/{it['id']}", headers=key | {"Accept-Language": "ko"}).json["notes"][0]["message"]
        == words("ko")["notes"]["clamped"]
    )
    assert it["depth"].keys() == {"height", "width", "near_m", "far_m"}
    for kind in ("ply", "glb"):
        assert c.post(f"/api/items/{it['id']}/files/{kind}?wait=20", headers=key).json["files"][kind]["state"] == "done"
    desk.close()


def test_all_of_it_beyond(tmp_path):
    "Not even then does the page fail."
    d = np.full((60, 80), 9000, np.float32)
    fake = SimpleNamespace(predict=lambda img, camera: Prediction(d, camera, img))
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    meta, _ = workers.depth_job(
        fake, lambda share: None, tmp_path, tmp_path, uploads.camera_dict(default_camera(60, 80))
    )
    assert [n[0] for n in meta["notes"]] == ["clamped"] and (
        read_depth(tmp_path / "depth.png", "mm16") == np.float32(MM16_MAX_M)
    ).all()


def test_what_the_library_warns_of_is_a_note(tmp_path):
    "Once each, in its own words where we know no better; warnings for programmers are not for visitors."
    app, desk = opened(tmp_path, Warner())
    c = app.test_client()
    it = post(c).json
    key = {"Authorization": "Bearer " + it["key"]}
    assert it["notes"] == [{"note": "other", "message": "what a strange photo"}]
    again = c.patch(f"/api/items/{it['id']}?wait=20", json={"fov": 70}, headers=key).json
    assert again["notes"] == it["notes"] and "notes" not in again["depth"]
    desk.close()


@pytest.mark.parametrize(
    "text, key",
    [
        ("photo.jpg is a 360-degree panorama (GPano)", "panorama"),
        ("the EXIF block speaks of 4000x3000 pixels, the photo has 900x900", "other_picture"),
        ("12 readings lie beyond 65.534 m", "clamped"),
        ("anything", ""),
    ],
)
def test_notes_in_the_readers_language(monkeypatch, text, key):
    real = uploads.load_photo
    monkeypatch.setattr(uploads, "load_photo", lambda *a, **how: warnings.warn(text) or real(*a, **how))
    assert uploads.clean_photo(PHOTO, Limits())[0]["notes"] == [[key, text]]
    assert key == "" or (words("en")["notes"][key] and words("ko")["notes"][key])


def test_pillows_own_warnings_are_no_notes():
    with uploads.noted() as notes:
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "/x/site-packages/PIL/TiffImagePlugin.py", 1)
        warnings.warn("twice")
        warnings.warn("twice")
    assert notes == [["", "twice"]]


def test_one_definition_of_the_range():
    "The 2nd and the 98th percentile of the depths that are there, at the size of the photo."
    d = np.random.default_rng(0).uniform(1, 5, (90, 120)).astype(np.float32)
    d[:30], d[40, 40], d[41, 41] = 0, np.nan, np.inf
    seen = d[np.isfinite(d) & (d > 0)]
    assert workers.typical_range(d) == pytest.approx(np.percentile(seen, (2, 98)), abs=6e-4) and workers.typical_range(
        np.zeros((4, 5))
    ) == (0, 0)


def test_a_network_of_another_shape_warms_up(tmp_path):
    "An upright export is asked for an upright picture first: the page does not know a shape better than the network."
    assert workers.set_up_predictor(lambda: Upright()).size == (320, 240)
    app, desk = opened(tmp_path, Upright)
    assert post(app.test_client(), picture(80, 60)).json["state"] == "done" and not desk.bench.trouble
    desk.close()


def test_samples_carry_their_lens_and_open_with_a_success():
    from dogdepth.depth import MOTORCYCLE
    from dogdepth.rooms import render_room

    assert list(A.SAMPLES)[0] == "room" and list(A.SAMPLES)[-1] == "motorcycle"
    focal = {"room": render_room(28, 48, 64)["camera"].resize(480, 640).focal, "motorcycle": MOTORCYCLE["fx"]}
    for name in A.SAMPLES:
        meta, jpeg = uploads.clean_photo(A.sample_jpeg(name), Limits())
        assert meta["lens"] == ("exif" if name in focal else "assumed") and meta["notes"] == []
        assert name not in focal or meta["camera"]["fx"] == pytest.approx(focal[name], rel=1e-4)
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"\('(\w+)', w\.sample_", page) == list(A.SAMPLES)


@pytest.mark.slow
def test_the_first_sample_is_a_success():
    from dogdepth.predict import Predictor
    from dogdepth.rooms import render_room

    room = render_room(28, 480, 640)
    d = Predictor(device="cpu").predict(room["image"], room["camera"]).depth_m
    assert np.mean(np.abs(d - room["depth"]) / room["depth"]) < 0.08


def test_the_page_says_how_long_photos_stay(tmp_path):
    app, desk = opened(tmp_path, keep_s=420.0)
    assert "after 7 minutes" in app.test_client().get("/").text
    desk.close()


def test_a_dead_helper_has_no_pid():
    h = workers.Helper("set_up_decoder", asdict(Limits()))
    assert h.pid is None
    h.start()
    assert h.pid == h.process.pid
    os.kill(h.pid, signal.SIGKILL)
    h.process.wait()
    assert h.pid is None
    h.kill()
