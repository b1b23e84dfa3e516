"As a person would: a real browser opens the page, adds a photo, reads metres, turns the room, plays the video, takes the model along, deletes the photo."

import io
import shutil
import threading
import time

import numpy as np
import pytest
import trimesh
from PIL import Image
from skimage import data

from dogdepth.app import create_app, words
from dogdepth.server import make_server

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
    "--use-angle=swiftshader",
]
SIZES = {
    "desktop": dict(viewport=dict(width=1280, height=900), locale="en-US"),
    "phone": dict(
        viewport=dict(width=390, height=844),
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
        locale="ko-KR",
        color_scheme="dark",
    ),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    app = create_app(data_dir=tmp_path_factory.mktemp("browser"))
    server = make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    app.extensions["dogdepth"].warm()
    yield app, f"http://127.0.0.1:{server.effective_port}/"
    server.task_dispatcher.shutdown()
    app.extensions["dogdepth"].close()


@pytest.fixture
def visit(served, request):
    "A function that opens the page in a fresh browser of that size; its complaints are gathered, and none may be left."
    if not CHROME:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=CHROME, args=FLAGS)
        said, asked = [], []

        def go(size, **more):
            page = chrome.new_context(accept_downloads=True, **SIZES[size], **more).new_page()
            page.set_default_timeout(60_000)
            page.on(
                "console",
                lambda m: (
                    said.append(m.text)
                    if m.type in ("error", "warning")
                    and not any(q in m.text for q in ("GPU stall", "the server responded with a status of 400"))
                    else None
                ),
            )
            page.on("pageerror", lambda e: said.append(str(e)))
            page.on("request", lambda r: asked.append(r.url))
            page.goto(served[1])
            page.wait_for_selector("html[data-ready]")
            return page

        yield go
        chrome.close()
        assert not said, said
        assert asked and all(u.startswith((served[1], "blob:")) for u in asked), asked  # nothing from anywhere else


@pytest.fixture(scope="module")
def coffee(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "coffee.jpg"
    Image.fromarray(data.coffee()).save(path, quality=95)
    return path


def pixels(page, selector):
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_visit(served, visit, coffee, size, tmp_path):
    page, w = visit(size), words("ko" if size == "phone" else "en")
    assert page.inner_text("h1") == w["page"]["title"] and page.is_visible(".camera") == (size == "phone")
    page.emulate_media(reduced_motion="reduce")
    page.set_input_files("#file", coffee)
    page.wait_for_selector("#room[data-ready]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    # metres under the cursor: what the 16-bit file says there
    it = next(iter(served[0].extensions["dogdepth"].shelf.items.values()))
    depth = np.asarray(Image.open(it.folder / "depth.png")) / 1000
    box = page.locator("#probe").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    there = depth[
        int(0.4 * depth.shape[0]) - 2 : int(0.4 * depth.shape[0]) + 3,
        int(0.3 * depth.shape[1]) - 2 : int(0.3 * depth.shape[1]) + 3,
    ]
    read = float(page.inner_text("#reading").split()[0])
    assert there.min() - 0.006 <= read <= there.max() + 0.006
    page.focus("#probe")
    page.keyboard.press("Shift+ArrowRight")
    assert page.inner_text("#reading").endswith(" m")

    # the room: at first it is the photo; then it turns, by key and by drag, and comes back
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    photo, room = pixels(page, "#photo"), pixels(page, "#room")
    h, width = (min(a, b) for a, b in zip(photo.shape[:2], room.shape[:2]))
    inside = (slice(h // 8, -h // 8), slice(width // 8, -width // 8))
    assert np.median(np.abs(photo[:h, :width][inside] - room[:h, :width][inside])) < 14
    home = page.get_attribute("#room", "data-pose")
    page.focus("#room")
    for k in ("ArrowRight", "ArrowUp", "+", "d"):
        page.keyboard.press(k)
    page.wait_for_timeout(200)
    turned = page.get_attribute("#room", "data-pose")
    assert turned != home and np.abs(pixels(page, "#room") - room).mean() > 5
    box = page.locator("#room").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 110, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert page.get_attribute("#room", "data-pose") != turned
    page.click("[data-do=reset]")
    page.wait_for_function("home => document.getElementById('room').dataset.pose === home", arg=home)

    # depth in colour; the lens
    page.click("#show-depth")
    page.wait_for_timeout(500)
    assert np.abs(pixels(page, "#probe") - photo[: pixels(page, "#probe").shape[0]]).mean() > 20
    far = page.inner_text("#far")
    page.evaluate(
        "() => { const f = document.getElementById('fov'); f.value = 90; f.dispatchEvent(new Event('input')); f.dispatchEvent(new Event('change')); }"
    )
    page.wait_for_function("t => document.getElementById('far').textContent !== t", arg=far)
    assert page.inner_text("#fov-value") == "90°" and page.inner_text("#lens") == w["script"]["lens_given"]

    # take it along
    with page.expect_download() as d:
        page.click("[data-kind=glb] .get")
    d.value.save_as(tmp_path / "room.glb")
    assert d.value.suggested_filename == "room.glb" and len(trimesh.load(tmp_path / "room.glb").geometry)
    with page.expect_download() as d:
        page.click("[data-kind=depth] .get")
    d.value.save_as(tmp_path / "depth.png")
    assert np.asarray(Image.open(tmp_path / "depth.png")).dtype == np.uint16
    page.click("[data-kind=video] .get")
    page.wait_for_selector("#video:not([hidden])")
    page.wait_for_function("() => document.getElementById('video').currentTime > 0.3")
    assert page.evaluate("(v => v.videoWidth * v.videoHeight)(document.getElementById('video'))") > 250_000

    # a second visitor sees none of it; delete leaves nothing
    other = visit(size)
    assert other.locator(".thumb").count() == 0
    page.reload()
    page.wait_for_selector("#room[data-ready]")
    assert page.locator(".thumb").count() == 1
    page.click("#delete")
    page.wait_for_function("() => !document.querySelector('.thumb')")
    assert not page.is_visible("#stage")
    late = time.monotonic() + 10  # the picture goes from the page first, then from the server
    while served[0].extensions["dogdepth"].shelf.items:
        assert time.monotonic() < late, "deleted in the page, but not on the server"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_refusal_is_told(visit, tmp_path):
    (tmp_path / "notes.jpg").write_text("Dear diary")
    page = visit("desktop")
    page.set_input_files("#file", tmp_path / "notes.jpg")
    page.wait_for_selector("#alerts p")
    assert (
        "notes.jpg: " + words("en")["refused"]["not_a_photo"] in page.inner_text("#alerts")
        and page.locator(".thumb").count() == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_one_bad_photo_among_several_is_named_and_the_others_done(visit, coffee, tmp_path, size):
    "The complaint is where the person looks, names the file, survives its own pile, and goes with the next success."
    small = tmp_path / "IMG_0001.HEIC"
    Image.open(coffee).resize((300, 200)).save(small, "JPEG")
    (tmp_path / "notes.jpg").write_text("Dear diary")
    page = visit(size)
    page.set_input_files("#file", [small, tmp_path / "notes.jpg", coffee])
    page.wait_for_function(
        "() => document.querySelectorAll('.thumb').length === 2 && !document.querySelector('.dot, .sad')"
    )
    page.wait_for_selector("#room[data-ready]")
    page.wait_for_timeout(500)
    said = page.locator("#alerts p")
    assert said.count() == 1 and "notes.jpg: " in said.inner_text()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(300)
    box = said.bounding_box()
    assert (
        0 <= box["y"]
        and box["y"] + box["height"] <= page.viewport_size["height"]
        and 0 <= box["x"]
        and box["x"] + box["width"] <= page.viewport_size["width"]
    )
    page.set_input_files("#file", small)
    page.wait_for_function("() => document.querySelectorAll('.thumb').length === 3 && !document.querySelector('.dot')")
    page.wait_for_function("() => !document.querySelector('#alerts p')")


@pytest.mark.slow
def test_under_a_prefix_that_nobody_told(served, coffee):
    "A proxy that strips a folder and says nothing of it: the page's addresses are relative, so all of it works."
    if not CHROME:
        pytest.skip("no Chromium here: apt-get install chromium")
    from http.client import HTTPConnection
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from playwright.sync_api import sync_playwright

    strays = []

    class Proxy(BaseHTTPRequestHandler):
        def forward(self):
            if not self.path.startswith("/depth/"):
                strays.append(self.path)
                return self.send_error(404)
            c = HTTPConnection("127.0.0.1", int(served[1].rsplit(":", 1)[1].strip("/")))
            c.request(
                self.command,
                self.path.removeprefix("/depth"),
                self.rfile.read(int(self.headers.get("Content-Length", 0))) or None,
                dict(self.headers),
            )
            r = c.getresponse()
            body = r.read()
            self.send_response(r.status)
            for k, v in r.getheaders():
                if k.lower() not in ("transfer-encoding", "connection", "content-length", "date"):
                    self.send_header(k, v)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = forward
        log_message = lambda *a: None

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        chrome = p.chromium.launch(executable_path=CHROME, args=FLAGS)
        page = chrome.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{proxy.server_address[1]}/depth/")
        page.wait_for_selector("html[data-ready]")
        page.click("[data-sample=room]")
        page.wait_for_selector("#room[data-ready]")
        with page.expect_download():
            page.click("[data-kind=ply] .get")
        chrome.close()
    proxy.shutdown()
    assert not [s for s in strays if s != "/favicon.ico"], strays


@pytest.mark.slow
def test_drop_paste_and_sample(visit, coffee):
    page = visit("desktop")
    put = """([how, bytes]) => { const t = new DataTransfer(); t.items.add(new File([Uint8Array.from(bytes)], 'p.jpg', {type: 'image/jpeg'}));
             const e = how === 'drop' ? new DragEvent('drop', {dataTransfer: t, bubbles: true, cancelable: true}) : new ClipboardEvent('paste', {clipboardData: t, bubbles: true, cancelable: true}); document.body.dispatchEvent(e); }"""
    small = io.BytesIO()
    Image.open(coffee).resize((300, 200)).save(small, "JPEG")
    for k, how in enumerate(("drop", "paste"), 1):
        page.evaluate(put, [how, list(small.getvalue())])
        page.wait_for_function(f"() => document.querySelectorAll('.thumb').length === {k}")
    page.click("[data-sample=motorcycle]")
    page.wait_for_function("() => document.querySelectorAll('.thumb').length === 3 && !document.querySelector('.dot')")
    page.wait_for_function("() => document.getElementById('photo').naturalWidth === 741")
    assert (
        page.inner_text("#fov-value") == "41°" and page.inner_text("#lens") == words("en")["script"]["lens_exif"]
    )  # it brings its own lens
    page.locator(".thumb").first.click()
    page.wait_for_function("() => document.getElementById('photo').naturalWidth === 300")
    for _ in range(3):
        page.click("#delete")
        page.wait_for_timeout(300)
    assert page.locator(".thumb").count() == 0


@pytest.mark.slow
def test_keyboard_alone(visit):
    "Tab reaches everything in the order it stands on the page, and Enter works it."
    page = visit("desktop")
    page.focus("[data-sample=room]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#room[data-ready]")
    for _ in range(3):
        page.keyboard.press("Tab")
    seen = []
    for _ in range(18):
        seen.append(
            page.evaluate(
                "() => document.activeElement.id || document.activeElement.dataset.do || document.activeElement.closest('[data-kind]')?.dataset.kind || document.activeElement.className"
            )
        )
        page.keyboard.press("Tab")
    want = [
        "thumb",
        "probe",
        "show-photo",
        "show-depth",
        "room",
        "sway",
        "in",
        "out",
        "reset",
        "fov",
        "delete",
        "glb",
        "ply",
        "depth",
        "video",
    ]
    assert [s for s in seen if s in want] == want, seen
    page.focus("#delete")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('.thumb')")
    assert page.evaluate("() => document.activeElement.id") == "file"


@pytest.mark.slow
def test_the_room_is_there_within_a_second_or_so(visit, coffee, capsys, record_property):
    "From the click that sends a photo until its room is painted, by the browser's own clock; the first one, which compiles shaders, is left out."
    page, took = visit("desktop"), []
    page.emulate_media(reduced_motion="reduce")  # no sway: here a processor draws it, which is busy enough
    for k in range(6):
        page.set_input_files("#file", coffee)
        page.wait_for_function(f"() => performance.getEntriesByName('room').length === {k + 1}")
        took.append(page.evaluate("() => performance.getEntriesByName('room').at(-1).duration") / 1000)
    median = float(np.median(took[1:]))
    record_property("photo to room", f"{median:.2f} s")
    with capsys.disabled():
        print(f"\n  photo sent until the room is painted: median of {len(took) - 1}: {median:.2f} s", end="")
    assert median < 4  # a machine that does other work too; see results/app.csv for a quiet one
