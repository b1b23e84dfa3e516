"The site in a real browser: rooms drawn and turned, sliders, search, dark mode, the network in the page; no complaint, and nothing asked of anybody else."

import io
import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from sites import CHROME, FLAGS, ROOT, serve

WIDTHS = {
    "desktop": dict(viewport=dict(width=1280, height=900)),
    "phone": dict(viewport=dict(width=390, height=800), has_touch=True, is_mobile=True, device_scale_factor=1),
}
PAGES = sorted(
    [p.stem + ".html" for p in (ROOT / "nbs").glob("*.ipynb")]
    + [p.stem + ".html" for p in (ROOT / "nbs" / "workshop").glob("*.ipynb")]
    + [
        "try.html",
        "glossary.html",
        "experiments.html",
        "changelog.html",
        "api/index.html",
        "api/dog.html",
        "api/cloud.html",
    ]
)


class Visit:
    "A browser that keeps what it complains of and what it asks for."

    def __init__(self, chrome, address):
        self.chrome, self.address, self.said, self.asked = chrome, address, [], []

    def go(self, page, width="desktop", before=lambda p: None, **more):
        c = self.chrome.new_context(reduced_motion="reduce", **{**WIDTHS[width], **more})
        p = c.new_page()
        p.set_default_timeout(90_000)
        p.on(
            "console",
            lambda m: (
                self.said.append(m.text)
                if m.type in ("error", "warning")
                and not re.search("GPU stall|willReadFrequently|WebGL.*(fallback|deprecated)", m.text)
                else None
            ),
        )
        p.on("pageerror", lambda e: self.said.append(str(e)))
        p.on("requestfailed", lambda r: self.said.append(f"failed: {r.url}") if "search.json" not in r.url else None)
        p.on("request", lambda r: self.asked.append(r.url))
        before(p)
        p.goto(self.address + page, wait_until="domcontentloaded")
        p.wait_for_function("window.dogdepth")
        return p

    def done(self):
        assert not self.said, self.said
        assert self.asked and all(u.startswith((self.address, "blob:", "data:")) for u in self.asked), [
            u for u in self.asked if not u.startswith(self.address)
        ][:5]


@pytest.fixture(scope="module")
def engine():
    "Starts Chromium on a folder: `with engine(folder) as visit: ...`."
    if not CHROME:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    @contextmanager
    def start(folder, *flags):
        server, address = serve(folder)
        chromium = p.chromium.launch(executable_path=CHROME, args=[*FLAGS, *flags])
        yield Visit(chromium, address)
        chromium.close()
        server.shutdown()

    with sync_playwright() as p:
        yield start


@pytest.fixture(scope="module")
def chrome(engine, site):
    with engine(site) as v:
        yield v


@pytest.fixture
def visit(chrome):
    chrome.said.clear()
    chrome.asked.clear()
    yield chrome
    for c in chrome.chrome.contexts:
        c.close()
    chrome.done()


def pixels(page, selector):
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")).astype(int)


def drawn(page, k=0):
    "The k-th figure that turns, scrolled to and drawn."
    box = page.locator(".turn[data-figure]").nth(k)
    box.scroll_into_view_if_needed()
    page.wait_for_function("k => document.querySelectorAll('.turn[data-figure]')[k].classList.contains('drawn')", arg=k)
    page.wait_for_timeout(300)
    return box


def turns(page):
    "The first 3D view: many colours, other pixels after a drag and after a key, and back again by 0."
    box = drawn(
        page,
        page.evaluate(
            "[...document.querySelectorAll('.turn[data-figure]')].findIndex(b => b.classList.contains('solid'))"
        ),
    )
    shot = lambda: np.asarray(Image.open(io.BytesIO(box.locator(".plot").screenshot())).convert("RGB")).astype(int)
    first = shot()
    assert len(np.unique(first.reshape(-1, 3) // 16, axis=0)) > 20, "the view is empty"
    r = box.locator(".plot").bounding_box()
    x, y = r["x"] + r["width"] / 2, r["y"] + r["height"] / 2
    if page.evaluate("matchMedia('(pointer: coarse)').matches"):
        page.touchscreen.tap(x, y)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 12, steps=4)
    page.mouse.up()
    page.wait_for_timeout(600)
    second = shot()
    assert (np.abs(second - first).sum(2) > 60).mean() > 0.05, "a drag changes nothing"
    box.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(400)
    assert (np.abs(shot() - second).sum(2) > 60).mean() > 0.02, "a key changes nothing"
    page.keyboard.press("0")
    page.wait_for_timeout(600)
    assert page.evaluate(
        "(f => JSON.stringify(f.plotBox.layout.scene.camera.eye) === JSON.stringify(f.home.eye))(dogdepth.figures.find(f => f.solid))"
    ), "0 does not lead back"


# --- make test: one page of each kind


def test_first_page_turns_and_paints_before_plotly(visit):
    held = []
    p = visit.go("index.html", before=lambda p: p.route("**/plotly.min.js", lambda r: held.append(r)))
    p.wait_for_function(
        "document.querySelector('.turn img').complete && document.querySelector('.turn img').naturalWidth > 0"
    )
    a = pixels(p, ".turn[data-figure]")
    assert len(np.unique(a.reshape(-1, 3) // 16, axis=0)) > 50 and not p.query_selector(
        ".turn canvas"
    )  # the still, and nothing else yet
    assert p.locator(".turn").first.bounding_box()["y"] < 900  # begins in the first screen
    p.wait_for_timeout(200)
    for r in held:
        r.continue_()
    turns(p)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_screen_shows_a_room_and_both_doors(visit, width):
    p = visit.go("index.html", width)
    bottom = p.evaluate("innerHeight")
    for what in ("main img.figure", ".doors a >> nth=0", ".doors a >> nth=1"):
        box = p.locator(what).first.bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] <= bottom, what
    alt = p.locator("main img.figure").first.get_attribute("alt")
    assert "photograph" in alt and "depth" in alt and "Start the course" not in alt


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_chapters_can_be_read_and_reached_on_a_phone(visit, scheme):
    "The panel is solid, begins below the header, ends with the screen, and scrolls to its last entry."
    p = visit.go("03_dog.html", "phone", color_scheme=scheme)
    p.locator(".quarto-btn-toggle").click()
    p.wait_for_function("document.getElementById('quarto-sidebar').classList.contains('show')")
    p.wait_for_timeout(500)
    box, head, back, screen = (
        p.evaluate("""() => { const e = document.getElementById('quarto-sidebar'), r = e.getBoundingClientRect();
        return [[r.top, r.bottom], document.getElementById('quarto-header').getBoundingClientRect().bottom, getComputedStyle(e).backgroundColor, innerHeight]; }""")
    )
    assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", back), f"the panel lets the text through: {back}"
    assert head - 1 <= box[0] <= head + 2 and box[1] <= screen + 1
    last = p.locator("#quarto-sidebar a.sidebar-link").last
    last.scroll_into_view_if_needed()
    r = last.bounding_box()
    assert head <= r["y"] and r["y"] + r["height"] <= screen + 2
    assert p.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('#quarto-sidebar') !== null",
        [r["x"] + 10, r["y"] + r["height"] / 2],
    )


def test_sliders_move(visit):
    p = visit.go("turn.html")
    for k in range(p.locator(".turn[data-figure]").count()):
        box = p.locator(".turn[data-figure]").nth(k)
        if "solid" in box.get_attribute("class"):
            continue
        box = drawn(p, k)
        slider = box.locator("input[type=range]")
        assert slider.count() == 1 and p.locator(f"label[for='{slider.get_attribute('id')}']").inner_text()
        before, words = (
            np.asarray(Image.open(io.BytesIO(box.locator(".plot").screenshot())).convert("RGB")).astype(int),
            box.locator("output").inner_text(),
        )
        slider.focus()
        for _ in range(3):
            p.keyboard.press(
                "ArrowRight" if int(slider.input_value()) < int(slider.get_attribute("max")) - 2 or _ else "ArrowLeft"
            )
        p.keyboard.press("Home")
        p.wait_for_timeout(400)
        after = np.asarray(Image.open(io.BytesIO(box.locator(".plot").screenshot())).convert("RGB")).astype(int)
        if words == box.locator("output").inner_text():  # it began at the left
            p.keyboard.press("End")
            p.wait_for_timeout(400)
            after = np.asarray(Image.open(io.BytesIO(box.locator(".plot").screenshot())).convert("RGB")).astype(int)
        assert words != box.locator("output").inner_text() and (np.abs(after - before).sum(2) > 40).mean() > 0.002, (
            f"slider {k} moves nothing"
        )


def test_search_and_dark_mode_and_maths(visit):
    p = visit.go("00_depth.html")
    p.wait_for_selector(".math .katex")
    p.keyboard.press("/")
    p.keyboard.type("backproject", delay=10)
    p.wait_for_selector(".search-result")
    assert "backproject" in p.locator(".smalldocs-search-results").inner_text()
    p.keyboard.press("Escape")
    light = pixels(p, "body")[300, 5].sum()
    p.locator(".quarto-color-scheme-toggle").click()
    p.wait_for_timeout(300)
    assert light > 600 > 200 > pixels(p, "body")[300, 5].sum()
    p.goto(p.url.replace("00_depth", "glossary"), wait_until="domcontentloaded")  # the choice stays
    assert p.evaluate("document.documentElement.classList.contains('quarto-dark')")
    p.locator(".smalldocs-search input").fill("초점")
    p.wait_for_selector(".search-result")


def test_keyboard_alone_reaches_everything(visit):
    p = visit.go("14_cloud.html")
    p.keyboard.press("Tab")
    assert p.evaluate("document.activeElement.className") == "skip"
    p.keyboard.press("Enter")
    assert p.evaluate("document.activeElement.tagName") == "MAIN"
    seen = p.evaluate(
        """() => [...document.querySelectorAll('a, button, input, summary, select')].filter(e => e.checkVisibility() && e.tabIndex < 0).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert not seen, seen
    fold = p.locator("#quarto-sidebar a[data-bs-toggle=collapse]").first
    fold.focus()
    state = fold.get_attribute("aria-expanded")
    p.keyboard.press("Space")
    p.wait_for_timeout(500)
    assert fold.get_attribute("aria-expanded") != state


@pytest.mark.parametrize("kind", ["room", "noise"])
def test_the_filter_in_the_page_is_pythons(visit, kind):
    from dogdepth.dog import focus_scores, modified_dog, to_grey
    from dogdepth.rooms import render_room

    img = (
        render_room(5, 208, 368)["image"]
        if kind == "room"
        else np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)
    )
    p = visit.go("try.html")
    out = p.evaluate(
        """async ([rgb, h, w, sigmas]) => { const d = await import(dogdepth.root + 'site/depth.js'), g = d.toGrey(Uint8Array.from(rgb));
        return {grey: [...g], scores: d.focusScores(g, h, w), dog: [...d.modifiedDog(g, h, w)], fixed: sigmas.map(s => [...d.modifiedDog(g, h, w, s)])}; }""",
        [img.ravel().tolist(), *img.shape[:2], [2, 9.5, 40]],
    )
    assert out["grey"] == to_grey(img).ravel().tolist()
    assert np.allclose(out["scores"], focus_scores(img), rtol=1e-9)
    for js, py in [
        (out["dog"], modified_dog(img)),
        *zip(out["fixed"], (modified_dog(img, sigma=s) for s in (2, 9.5, 40))),
    ]:
        off = np.abs(np.array(js) - py.ravel().astype(int))
        assert (
            off.max() <= 2 and (off > 1).mean() < 0.001 and (off > 0).mean() < 0.05
        )  # each of Python's two blurs may be off by one


@pytest.mark.parametrize("size", [(100, 77), (48, 64), (31, 200)])
def test_resizing_in_the_page_is_opencvs(visit, size):
    import cv2

    a = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    area = size[0] <= 97 and size[1] <= 131
    p = visit.go("try.html")
    js = p.evaluate(
        "async ([a, h, w, area]) => [...(await import(dogdepth.root + 'site/depth.js')).resize(Uint8Array.from(a), 97, 131, h, w, 3, area)]",
        [a.ravel().tolist(), *size, area],
    )
    py = cv2.resize(a, size[::-1], interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    assert np.abs(np.array(js).reshape(*size, 3) - py).max() <= 1


def test_without_the_network_the_try_page_says_so(chrome):
    p = chrome.go("try.html")
    p.wait_for_function("/built without the network/.test(document.getElementById('try-say').textContent)")
    assert p.locator("#try button:not([disabled])").count() == p.locator("[data-act]").count()
    p.context.close()


# --- make test-all: every page, both widths; what is rare; the network


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_every_page(visit, page, width, tmp_path):
    "No complaint, nothing from outside (that is `visit`), no sideways scrolling; each figure drawn, in both colour schemes. Keeps a screenshot."
    p = visit.go(page, width, color_scheme="light" if width == "desktop" else "dark")
    for k in range(p.locator(".turn[data-figure]").count()):
        drawn(p, k)
    assert p.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), "the page scrolls sideways"
    broken = p.evaluate(
        """async () => { const bad = []; for (const i of document.images) { i.loading = 'eager'; try { await i.decode(); } catch { bad.push(i.src); } } return bad; }"""
    )
    assert not broken
    p.screenshot(path=tmp_path / f"{page.replace('/', '_')[:-5]}-{width}.png", full_page=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["index.html", "01_rooms.html", "02_nyu.html", "12_predict.html", "13_evaluate.html", "14_cloud.html"]
)
def test_views_turn_on_their_pages(visit, page):
    turns(visit.go(page))


@pytest.mark.slow
def test_views_turn_on_a_phone(visit):
    turns(visit.go("index.html", "phone"))


@pytest.mark.slow
def test_a_page_scrolls_past_a_view_that_nobody_chose(visit):
    p = visit.go("index.html")
    drawn(p)
    r = p.locator(".turn .plot").first.bounding_box()
    p.mouse.move(r["x"] + 200, r["y"] + 150)
    top = p.evaluate("scrollY")
    p.mouse.wheel(0, 300)
    p.wait_for_timeout(500)
    assert p.evaluate("scrollY") > top + 100


@pytest.mark.slow
def test_without_webgl_there_is_the_picture(engine, site):
    with engine(site, "--disable-gpu", "--disable-3d-apis") as visit:
        p = visit.go("index.html")
        p.wait_for_selector(".turn .note")
        assert (
            p.locator(".turn img").first.is_visible() and "still picture" in p.locator(".turn .note").first.inner_text()
        )


@pytest.mark.slow
def test_the_page_reads_without_script(engine, site):
    with engine(site) as visit:
        p = visit.chrome.new_context(java_script_enabled=False).new_page()
        p.goto(visit.address + "14_cloud.html")
        assert p.locator(".turn img").first.is_visible() and "Step into the picture" in p.inner_text("h1")


@pytest.mark.slow
def test_figures_turn_from_disk(engine, site):
    "Opened as a file, with no server at all."
    with engine(site) as visit:
        p = visit.chrome.new_context(reduced_motion="reduce").new_page()
        p.goto((site / "14_cloud.html").as_uri())
        p.locator(".turn[data-figure]").first.scroll_into_view_if_needed()
        p.wait_for_selector(".turn.drawn", timeout=90_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["motorcycle", "room"])
def test_the_network_in_the_page_answers_as_python(engine, whole_site, name):
    from dogdepth.depth import Camera
    from dogdepth.files import read_image
    from dogdepth.predict import Predictor

    about = json.loads((whole_site / "site/model/model.json").read_text())
    cam = next(s["camera"] for s in about["samples"] if s["name"] == name)
    img = read_image(whole_site / f"site/model/{name}.jpg")
    want = Predictor(device="cpu").predict(img, Camera(**cam)).depth_m
    with engine(whole_site) as visit:
        p = visit.go("try.html")
        p.wait_for_function("!document.querySelector('[data-sample]').disabled")
        p.click(f"[data-sample={name}]")
        p.wait_for_function("/looked at/.test(document.getElementById('try-say').textContent)", timeout=180_000)
        got = np.array(p.evaluate("[...dogdepthTry.now.metres]"), np.float32).reshape(want.shape)
        off = np.abs(got / want - 1)
        assert off.max() < 0.02 and np.median(off) < 0.005, (off.max(), np.median(off))
        ends = [
            float(p.inner_text(f"#try-{e}").split()[0]) for e in ("lo", "hi")
        ]  # one range everywhere: 2nd to 98th percentile of the prediction, through its own lens
        assert ends == pytest.approx(np.percentile(want, (2, 98)), rel=0.03)
        assert "known" in p.inner_text("#try-lens") and p.input_value("#try-fov") == str(
            round(np.degrees(2 * np.arctan(cam["width"] / 2 / cam["fx"])))
        )
        assert "AbsRel" in p.inner_text("#try-truth") and p.locator("#try-room").is_visible()
        room = pixels(p, "#try-room")
        assert len(np.unique(room.reshape(-1, 3) // 16, axis=0)) > 30
        p.locator("#try-room").focus()
        for _ in range(4):
            p.keyboard.press("ArrowRight")
        p.wait_for_timeout(500)
        assert (np.abs(pixels(p, "#try-room") - room).sum(2) > 60).mean() > 0.05
        p.locator("#try .probe").nth(1).focus()
        p.keyboard.press("ArrowRight")
        assert re.fullmatch(r"\d+\.\d\d m(, measured \d+\.\d\d m)?", p.inner_text("#try-reading"))
        p.fill("#try-fov", "90") if False else p.locator("#try-fov").evaluate(
            "e => { e.value = 90; e.dispatchEvent(new Event('input')); }"
        )
        fx = want.shape[1] / 2 / np.tan(np.pi / 4)
        got = np.array(p.evaluate("[...dogdepthTry.now.metres]"), np.float32).reshape(want.shape)
        assert np.abs(got / want / (fx / cam["fx"]) - 1).max() < 0.012  # another lens: depth goes with the focal length
        visit.done()


@pytest.mark.slow
def test_a_visitors_own_files(engine, whole_site, tmp_path):
    from skimage import data

    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray(data.coffee()).save(tmp_path / "coffee.jpg", exif=exif)
    Image.fromarray(data.coffee()).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "upright.png")
    (tmp_path / "words.txt").write_text("no picture")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "coffee.jpg").read_bytes()[:300])
    with engine(whole_site) as visit:
        p = visit.go("try.html", "phone")
        p.wait_for_function("!document.querySelector('#try-file').disabled")
        for name, says in (
            ("coffee.jpg", "looked at"),
            ("upright.png", "looked at"),
            ("words.txt", "not a picture"),
            ("torn.jpg", "cannot be read"),
        ):
            p.evaluate("document.getElementById('try-say').textContent = ''")
            p.set_input_files("#try-file", tmp_path / name)
            p.wait_for_function(
                "s => document.getElementById('try-say').textContent.includes(s)", arg=says, timeout=180_000
            )
            if name == "coffee.jpg":
                w, h = p.evaluate("[dogdepthTry.now.width, dogdepthTry.now.height]")
                assert np.isclose(p.evaluate("dogdepthTry.now.camera.fx"), 28 / 43.267 * np.hypot(w, h), rtol=1e-6)
                assert p.evaluate("dogdepthTry.now.size") == [224, 336] and "noted its lens" in p.inner_text(
                    "#try-lens"
                )
            if name == "upright.png":
                assert p.evaluate("dogdepthTry.now.size") == [336, 224] and "does not say" in p.inner_text("#try-lens")
        assert p.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
        visit.said = [s for s in visit.said if "picture" not in s]
        visit.done()
