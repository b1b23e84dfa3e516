"The demo: its sample photos, the numbers it prints, and a page that is whole without a network."

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

import dogdepth.demo as demo
from dogdepth.cli import main
from dogdepth.demo import ASSETS, colour_bar, demo_page, errors, painted
from dogdepth.depth import Camera, read_depth
from dogdepth.metrics import depth_metrics
from dogdepth.outputs import depth_range
from dogdepth.predict import Prediction
from dogdepth.rooms import render_room
from dogdepth.samples import demo_items, sample_photos, span_m

pytestmark = pytest.mark.data  # with real data the demo shows NYU frames too


def shown(item, factor=1.0):
    "What a network would say that is wrong by one factor."
    depth = item["depth"] if item["depth"] is not None else np.full(item["image"].shape[:2], 2, np.float32)
    depth = np.where(depth > 0, depth, 1).astype(np.float32) * np.float32(factor)
    return item, Prediction(depth, item["camera"], item["image"]), 0.123


@pytest.fixture(scope="module")
def samples():
    return sample_photos()


@pytest.fixture(scope="module")
def page(samples, tmp_path_factory):
    "The page for the samples, every depth 10 % too far; a name that needs escaping too."
    out = tmp_path_factory.mktemp("demo")
    odd = render_room(1, 48, 64) | dict(name="odd", about='5 < 6 & "so on"', alt='a "room"', truth="the renderer")
    demo_page(out, [shown(i, 1.1) for i in [*samples, odd]], note="Weights: none.")
    return out


class Page(HTMLParser):
    "Tags with their attributes, ids, and the text of each script."

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.scripts, self.crossed = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


@pytest.fixture(scope="module")
def html(page):
    return Page((page / "index.html").read_text(encoding="utf-8"))


# --- samples


def test_motorcycle_depth_is_that_of_the_rig(samples):
    "Against the published formula, written once more by hand for two pixels."
    from skimage.data import stereo_motorcycle

    disp, moto = stereo_motorcycle()[2], samples[-1]
    for v, u in ((250, 400), (450, 300)):
        assert moto["published"][v, u] == pytest.approx(994.978 * 0.193001 / (float(disp[v, u]) + 31.086), rel=1e-5)
    known = moto["published"] > 0
    assert (known == np.isfinite(disp)).all() and 0.92 < known.mean() < 0.94
    assert np.median(moto["published"][known]) == pytest.approx(2.75, abs=0.01) and moto["published"].max() < 5.1
    assert moto["camera"] == Camera(994.978, 994.978, 311.193, 254.877, 500, 741)


def test_the_motorcycle_s_truth_is_as_long_as_its_maker_says(samples):
    "One factor, and it is that of 14_cloud: both lengths measured there come out right."
    moto = samples[-1]
    measured = {
        ab: span_m(moto["depth"], moto["camera"], *ab) for ab in (((205, 335), (583, 383)), ((195, 245), (210, 396)))
    }
    assert list(measured.values()) == pytest.approx([1.445, 0.64], rel=0.01)
    ratio = moto["depth"][moto["depth"] > 0] / moto["published"][moto["depth"] > 0]
    assert ratio.std() < 1e-6 and ratio.mean() == pytest.approx(1 / 0.637, abs=2e-3)


def test_the_demo_opens_with_a_success_and_fails_last(samples, page, html):
    "A drawn room first; the motorcycle last, and its heading says what it is there for."
    assert samples[0]["truth"] == "the renderer" and samples[0]["depth"] is not None
    text = (page / "index.html").read_text(encoding="utf-8")
    heads = re.findall(r'<h2 id="([\w-]+)-title">(.*?)</h2>', text)
    assert (
        heads[0] == ("room", "Room")
        and dict(heads)["motorcycle"] == "Motorcycle: where it fails, and whose fault it is"
    )
    assert text.count("AbsRel by the published scale") == 1


@pytest.mark.slow
def test_the_default_weights_do_well_on_the_drawn_rooms(samples):
    from dogdepth.predict import Predictor

    model = Predictor()
    for s in samples[:2]:
        assert errors(model.predict(s["image"], s["camera"]).depth_m, s["depth"])["abs_rel"] < 0.08
    moto = samples[-1]
    r = model.predict(moto["image"], moto["camera"]).depth_m
    assert errors(r, moto["depth"])["abs_rel"] < 0.2 < 0.4 < errors(r, moto["published"])["abs_rel"]


def test_one_range_of_depth_on_the_whole_page(samples, page):
    text = (page / "index.html").read_text(encoding="utf-8")
    for row, section, s in zip(
        re.findall(r'<tr><th scope="row">.*?</tr>', text),
        re.findall(r'<section class="photo".*?</section>', text, re.S),
        samples,
    ):
        lo, hi = depth_range(shown(s, 1.1)[1].depth_m)
        assert f"<td>{lo:.1f} to {hi:.1f} m</td>" in row
        bars = re.findall(r"<b>([\d.]+) m</b><b></b><b>([\d.]+) m</b>", section)
        assert bars and set(bars) == {(f"{lo:.1f}", f"{hi:.1f}")}
        assert f"{lo:.1f} to {hi:.1f} metres" in section


def test_samples_are_items(samples):
    assert [s["name"] for s in samples] == ["room", "kitchen", "astronaut", "motorcycle"]
    for s in samples:
        assert s["image"].dtype == np.uint8 and s["image"].shape == (s["camera"].height, s["camera"].width, 3)
        assert (s["depth"] is None) == (s["name"] == "astronaut") and s["alt"] and s["about"]


def test_nyu_frames_come_along_where_there_is_data(data):
    items = demo_items()
    assert (
        [i["truth"] for i in items[3:5]] == ["a Kinect"] * 2
        and all(i["depth"].shape == (480, 640) for i in items[3:5])
        and items[-1]["name"] == "motorcycle"
    )
    names = [i["name"] for i in items]
    assert len(set(names)) == 6 and all(re.fullmatch(r"[\w-]+", n) for n in names)


def test_without_data_four_photos(monkeypatch):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    assert [i["name"] for i in demo_items()] == ["room", "kitchen", "astronaut", "motorcycle"]


def test_data_folder_without_nyu_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DOGDEPTH_DATA", str(tmp_path))
    assert len(demo_items()) == 4 and "no NYU frames" in capsys.readouterr().out


# --- numbers


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.1, 1.5])
def test_errors_of_one_factor(samples, factor):
    t = samples[0]["depth"]
    e = errors(t * np.float32(factor), t)
    assert (
        e["abs_rel"] == pytest.approx(abs(factor - 1), abs=1e-3) or t.max() * factor > 10
    )  # the cap clips what is beyond
    assert e["median_m"] == pytest.approx(abs(factor - 1) * np.median(t[45:471, 41:601]), abs=2e-3)
    assert e["scaled_abs_rel"] == pytest.approx(0, abs=1e-3) and e["known"] == 1


def test_errors_agree_with_the_metrics_and_skip_holes(samples):
    rng = np.random.default_rng(0)
    t = samples[-1]["depth"]
    p = np.where(t > 0, t, 9).astype(np.float32) * rng.uniform(0.7, 1.4, t.shape).astype(np.float32)
    e, m = errors(p, t), depth_metrics(p, t)
    assert (e["abs_rel"], e["rmse"], e["delta1"]) == (m["abs_rel"], m["rmse"], m["delta1"])
    assert e["median_m"] == pytest.approx(np.median(np.abs(p - t)[t > 0])) and e["known"] == pytest.approx(
        (t > 0).mean()
    )
    assert errors(p, None) == {}


def test_painted():
    x = np.array([[0.0, 1.0, 2.0, np.nan, -5.0, 9.0]])
    c = painted(x, 0, 2)
    from matplotlib import colormaps

    for k, v in ((0, 0.0), (1, 0.5), (2, 1.0), (4, 0.0), (5, 1.0)):
        assert np.abs(c[0, k] - np.array(colormaps["turbo"](v)[:3]) * 255).max() <= 0.5
    assert c[0, 3].tolist() == [153] * 3
    assert painted(np.ones((2, 2)), 1, 1).shape == (2, 2, 3)  # no range at all


def test_colour_bar_has_the_ends_of_the_map():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    bar = colour_bar("1 m", "4 m")
    assert (
        bar.index(to_hex(colormaps["turbo"](0.0))) < bar.index(to_hex(colormaps["turbo"](1.0)))
        and "<b>1 m</b>" in bar
        and "<b>4 m</b>" in bar
    )


# --- the page


def test_page_is_well_formed(html):
    assert not html.crossed and not html.open
    ids = [a["id"] for _, a in html.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {"motorcycle", "astronaut", "kitchen", "room", "odd"} <= set(ids)
    assert html.all("html")[0]["lang"] == "en" and any(m.get("name") == "viewport" for m in html.all("meta"))
    assert {a["href"][1:] for a in html.all("a") if a["href"].startswith("#")} <= set(ids)


def test_page_asks_nothing_of_the_network(page, html):
    for tag, a in html.tags:
        for key in ("src", "href"):
            link = a.get(key, "")
            assert not re.match(r"(?:https?:)?//", link), (tag, link)
            if link and not link.startswith(("#", "data:")):
                assert (page / link).is_file() and (page / link).stat().st_size, link
    text = (page / "index.html").read_text(encoding="utf-8")
    assert not re.search(
        r"url\(|@import|fetch\(|XMLHttpRequest|import\s*\(",
        re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.S),
    )
    import plotly

    assert (page / "plotly.min.js").read_bytes() == (
        Path(plotly.__file__).parent / "package_data/plotly.min.js"
    ).read_bytes()


def test_every_file_written_is_used_by_the_page(page, html):
    linked = {a.get(k) for _, a in html.tags for k in ("src", "href")}
    assert {p.name for p in page.iterdir()} - linked == {"index.html"}


def test_page_can_be_used_without_eyes_or_mouse(html):
    assert all(i.get("alt", "").strip() and int(i["width"]) > 0 and int(i["height"]) > 0 for i in html.all("img"))
    reach = [a for _, a in html.tags if a.get("class") in ("probe", "room", "scroll")]
    assert len(reach) == 5 * 3 + 1 and all(a["tabindex"] == "0" and a["aria-label"] and a["role"] for a in reach)
    assert [b["data-do"] for b in html.all("button")] == ["swing", "in", "out", "reset"] * 5
    assert all(b["type"] == "button" for b in html.all("button"))
    assert len([a for t, a in html.tags if t == "output" and a.get("aria-live") == "polite"]) == 5


def test_style_knows_dark_mode_phones_and_reduced_motion():
    css = (ASSETS / "demo.css").read_text()
    assert all(
        q in css for q in ("prefers-color-scheme: dark", "max-width:560px", "prefers-reduced-motion", ":focus-visible")
    )
    assert css.count("{") == css.count("}")
    used = set(re.findall(r"var\((--[a-z]+)", css)) - {"--x", "--y", "--seen"}
    assert used <= set(re.findall(r"(--[a-z]+):", css))


def luminance(colour):
    c = colour if len(colour) == 7 else "#" + "".join(2 * x for x in colour[1:])
    v = [int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4) for w, x in zip((0.2126, 0.7152, 0.0722), v)
    )


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_readable(dark):
    "Contrast of at least 4.5 : 1 (WCAG 2.2, 1.4.3) for each text colour on each ground."
    css = (ASSETS / "demo.css").read_text()
    roots = re.findall(r":root \{([^}]*)\}", css)
    colours = dict(re.findall(r"--(\w+):(#\w+)", roots[0])) | (
        dict(re.findall(r"--(\w+):(#\w+)", roots[1])) if dark else {}
    )
    for ground in ("bg", "card"):
        for ink in ("ink", "soft", "accent"):
            a, b = sorted((luminance(colours[ground]), luminance(colours[ink])), reverse=True)
            assert (a + 0.05) / (b + 0.05) >= 4.5, (ground, ink)


def test_rooms_in_the_page_are_figures(html, samples):
    figures = [json.loads(s) for a, s in html.scripts if a.get("class") == "room-data"]
    assert len(figures) == 5
    for fig in figures:
        assert fig["data"][0]["type"] == "scatter3d" and len(json.dumps(fig)) < 600_000
        assert {"eye", "center", "up"} <= set(fig["layout"]["scene"]["camera"])


def test_the_cross_reads_the_depth_that_was_found(html, samples):
    grids = [json.loads(s) for a, s in html.scripts if a.get("class") == "depth-data"]
    for item, g in zip(samples, grids):
        depth = shown(item, 1.1)[1].depth_m
        mm = np.frombuffer(base64.b64decode(g["mm"]), "<u2").reshape(g["height"], g["width"])
        assert max(mm.shape) <= 160
        h, w = depth.shape
        for i, j in (
            (0, 0),
            (g["height"] // 2, g["width"] // 3),
            (g["height"] - 1, g["width"] - 1),
        ):  # the pixel of the photo under the cell's middle, one cell of slack
            y, x, s = (i + 0.5) / g["height"] * h, (j + 0.5) / g["width"] * w, -(-max(h, w) // 160) + 1
            near = depth[max(0, int(y) - s) : int(y) + s + 1, max(0, int(x) - s) : int(x) + s + 1] * 1000
            assert near.min() - 1 <= mm[i, j] <= near.max() + 1


def test_numbers_on_the_page(page, samples):
    text = (page / "index.html").read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', text)
    assert len(rows) == 5 and "0.12 s" in rows[3] and "741 &times; 500" in rows[3]
    e = errors(shown(samples[3], 1.1)[1].depth_m, samples[3]["depth"])
    assert f"<td>{e['abs_rel']:.3f}</td>" in rows[3] and f"<td>{e['median_m']:.2f} m</td>" in rows[3]
    assert rows[2].count("&ndash;") == 2
    assert text.count("<dt>AbsRel</dt>") == 4
    published = errors(shown(samples[3], 1.1)[1].depth_m, samples[3]["published"])["abs_rel"]
    assert f"<dt>AbsRel by the published scale</dt><dd>{published:.3f}</dd>" in text


def test_text_is_escaped_and_nothing_left_to_fill(page):
    text = (page / "index.html").read_text(encoding="utf-8")
    assert "5 &lt; 6 &amp; &quot;so on&quot;" in text
    assert not re.search(r"\$[a-z_]+\b", re.sub(r"<script.*?</script>", "", text, flags=re.S))


def test_pictures_are_what_they_say(page, samples):
    photo = cv2.imread(str(page / "room_page.jpg"))[..., ::-1].astype(int)
    assert photo.shape == samples[0]["image"].shape and np.abs(photo - samples[0]["image"]).mean() < 4
    assert np.abs(read_depth(page / "room_depth.png") - samples[0]["depth"] * np.float32(1.1)).max() < 6e-4
    error = cv2.imread(str(page / "room_error_page.png"))[..., ::-1]
    want = painted(np.array([[0.1]]), -0.5, 0.5, "RdBu_r")[0, 0].astype(int)  # 10 % too far everywhere
    assert np.abs(error.astype(int) - want).max() <= 2 and want[0] > want[2]  # and that is reddish


def test_large_photos_are_shrunk_for_the_page(tmp_path):
    demo._save(tmp_path / "x.jpg", np.zeros((600, 1800, 3), np.uint8))
    assert cv2.imread(str(tmp_path / "x.jpg")).shape == (300, 900, 3)


# --- the verb


@pytest.fixture
def quick(monkeypatch, samples):
    "A predictor that needs no weights, and two photos."

    class Guess:
        def __init__(self, weights, device, engine):
            import torch

            self.weights, self.device = weights, torch.device("cpu")

        def predict(self, img, camera):
            return Prediction(np.full(img.shape[:2], 2, np.float32), camera, img)

    import dogdepth.predict

    monkeypatch.setattr(dogdepth.predict, "Predictor", Guess)
    monkeypatch.setattr(demo, "demo_items", lambda: samples[2:])


def test_demo_prints_errors_times_and_the_place(quick, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "a" / "out")]) == 0
    out = capsys.readouterr().out
    assert (
        re.search(
            r"motorcycle +741x500 +[\d.]+ s +AbsRel 0\.\d+ \(0\.\d+ by the published scale\), median error \d\.\d\d m",
            out,
        )
        and "astronaut" in out
    )
    assert f"Open {tmp_path / 'a' / 'out' / 'index.html'} in a browser" in out
    assert (tmp_path / "a/out/index.html").is_file() and not list(tmp_path.rglob(".dogdepth*"))


def test_demo_twice_and_beside_other_files(quick, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == main(["demo", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (RuntimeError("full"), 1)])
def test_demo_leaves_nothing_half_written(quick, tmp_path, monkeypatch, error, code):
    def stop(*_):
        raise error

    monkeypatch.setattr("dogdepth.cloud.plotly_js", stop)
    assert main(["demo", "--out", str(tmp_path / "out")]) == code
    assert list(tmp_path.iterdir()) == []


def test_demo_refuses_bad_weights_at_once(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "out"), "--weights", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_page_draws_in_a_browser(page, tmp_path):
    "Headless Chromium draws a room from disk, turns it by keyboard, and the cross reads metres."
    chrome = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chrome:
        pytest.skip("no Chromium here: apt-get install chromium")
    probe = """<script>addEventListener('load', () => setTimeout(async () => {
      const box = document.querySelector('.room'), cross = document.querySelector('.probe'), key = (k, to) => to.dispatchEvent(new KeyboardEvent('keydown', {key: k, bubbles: true}));
      for (let i = 0; i < 200 && !box.querySelector('canvas'); i++) await new Promise(r => setTimeout(r, 100));
      await new Promise(r => setTimeout(r, 1500));
      key('ArrowRight', cross); const reading = document.querySelector('.reading').textContent;
      key('0', box); await new Promise(r => setTimeout(r, 300)); const a = JSON.stringify(box.layout.scene.camera.eye);
      key('ArrowRight', box); await new Promise(r => setTimeout(r, 300)); const b = JSON.stringify(box.layout.scene.camera.eye);
      document.title = JSON.stringify({canvas: !!box.querySelector('canvas'), turned: a !== b, reading, wide: document.documentElement.scrollWidth <= innerWidth});
    }, 0));</script></body>"""
    for f in page.iterdir():
        shutil.copy(f, tmp_path)
    text = (page / "index.html").read_text(encoding="utf-8").replace("</body>", probe)
    (tmp_path / "index.html").write_text(text, encoding="utf-8")
    r = subprocess.run(
        [
            chrome,
            "--headless",
            "--no-sandbox",
            "--disable-quic",
            "--disable-background-networking",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=500,1600",
            "--virtual-time-budget=30000",
            "--dump-dom",
            f"file://{tmp_path / 'index.html'}",
        ],
        capture_output=True,
        text=True,
        timeout=280,
    )
    got = json.loads(re.search(r"<title>(.*?)</title>", r.stdout)[1].replace("&quot;", '"'))
    assert got["canvas"] and got["turned"] and got["wide"] and re.fullmatch(r"\d+\.\d\d m", got["reading"])
