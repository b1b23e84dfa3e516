"Files that mean harm: a few hundred in make test, ten thousand in make test-all. Each is refused with a plain sentence, or becomes a harmless photo; the server stays up and small."

import io
import os
import random
import re
import struct
import time
import zlib
from collections import Counter

import numpy as np
import psutil
import pytest
from app_fakes import Slope
from PIL import Image

from dogdepth.app import Limits, create_app

GROWTH_MB = 200  # of the server's process, however many files come; the processes that decode have a hard cap of their own (Limits.memory_mb)


def jpeg(rng, h=72, w=96, **how):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (h // 8, w // 8, 3), np.uint8)).resize(
        (w, h)
    ).save(out, "JPEG", **how)
    return out.getvalue()


def png(rng, **how):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg(rng))).save(out, "PNG", **how)
    return out.getvalue()


def webp(rng):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg(rng))).save(out, "WEBP")
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def any_photo(rng):
    return rng.choice([jpeg, png, webp])(rng)


# Each takes a random.Random and gives (bytes, file name, declared type).
def flipped(rng):
    d = bytearray(any_photo(rng))
    for _ in range(rng.randint(1, 40)):
        d[rng.randrange(len(d))] ^= 1 << rng.randrange(8)
    return bytes(d), "a.jpg", "image/jpeg"


def cut(rng):
    d = any_photo(rng)
    return d[: rng.randrange(len(d))], "a.jpg", "image/jpeg"


def shuffled(rng):
    d = any_photo(rng)
    a, b = sorted(rng.randrange(len(d)) for _ in range(2))
    return d[:a] + d[b:] + d[a:b], "a.png", "image/png"


def noise(rng):
    return rng.randbytes(rng.randrange(1, 5000)), "a.jpg", "image/jpeg"


def noise_with_a_head(rng):
    return (
        rng.choice(
            [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"RIFF\xff\xff\xff\xffWEBPVP8L"]
        )
        + rng.randbytes(rng.randrange(1, 3000)),
        "a.jpg",
        "image/jpeg",
    )


def huge_header(rng):
    w, h = rng.choice([(2**31 - 1, 2**31 - 1), (65535, 65535), (1, 2**30), (20000, 20000), (0, 0), (2**31 - 1, 1)])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, rng.choice([0, 2, 3, 4, 6]), 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b""),
        "a.png",
        "image/png",
    )


def bomb(rng):
    n = rng.choice([8000, 9000, 12000])
    lines = zlib.compressobj(9)
    packed = b"".join(lines.compress(bytes(1 + n // 8)) for _ in range(n)) + lines.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b""),
        "a.png",
        "image/png",
    )


def text_bomb(rng):
    return (
        png(rng)[:33]
        + chunk(rng.choice([b"zTXt", b"iTXt", b"iCCP"]), b"a\0\0" + zlib.compress(bytes(3_000_000)))
        + png(rng)[33:],
        "a.png",
        "image/png",
    )


def frame_bomb(rng):
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), (k, 0, 0)) for k in range(0, 60, 2)]
    frames[0].save(out, rng.choice(["PNG", "WEBP"]), save_all=True, append_images=frames[1:])
    return out.getvalue(), "a.png", "image/png"


def scan_bomb(rng):
    d = jpeg(rng, progressive=True)
    at = d.find(b"\xff\xda")
    return d[:at] + d[at:-2] * rng.randint(2, 60) + b"\xff\xd9", "a.jpg", "image/jpeg"


def svg(rng):
    return (
        rng.choice([b"", b"\xef\xbb\xbf", b"\n\n  "])
        + b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>',
        rng.choice(["a.svg", "a.png"]),
        rng.choice(["image/svg+xml", "image/png"]),
    )


def xxe(rng):
    return (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
        "a.svg",
        "image/svg+xml",
    )


def page_in_comment(rng):
    return jpeg(rng, comment=b"<script>alert(document.cookie)</script>"), rng.choice(["a.jpg", "a.html"]), "image/jpeg"


def php_in_exif(rng):
    e = Image.Exif()
    e[0x010E] = "<?php system($_GET['c']); ?>"
    return jpeg(rng, exif=e), rng.choice(["a.jpg", "a.php", "a.jpg.php", "a.php.jpg"]), "image/jpeg"


def archive_behind(rng):
    import zipfile

    out = io.BytesIO(any_photo(rng))
    with zipfile.ZipFile(out, "a") as z:
        z.writestr("../../evil.sh", "rm -rf ~")
    return out.getvalue(), "a.jpg", "image/jpeg"


def pdf_inside(rng):
    return any_photo(rng)[:20] + b"%PDF-1.7\n" + rng.randbytes(200), "a.jpg", "image/jpeg"


def gif_first(rng):
    return (
        b"GIF89a/*" + rng.randbytes(100) + b"*/=1;alert(1)//" + jpeg(rng),
        "a.gif",
        rng.choice(["image/gif", "image/jpeg"]),
    )


def appended(rng):
    return (
        any_photo(rng) + rng.randbytes(rng.randrange(1, 20000)),
        "a.jpg",
        "image/jpeg",
    )  # phones do this too: a harmless photo


def other_kinds(rng):
    out = io.BytesIO()
    Image.open(io.BytesIO(jpeg(rng))).save(out, rng.choice(["BMP", "TIFF", "GIF", "PPM", "ICO", "TGA", "PDF"]))
    return out.getvalue(), "a.jpg", "image/jpeg"


def broken_exif(rng):
    d = jpeg(rng, exif=Image.Exif())
    junk = b"Exif\0\0" + rng.choice([b"II*\0", b"MM\0*", b"XX"]) + rng.randbytes(rng.randrange(0, 400))
    return d[:2] + b"\xff\xe1" + struct.pack(">H", len(junk) + 2) + junk + d[2:], "a.jpg", "image/jpeg"


def lying_exif(rng):
    e = Image.Exif()
    e[0x0112] = rng.choice([0, 9, 65535, 6])
    e.get_ifd(0x8769).update({0xA405: rng.choice([0, 65535, 1]), 0xA002: 2**31, 0x920A: rng.choice([0.0, 1e9])})
    return jpeg(rng, exif=e), "a.jpg", "image/jpeg"


def odd_shape(rng):
    w, h = rng.choice([(1, 1), (31, 31), (2000, 32), (32, 2000), (8, 9)])
    return jpeg(rng, max(8, h), max(8, w)) if min(w, h) > 8 else png_of(Image.new("RGB", (w, h))), "a.jpg", "image/jpeg"


def png_of(im):
    out = io.BytesIO()
    im.save(out, "PNG")
    return out.getvalue()


def odd_mode(rng):
    mode = rng.choice(["1", "L", "LA", "P", "I;16", "RGBA"])
    return png_of(Image.new(mode, (64, 48))), "a.png", "image/png"


def path_in_name(rng):
    name = rng.choice(
        [
            "../../../etc/passwd",
            "..\\..\\windows\\win.ini",
            "/etc/passwd",
            "a/../../b.jpg",
            "%2e%2e%2fb.jpg",
            "b.jpg\0.php",
            "CON",
            ".",
            "..",
            "a" * 3000 + ".jpg",
            "\u202egpj.exe",
            "; rm -rf ~;.jpg",
            "$(id).jpg",
        ]
    )
    return any_photo(rng), name, "image/jpeg"


def false_type(rng):
    return (
        any_photo(rng),
        "a.jpg",
        rng.choice(
            [
                "text/html",
                "application/javascript",
                "image/svg+xml",
                "multipart/form-data",
                "x",
                "image/jpeg; charset=x",
            ]
        ),
    )


def bad_checksum(rng):
    d = bytearray(png(rng))
    at = d.find(b"IDAT")
    d[at + 4 + rng.randrange(20)] ^= 255
    return bytes(d), "a.png", "image/png"


def riff_length(rng):
    d = bytearray(webp(rng))
    d[4:8] = struct.pack("<I", rng.choice([0, 1, 2**32 - 1, len(d) * 3]))
    return bytes(d), "a.webp", "image/webp"


def nothing(rng):
    return (
        rng.choice([b"", b"\0", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", bytes(2000)]),
        "a.jpg",
        "image/jpeg",
    )


def harmless(rng):
    return any_photo(rng), "a.jpg", "image/jpeg"


MUTATORS = [
    flipped,
    cut,
    shuffled,
    noise,
    noise_with_a_head,
    huge_header,
    bomb,
    text_bomb,
    frame_bomb,
    scan_bomb,
    svg,
    xxe,
    page_in_comment,
    php_in_exif,
    archive_behind,
    pdf_inside,
    gif_first,
    appended,
    other_kinds,
    broken_exif,
    lying_exif,
    odd_shape,
    odd_mode,
    path_in_name,
    false_type,
    bad_checksum,
    riff_length,
    nothing,
]
ALWAYS_REFUSED = {
    noise,
    huge_header,
    bomb,
    svg,
    xxe,
    page_in_comment,
    php_in_exif,
    archive_behind,
    pdf_inside,
    gif_first,
    other_kinds,
    odd_shape,
    nothing,
}


def memory(pids):
    return sum(psutil.Process(p).memory_info().rss for p in pids) / 1e6


def attack(n, tmp_path, record):
    "Send `n` files; who was refused with what, and how large the processes became."
    app = create_app(Slope(), tmp_path, Limits(photos=10**6, all_photos=10**6, jobs=10**6, queue=10**6), decoders=2)
    desk, client, rng = app.extensions["dogdepth"], app.test_client(), random.Random(7)
    first = client.post("/api/predict?wait=20", data={"photo": (io.BytesIO(jpeg(rng)), "a.jpg")}).json
    key = {"Authorization": "Bearer " + first["key"]}
    counts, slowest, peak, bombs = {m.__name__: Counter() for m in (*MUTATORS, harmless)}, (0, ""), 0, {}
    for k in range(n):
        m = harmless if k % 50 == 49 else MUTATORS[k % len(MUTATORS)]
        data, name, kind = (
            bombs.setdefault(k % 3, m(rng)) if m is bomb else m(rng)
        )  # a bomb takes long to make and is the same each time
        t = time.monotonic()
        r = client.post("/api/predict", data={"photo": (io.BytesIO(data), name, kind)}, headers=key)
        slowest = max(slowest, (time.monotonic() - t, m.__name__))
        counts[m.__name__][r.status_code] += 1
        assert r.status_code in (200, 202, 400, 413, 415, 422), (m.__name__, r.status_code, r.text)
        if r.status_code >= 400:
            assert (
                10 < len(r.json["message"]) < 160
                and r.json["message"].endswith(".")
                and "{" not in r.json["message"]
                and not re.search(r"Traceback|/\w+/", r.json["message"])
            )
        else:
            assert m not in ALWAYS_REFUSED, (m.__name__, r.json)
            photo = client.get(r.json["files"]["photo"]["url"], headers=key).data
            im = Image.open(io.BytesIO(photo))
            assert (
                im.format == "JPEG"
                and max(im.size) <= 1280
                and not im.getexif()
                and "comment" not in im.info
                and not re.search(rb"<script|<\?php|passwd", photo)
            )
            client.delete(f"/api/items/{r.json['id']}", headers=key)
        if m is harmless:
            assert r.status_code in (200, 202)
        if k == min(200, n // 2):
            start = memory([os.getpid()])
        if k % 20 == 0:
            peak = max(peak, *(memory([h.pid]) for h in desk.decoders.queue if h.pid), 0)
    end = memory([os.getpid()])
    total = sum(counts.values(), Counter())
    record("files", n)
    record("statuses", dict(sorted(total.items())))
    record("by mutator", {k: dict(sorted(v.items())) for k, v in counts.items()})
    record("server grew by MB", round(end - start, 1))
    record("largest decoder MB", round(peak))
    record("slowest", f"{slowest[0]:.2f} s ({slowest[1]})")
    assert end - start < GROWTH_MB and peak < Limits().memory_mb
    assert total[422] and total[400] and total[415] and total[413]
    wait = time.monotonic() + 20
    while (
        list((desk.shelf.root / "scratch").iterdir()) and time.monotonic() < wait
    ):  # the last job may still be writing
        time.sleep(0.05)
    names = [p.name for p in desk.shelf.root.rglob("*")]
    assert all(re.fullmatch(r"[0-9a-f]{32}|scratch|\.lock|photo\.jpg|grid|depth\.png|tmp\w+", x) for x in names), names
    desk.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def record(record_property, capsys):
    def tell(name, value):
        record_property(name, str(value))
        with capsys.disabled():
            print(f"\n  hostile uploads: {name}: {value}", end="")

    return tell


def test_at_least_twenty_ways_to_do_harm():
    assert len(MUTATORS) == len({m.__name__ for m in MUTATORS}) >= 20
    rng = random.Random(1)
    for m in MUTATORS:
        data, name, kind = m(rng)
        assert isinstance(data, bytes) and isinstance(name, str) and isinstance(kind, str)


def test_hostile_uploads(tmp_path, record):
    attack(336, tmp_path, record)


@pytest.mark.slow
def test_ten_thousand_hostile_uploads(tmp_path, record):
    attack(10_000, tmp_path, record)
