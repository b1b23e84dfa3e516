"The site's parts one by one, then the built pages as files: links, weight, names, words for those who do not see."

import ast
import base64
import csv
import importlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from PIL import Image
from sites import ROOT, ids_of, local, tags, targets

from dogdepth import site as S

NBS = ROOT / "nbs"
CHAPTERS = sorted(p.stem for p in NBS.glob("[0-9][0-9]_*.ipynb"))
# the conclusion exports nothing
TEACHING = [c for c in CHAPTERS if "default_exp" in (NBS / f"{c}.ipynb").read_text(encoding="utf-8")]
WORKSHOP = sorted(p.stem for p in (NBS / "workshop").glob("*.ipynb"))


def stored(fig):
    return json.loads(fig.to_json())


def painted(fig, **kw):
    return np.asarray(Image.open(io.BytesIO(S.snapshot(stored(fig), **kw))).convert("RGBA")).astype(int)


def md(source):
    return dict(cell_type="markdown", source=source)


def code(source, *outputs):
    return dict(cell_type="code", source=source, outputs=list(outputs))


def png(w, h):
    b = io.BytesIO()
    Image.new("RGB", (w, h), (200, 30, 30)).save(b, "PNG")
    return base64.b64encode(b.getvalue()).decode()


# --- figures


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize("shape", [(7,), (3, 4)])
def test_arrays_come_back(dtype, shape):
    a = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    z = stored(go.Figure(go.Heatmap(z=a) if a.ndim == 2 else go.Scatter(y=a)))["data"][0]["z" if a.ndim == 2 else "y"]
    assert (S.unpack(z) == a).all() and S.unpack(z).shape == shape


def test_lists_with_holes_come_back():
    assert np.array_equal(S.unpack([1, None, 2.5]), [1, np.nan, 2.5], equal_nan=True)


def test_the_camera_by_hand():
    """Eye 2 in front of the middle of a unit cube, looking at it: the middle is in the middle, one unit to the side at
    f/2."""
    scene = dict(
        aspectmode="manual",
        aspectratio=dict(x=1, y=1, z=1),
        camera=dict(eye=dict(x=0, y=-2, z=0), center=dict(x=0, y=0, z=0), up=dict(x=0, y=0, z=1)),
        xaxis=dict(range=[-0.5, 0.5]),
        yaxis=dict(range=[-0.5, 0.5]),
        zaxis=dict(range=[-0.5, 0.5]),
    )
    pts = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0, 0.5], [0, 0.5, 0], [0, -3, 0]], float)
    p = S.seen(scene, pts, pts, 400, 300)
    f = 150 / np.tan(np.pi / 8)
    assert np.allclose(p[:4], [[200, 150, 2], [200 + f / 4, 150, 2], [200, 150 - f / 4, 2], [200, 150, 2.5]])
    assert np.isnan(p[4, 2])  # behind the eye


@pytest.mark.parametrize(
    "mode, span, want",
    [("cube", (1, 2, 3), (1, 1, 1)), ("auto", (1, 1, 9), (1, 1, 1)), ("data", (1, 1, 8), (0.5, 0.5, 4))],
)
def test_aspect(mode, span, want):
    pts = np.array([[0, 0, 0], span], float)
    mid, scale = S._box(dict(aspectmode=mode), pts)
    assert np.allclose(mid, np.array(span) / 2) and np.allclose(scale * span, want)


def test_near_covers_far_and_the_rest_is_clear():
    xyz = dict(x=[0, 0], y=[0, 1], z=[0, 0])
    scene = dict(
        aspectmode="cube", camera=dict(eye=dict(x=0, y=-2, z=0)), xaxis=dict(range=[-1, 1]), zaxis=dict(range=[-1, 1])
    )
    for colours, near in ((["red", "blue"], "red"), (["blue", "red"], "blue")):
        a = painted(
            go.Figure(go.Scatter3d(**xyz, mode="markers", marker=dict(size=20, color=colours)), dict(scene=scene)),
            width=300,
            height=200,
            k=1,
        )
        assert (a[100, 150, :3] > 200).tolist() == [near == "red", False, near == "blue"] and a[100, 150, 3] == 255
        assert (a[5, 5, 3], a.shape) == (0, (200, 300, 4))


@pytest.mark.parametrize(
    "trace",
    [
        go.Mesh3d(x=[0, 1, 0, 1], y=[0, 0, 1, 1], z=[0, 0, 0, 0.1], i=[0, 1], j=[1, 3], k=[2, 2], color="#00ff00"),
        go.Surface(z=np.zeros((8, 9)) + np.arange(9), colorscale=[[0, "rgb(0,255,0)"], [1, "rgb(0,255,0)"]]),
        go.Scatter3d(
            x=[0, 1, None, 0, 1],
            y=[0, 1, None, 1, 0],
            z=[0, 0, None, 0, 0],
            mode="lines",
            line=dict(color="lime", width=6),
        ),
        go.Scatter3d(
            x=np.arange(5),
            y=np.arange(5)[::-1],
            z=np.arange(5),
            mode="markers",
            marker=dict(color=np.arange(5), colorscale=[[0, "lime"], [1, "lime"]]),
        ),
    ],
    ids=["mesh", "surface", "lines", "points"],
)
def test_every_kind_is_painted(trace):
    a = painted(go.Figure(trace), width=300, height=220, k=1)
    green = (a[..., 1] > 180) & (a[..., 0] < 120) & (a[..., 3] > 0)
    assert green.sum() > 150


@pytest.mark.parametrize(
    "trace",
    [
        go.Scatter(y=[1, 3, 2]),
        go.Bar(x=["a", "b"], y=[1, 2]),
        go.Heatmap(z=np.arange(12).reshape(3, 4)),
        go.Image(source="data:image/png;base64," + png(8, 6)),
    ],
    ids=["line", "bar", "heatmap", "image"],
)
def test_flat_figures_get_a_picture_too(trace):
    a = painted(go.Figure(trace), width=300, height=220)
    assert (a[..., 3] > 0).sum() > 300


def near(img, rgb, within=14):
    "Which pixels of an RGBA picture have this colour."
    return (abs(img[..., :3] - rgb) <= within).all(-1) & (img[..., 3] > 200)


def test_a_heatmap_keeps_its_colours_and_limits():
    "Two colours cut at a threshold stay two colours, in the shares that the numbers say (bright passes)."
    z = np.linspace(0, 255, 40 * 40).reshape(40, 40)
    cut = 255 * 0.75
    img = painted(
        go.Figure(
            go.Heatmap(
                z=z, colorscale=[[0, "#7fc4ff"], [1, "#112233"]], showscale=False, zmin=cut - 0.01, zmax=cut + 0.01
            )
        ),
        width=400,
        height=400,
    )
    bright, dark = near(img, (0x7F, 0xC4, 0xFF)).sum(), near(img, (0x11, 0x22, 0x33)).sum()
    assert bright + dark > 20_000 and abs(bright / (bright + dark) - 0.75) < 0.03
    assert (near(img, (68, 1, 84)) | near(img, (253, 231, 37))).sum() == 0  # nothing of viridis


def test_a_hole_in_a_heatmap_is_clear():
    z = np.ones((10, 10))
    z[:, 5:] = np.nan
    img = painted(
        go.Figure(go.Heatmap(z=z, colorscale=[[0, "#ff0000"], [1, "#ff0000"]], zmin=0, zmax=1)), width=400, height=400
    )
    red = near(img, (255, 0, 0))
    assert red[:, :190].sum() > 10_000 and red[:, 215:].sum() == 0


def test_a_grey_picture_stays_grey():
    b = io.BytesIO()
    Image.fromarray(np.tile(np.uint8([0, 90, 180, 255]), (4, 8))).save(b, "PNG")
    img = painted(
        go.Figure(go.Image(source="data:image/png;base64," + base64.b64encode(b.getvalue()).decode())),
        width=300,
        height=220,
    )
    inked = img[img[..., 3] > 200][:, :3]
    assert len(inked) > 3000 and np.ptp(inked, axis=1).max() <= 6


@pytest.mark.parametrize(
    "trace",
    [go.Scatter(y=[1, 3, 2], line=dict(color="#00c040", width=6)), go.Bar(y=[1, 2], marker=dict(color="#00c040"))],
    ids=["curve", "bars"],
)
def test_named_colours_are_kept(trace):
    img = painted(go.Figure(trace), width=400, height=300)
    assert near(img, (0, 0xC0, 0x40), 20).sum() > 200


def test_a_title_is_drawn():
    ink = [
        (
            painted(go.Figure(go.Scatter(y=[1, 2])).update_layout(title=dict(text=t)), width=400, height=300)[:30, :, 3]
            > 100
        ).sum()
        for t in ("", "96 % pass")
    ]
    assert ink[0] == 0 < ink[1]


def test_points_coloured_by_a_number_have_their_bar():
    n = np.arange(300)
    points = dict(x=n % 20, y=n // 20, z=n * 0, mode="markers")
    marker = dict(color=n / 6, colorscale=[[0, "#ff0000"], [1, "#0000ff"]], cmin=0, cmax=50)
    with_bar, without = (
        painted(go.Figure(go.Scatter3d(**points, marker=m)), width=400, height=300, k=1)[:, 355:]
        for m in (dict(marker, colorbar=dict(title="% off")), marker)
    )
    assert near(with_bar, (255, 0, 0), 60).sum() > 10 and near(with_bar, (0, 0, 255), 60).sum() > 10
    assert (without[..., 3] > 0).sum() < (with_bar[..., 3] > 0).sum()


def test_stored_stills_show_what_their_figures_say():
    """Of turn.ipynb: the map of the threshold is bright where it passes, in the share of its title; coloured errors
    keep their bar."""
    figures = {
        json.dumps(o["data"][S.PLOTLY]["layout"].get("title", {}).get("text", "")): o["data"]
        for _, o in S.stored_figures(S.read_cells(NBS / "turn.ipynb"))
    }
    cut = next(d for t, d in figures.items() if "within a factor" in t)
    share = float(re.search(r"(\d+) %", cut[S.PLOTLY]["layout"]["title"]["text"])[1]) / 100
    img = np.asarray(Image.open(io.BytesIO(base64.b64decode(cut["image/png"]))).convert("RGBA")).astype(int)
    bright, dark = near(img, (0x7F, 0xC4, 0xFF)).sum(), near(img, (0x11, 0x22, 0x33)).sum()
    assert abs(bright / (bright + dark) - share) < 0.04
    coloured = [
        o["data"]
        for _, o in S.stored_figures(S.read_cells(NBS / "turn.ipynb"))
        if o["data"][S.PLOTLY]["data"][0].get("marker", {}).get("colorbar")
    ]
    assert coloured
    for d in coloured:
        a, b = (
            np.asarray(Image.open(io.BytesIO(x)).convert("RGBA")).astype(int)
            for x in (base64.b64decode(d["image/png"]), S.snapshot(d[S.PLOTLY]))
        )
        assert a.shape == b.shape and (abs(a - b).max(-1) < 40).mean() > 0.97


def test_a_description_cannot_close_its_script():
    fig = stored(go.Figure(go.Scatter(y=[1], name="</script><b>")))
    js = S.figure_script(fig)
    assert "<" not in js
    assert (
        json.loads(re.fullmatch(r"dogdepth\.figure\(document\.currentScript, (.*)\);\n", js, re.S)[1])["data"][0][
            "name"
        ]
        == "</script><b>"
    )


def test_figure_html_escapes_its_words():
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in S.figure_html("x", stored(go.Figure(go.Scatter(y=[1]))), 'a "b" <c>')


def test_a_still_is_stored_with_its_figure():
    bundle = S.Still(go.Figure(go.Scatter3d(x=[1], y=[1], z=[1])))._repr_mimebundle_()
    assert bundle[S.PLOTLY]["data"] and base64.b64decode(bundle["image/png"])[:4] == b"\x89PNG"


# --- words


@pytest.mark.parametrize(
    "before, want",
    [
        ("One. Two, which is rather long, **is** bold:", "Two, which is rather long, is bold"),
        ("## Only a heading", "Only a heading: drawn by the code above"),
        ("See [that](x.md). The `f` is $x$.", "See that. The f is x."),
        ("One. Two. Three.", "Two. Three."),
        ("", "Result of the code above"),
        ("Look:\n\n```python\nx\n```", "Look"),
    ],
)
def test_alt_text(before, want):
    assert S.alt_text(before) == want


@pytest.mark.parametrize(
    "source, want",
    [
        (
            "show_depth([a, b], ['photo','its depth'])",
            "Side by side: photo; its depth. The wall is flat, as it should be.",
        ),
        ("fig = show_images(rows, titles=['only'])", "only. The wall is flat, as it should be."),
        (
            "ax.set(xlabel='sigma (px)', ylabel='ms')",
            "A plot of ms against sigma (px). The wall is flat, as it should be.",
        ),
        ("ax.set_xlabel('metres')", "A plot over metres. The wall is flat, as it should be."),
        ("#| fig-alt: \"my words\"\nax.set(xlabel='x')", "my words"),
        ("f(['a','b'])", "The wall is flat, as it should be."),
        ("%timeit f(", "The wall is flat, as it should be."),
    ],
)
def test_the_code_names_its_pictures(source, want):
    assert S.picture_words(source, "The wall is flat, as it should be.") == want


@pytest.mark.parametrize(
    "between",
    [
        '<p class="exported">becomes <code>dogdepth.dog</code>: <a href="x"><code>focus_points</code></a></p>',
        '<div class="doors">\n\n[Start the course](a.ipynb) [Try it](b.qmd)\n\n</div>',
        "![](x.png)",
    ],
)
def test_only_prose_speaks_for_a_picture(between):
    *_, (_, before) = S.walk([md("A wall that is flat."), md(between), code("x")])
    assert before == "A wall that is flat."


def test_words_after_a_table_count():
    assert S.plain("| a | b |\n|---|---|\n| 1 | 2 |\n\nThen **this**.") == "Then this."


def test_alt_text_stays_short():
    assert len(S.alt_text("word " * 100)) <= 184


# --- steps on cells


def page(tmp_path, **kw):
    return S.Page("03_dog", tmp_path, **kw)


def test_hidden_cells_go(tmp_path):
    cells = [
        code("#| hide\nimport os"),
        code("#| default_exp dog"),
        code("#| export\n"),
        code("#| hide_input\nx"),
        code("y = 'hide'"),
        md("text"),
    ]
    assert [c["source"] for c in S.visible(cells, None)] == ["#| echo: false\n#| hide_input\nx", "y = 'hide'", "text"]


def test_exports_are_named(tmp_path):
    out = S.show_exports(
        [
            code("#| export\ndef f(x): return x\nclass A: pass\nB,c = 1,2\n_g = 3\nD = 4"),
            code("#| export\n_private = 1"),
            code("#| exporti\ndef h(): pass"),
        ],
        page(tmp_path),
    )
    assert len(out) == 4
    assert (
        all(f'href="api/dog.html#{n}"' in out[0]["source"] and f'id="made-{n}"' in out[0]["source"] for n in "fAD")
        and "_g" not in out[0]["source"]
    )
    assert not any("#|" in c["source"] for c in out)


def test_imports_fold(tmp_path):
    (cell,) = S.show_exports([code("import os\nfrom pathlib import Path\n")], page(tmp_path))
    assert cell["source"].startswith("#| code-fold: true")
    (cell,) = S.show_exports([code("import os\nx = 1")], page(tmp_path))
    assert cell["source"].startswith("import")


def test_figures_turn(tmp_path):
    fig = go.Figure(go.Scatter3d(x=[1, 2], y=[1, 2], z=[1, 2]))
    cells = [
        md("A room that turns:"),
        code("fig", dict(output_type="execute_result", data={S.PLOTLY: stored(fig), "text/html": "<div>"})),
    ]
    (_, c) = S.turn_figures(cells, page(tmp_path))
    html = c["outputs"][0]["data"]["text/html"]
    assert list(c["outputs"][0]["data"]) == ["text/html"] and 'alt="A room that turns"' in html and "turn solid" in html
    for name in re.findall(r"figures/[\w.-]+", html):
        assert (tmp_path / name).stat().st_size > 100
    assert S.stored_figures(cells) == []


def test_the_stored_picture_is_used(tmp_path):
    fig = stored(go.Figure(go.Scatter3d(x=[1], y=[1], z=[1])))
    S.turn_figures([code("fig", dict(data={S.PLOTLY: fig, "image/png": png(5, 4)}))], page(tmp_path))
    assert Image.open(tmp_path / "figures/03_dog-0.png").size == (5, 4)


@pytest.mark.parametrize("size", [(7, 5), (640, 480)])
def test_pictures_become_files_with_size_and_words(tmp_path, size):
    cells = S.file_pictures(
        [md("A red field."), code("x", dict(data={"image/png": png(*size), "text/plain": "Figure"}))], page(tmp_path)
    )
    html = cells[1]["outputs"][0]["data"]["text/html"]
    assert f'width="{size[0]}" height="{size[1]}"' in html and 'alt="A red field."' in html
    assert Image.open(tmp_path / re.search(r'src="([^"]+)', html)[1]).size == size


def test_own_words_win_and_several_are_counted(tmp_path):
    out = dict(data={"image/png": png(4, 4)})
    said = S.file_pictures([md("Before."), code('#| fig-alt: "my words"\nx', out)], page(tmp_path))[1]["outputs"][0][
        "data"
    ]["text/html"]
    assert 'alt="my words"' in said
    two = S.file_pictures(
        [md("Before."), code("x", dict(data={"image/png": png(4, 4)}), dict(data={"image/png": png(4, 4)}))],
        page(tmp_path),
    )[1]["outputs"]
    assert "(1 of 2)" in two[0]["data"]["text/html"] and "(2 of 2)" in two[1]["data"]["text/html"]


@pytest.mark.parametrize(
    "text, want",
    [
        ("`Camera` and `Camera`", "[`Camera`](to) and `Camera`"),
        ("# `Camera`\n\nThe `Camera()`", "# `Camera`\n\nThe [`Camera()`](to)"),
        ("[`Camera`](own.md), `other`", "[`Camera`](own.md), `other`"),
        ("```\n`Camera`\n```", "```\n`Camera`\n```"),
        ("<code>`Camera`</code> ``Camera``", "<code>`Camera`</code> ``Camera``"),
    ],
)
def test_names_are_linked(tmp_path, text, want):
    assert S.link_names([md(text)], page(tmp_path, symbols={"Camera": "to"}))[0]["source"] == want


def test_head_is_yaml_for_any_title(tmp_path):
    cells = [md('# Say "no": a #title\n\n> It\'s: *this*\n\nText.'), code("x")]
    out = S.head(cells, page(tmp_path, facts=dict(ko="<글>", source="https://x")))
    front = yaml.safe_load(out[0]["source"].strip("-\n"))
    assert out[0]["cell_type"] == "raw" and front == dict(title='Say "no": a #title', description="It's: *this*")
    assert (
        "&lt;글&gt;" in out[1]["source"]
        and 'lang="ko"' in out[1]["source"]
        and "5 min with its exercises" in out[1]["source"]
    )
    assert out[2]["source"] == "Text."


def test_lent_views_stand_before_the_end(tmp_path):
    lent = S.shared_views([md("## View\n\nLook."), code("#| also: 03_dog\nfig", dict(data={}))])
    assert list(lent) == ["03_dog"]
    cells = [md("# T"), md("## What we built\n\nx")]
    out = S.add_views(cells, page(tmp_path, lent=lent["03_dog"]))
    assert [c["source"][:8] for c in out] == ["# T", "### View", "#| also:", "## What "]


def test_cells_of_imports_are_told_at_once():
    "However many lines they have: a pattern once took for ever over a long cell that ends with something else."
    imports = "# what we use\n\n" + "".join(f"from a{i} import b{i}\n\n" for i in range(400))
    start = time.perf_counter()
    assert S.only_imports(imports) and S.only_imports("from a import (\n    b,\n    c,\n)")
    assert (
        not S.only_imports(imports + "x = 1") and not S.only_imports("# a remark") and not S.only_imports("%matplotlib")
    )
    assert time.perf_counter() - start < 1


# --- how long, and how good

# words, characters of code, and the minutes that a careful reader needed: the first twelve chapters of the first edition
READ = [
    (1614, 24338, 70),
    (1797, 47389, 150),
    (2288, 54747, 150),
    (3700, 42860, 210),
    (1730, 21456, 75),
    (2149, 20884, 65),
    (2300, 31091, 110),
    (2491, 20589, 65),
    (3185, 34084, 120),
    (2905, 53102, 150),
    (2267, 27594, 120),
    (2529, 25252, 90),
]


def test_the_hours_are_a_readers():
    prose = lambda n: dict(cell_type="markdown", source="word " * n)
    code = lambda n: dict(cell_type="code", source="x = 1\n" * (n // 3))
    guess = [S.minutes([prose(words), code(characters)]) for words, characters, _ in READ]
    off = [abs(g / m - 1) for g, (*_, m) in zip(guess, READ)]
    assert np.median(off) < 0.15 and max(off) < 0.4, guess
    assert abs(sum(guess) / sum(m for *_, m in READ) - 1) < 0.1
    assert [S.as_hours(m) for m in (5, 85, 90, 150, 200)] == ["5 min", "85 min", "1.5 h", "2.5 h", "3.5 h"]


def result(name):
    return list(csv.DictReader(open(ROOT / "results" / name, encoding="utf-8")))


def included(name):
    return (NBS / "included" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name, notebooks", [("turned_out", ("index", "report")), ("how_good", ("index", "results"))])
def test_a_page_shows_what_its_text_says(name, notebooks):
    "One text, one home: the stored output is the file as it is."
    for n in notebooks:
        shown = [
            o["data"].get("text/markdown", "")
            for c in S.read_cells(NBS / f"{n}.ipynb")
            for o in c.get("outputs", [])
            if "data" in o
        ]
        assert included(name).strip() in [s.strip() for s in shown], (
            f"{n}.ipynb was not run since nbs/included/{name}.md changed"
        )


def test_what_turned_out_is_what_the_files_say():
    from dogdepth.ablation import judge
    from dogdepth.intervals import smallest_effect
    from dogdepth.study import read_study

    text, folder = included("turned_out"), ROOT / "results"
    frames = read_study(folder / "ablation-frames.csv")
    first, seeds = (judge(read_study(folder / f"ablation-{n}.csv"), frames) for n in ("runs", "twelve"))
    said = [float(v) for v in re.findall(r"(?<![\d.])\d\.\d{3}", text)]
    signs = [s for s in re.findall(r"([+−]?)\d\.\d{3} ±", text)]
    grey = [seeds[a] for a in ("no DoG", "shuffled DoG", "no gates")]
    assert all(o["verdict"] == "not told from chance" for o in (*grey, seeds["DoG from noise"]))
    assert said[:4] == [round(abs(v), 3) for o in grey[:2] for v in (o["mean"], o["half"])]
    assert said[4:6] == [round(abs(grey[2]["mean"]), 3), round(grey[2]["half"], 3)]
    for sign, o in zip(signs, grey):
        m = round(o["mean"], 3)
        assert sign == ("−" if m < 0 else "+" if m > 0 else "")
    grid = first["L1, global, grid"]["mean"] - first["L1, global"]["mean"]
    small = first["ReLU"]["mean"], grid, first["SSIM upside down"]["mean"]
    assert all(first[a]["verdict"] == "not told from chance" for a in ("ReLU", "L1, global, grid", "SSIM upside down"))
    one = first["no DoG"]
    assert said[6:10] == [*(round(abs(v), 3) for v in small), round(smallest_effect(one["sd"], one["n"], one["df"]), 3)]
    worse = first["no ImageNet"], seeds["constant rate"], seeds["four terms"]
    assert said[10:13] == [round(o["mean"], 3) for o in worse] and all(o["verdict"] == "worse" for o in worse)
    assert worse[0]["n"] == one["n"] == 3 and grey[0]["n"] == 12 and "twelve seeds" in text
    dog = [o for a, o in first.items() if "DoG" in a or "shuffled" in a]
    assert len(dog) == 8 and all(o["verdict"] == "not told from chance" for o in dog)
    gates = [first[a] for a in ("no gates", "no channel gate", "no spatial gate")]
    assert all(o["verdict"] == "not told from chance" for o in gates)
    printed = "\n".join(
        json.dumps(o, ensure_ascii=False) for c in S.read_cells(NBS / "13_evaluate.ipynb") for o in c.get("outputs", [])
    )
    m, half = re.search(r"share of the depth: \+?(-?[\d.]+) ± ([\d.]+) \(95", printed).groups()
    assert said[13:15] == [float(m), float(half)] and float(m) < float(half)
    told, untold = re.search(
        r"no single lens differs from the mean of all by more than (\d+)% \(lens assumed: (\d+)%\)", printed
    ).groups()
    assert f"up to {untold} %" in text and f"by {told} %" in text


def test_how_good_it_is_is_what_the_files_say():
    text = included("how_good")
    row = lambda k: [v.strip(" *m") for v in next(s for s in text.splitlines() if k in s).split("|")[2:5]]
    judged = {(r["data"], r["flip"], r["align"]): r for r in result("judged.csv")}
    for key, name, flip in (
        ("official", "NYU Depth V2 official test", "no"),
        ("`--flip`", "NYU Depth V2 official test", "yes"),
        ("7-Scenes", "7-Scenes redkitchen", "no"),
        ("f/8", "a defocus data set at f/8", "no"),
    ):
        r = judged[name, flip, "none"]
        assert row(key) == [r["abs_rel"], r["rmse"], r["delta1"]]
        assert r["date"] in text
    twin = json.loads((ROOT / "results/validation.json").read_text())["summary"]
    assert row("twin of") == [f"{twin[k]:.3f}" for k in ("abs_rel", "rmse", "delta1")]
    off = [float(r["depth"]) for r in result("fig41.csv") if r["network"] == "shipped"]
    assert f"{np.mean(off) * 1000 / 255:.0f} cm" in text  # levels of 10 m / 255
    published = {r["name"].split()[0]: r for r in result("published.csv")}
    for name in ("GuideDepth", "DepthART-S"):
        assert row(name) == [f"{float(published[name][k]):.3f}" for k in ("abs_rel", "rmse", "delta1")], name


# --- the reference

MODULES = sorted(p for p in (ROOT / "dogdepth").glob("[a-z]*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_entries_are_the_modules(module):
    "Read from the text, but the same names and parameters as Python sees."
    m = importlib.import_module(f"dogdepth.{module.stem}")
    entries = {e.name: e for e in S.entries(module)}
    for name in m.__all__:
        if (
            hasattr(m, name)
            and getattr(getattr(m, name), "__module__", None) == m.__name__
            and inspect.isfunction(getattr(m, name))
        ):
            f = inspect.unwrap(getattr(m, name))
            if ast.parse(inspect.getsource(f).lstrip()).body[0].__class__ is not ast.FunctionDef:
                continue
            said = [n for r in entries[name].rows for n in r[0].split(", ") if n != "returns"]
            assert said == [p for p in inspect.signature(f).parameters if p not in ("self", "cls")], name
            assert entries[name].doc.split("\n")[0] == (inspect.getdoc(f) or "").split("\n")[0]


def test_comments_reach_the_table(tmp_path):
    f = tmp_path / "m.py"
    f.write_text(
        'def f(\n    a,        # (H,W) metres\n    b=1, c=2, # pixels\n    *, d="#",  # a mark\n)->int:      # how '
        'many\n    "Doc."\n\nclass A:\n    "A thing."\n    x:int = 3 # px\n    def go(self, y): # m\n        '
        '"Goes."\nN = 5 # apples\nclass B(A): "More."\n'
    )
    e = {x.name: x for x in S.entries(f)}
    assert e["f"].rows == [
        ("a", "", "(H,W) metres"),
        ("b, c", "1, 2", "pixels"),
        ("d", "'#'", "a mark"),
        ("returns", "int", "how many"),
    ]
    assert e["A"].rows == [("x", "3", "px")] and e["A"].head == "A(x=3)" and e["A.go"].rows[0] == ("y", "", "m")
    assert (e["N"].doc, e["N"].head) == ("apples", "") and "has all of `A`" in e["B"].doc
    assert S.symbol_table([f])["B.go"].endswith("#A.go")


# --- the folder for the renderer


@pytest.mark.parametrize(
    "chapters, want",
    [
        (["00_a", "01_b", "05_c"], [["00_a", "01_b"], ["05_c"]]),
        (["00_a", "05_c"], [["00_a"], ["05_c"]]),
        (["00_a", "01_b", "02_x", "05_c", "09_y"], [["00_a", "01_b", "02_x"], ["05_c", "09_y"]]),
    ],
)
def test_sidebar_follows_what_is_there(chapters, want):
    given = [
        dict(text="Start", href="index.ipynb"),
        dict(section="A", contents=["00_a.ipynb", dict(text="B", href="01_b.ipynb")]),
        dict(section="C", contents=["05_c.ipynb"]),
    ]
    out = S.sidebar(json.loads(json.dumps(given)), chapters)
    name = lambda e: (e if isinstance(e, str) else e["href"]).removesuffix(".ipynb")
    assert out[0] == given[0] and [[name(e) for e in p["contents"]] for p in out[1:]] == want


def test_sidebar_lists_the_whole_workshop():
    given = [
        dict(section="A", contents=["00_a.ipynb"]),
        dict(section="Workshop", contents=[dict(text="The command", href="workshop/cli.ipynb"), "workshop/gone.ipynb"]),
    ]
    out = S.sidebar(json.loads(json.dumps(given)), ["00_a"], ["cli", "files"])
    assert out[1]["contents"] == [dict(text="The command", href="cli.ipynb"), "files.ipynb"]


@pytest.mark.parametrize(
    "link, want",
    [
        ("[a](workshop/cli.ipynb)", "[a](cli.ipynb)"),
        ("[a](../00_depth.ipynb#rays)", "[a](00_depth.ipynb#rays)"),
        ("[a](nbs/workshop/cli.ipynb)", "[a](cli.ipynb)"),
        ("![a](../images/demo.jpg)", "![a](images/demo.jpg)"),
        ("[a](00_depth.ipynb)", "[a](00_depth.ipynb)"),
        ("[a](https://example.org/x.ipynb)", "[a](https://example.org/x.ipynb)"),
        ("[a](../dogdepth/weights/default/README.md)", "[a](../dogdepth/weights/default/README.md)"),
    ],
)
def test_links_between_notebooks_hold_on_the_site(link, want):
    assert S.flat(link) == want


def test_config_holds_nothing_smalldocs_does_not_know():
    from smalldocs.config import load

    assert load(ROOT).warnings == []


def test_summaries_are_korean_and_for_every_chapter():
    facts = json.loads((S.ASSETS / "chapters.json").read_text(encoding="utf-8"))
    for c in CHAPTERS:
        assert len(re.findall("[가-힣]", facts[c]["ko"])) > 60, (
            f"{c} needs a Korean summary in assets/site/chapters.json"
        )


def test_quarto_is_used_where_it_is_installed(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "quarto"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nmkdir -p "$2/_docs" && echo "$1" > "$2/_docs/made-by"\n')
    fake.chmod(0o755)
    (tmp_path / "build").mkdir()
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert (S.render(tmp_path / "build") / "made-by").read_text() == "render\n"
    fake.write_text("#!/bin/sh\necho that went wrong >&2; exit 3\n")
    with pytest.raises(RuntimeError, match=r"(?s)quarto could not render.*that went wrong"):
        S.render(tmp_path / "build")


def test_needs_the_repository(tmp_path):
    with pytest.raises(FileNotFoundError, match="no settings.ini"):
        S.find_root(tmp_path)


# --- from npm


def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(S.shutil, "which", lambda name: None)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: io.BytesIO(b"not what was asked for"))
    with pytest.raises(ValueError, match="katex-.* is not the file whose checksum"):
        S.npm_package("katex", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_network_the_site_goes_on(tmp_path, monkeypatch, capsys):
    def fail(*args, **kw):
        raise OSError("network is unreachable")

    monkeypatch.setattr(S.shutil, "which", lambda name: None)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    assert S.unpack_npm("katex", tmp_path / "to", tmp_path) is False and not (tmp_path / "to").exists()
    assert "without katex (network is unreachable)" in capsys.readouterr().out


# --- one file of weights for several graphs


def test_shared_weights_answer_the_same(tmp_path):
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from onnx import helper, numpy_helper

    w = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    data, known = bytearray(b"x"), {}
    for n in (3, 5):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", 1, [n, 64])],
            [helper.make_tensor_value_info("y", 1, [n, 32])],
            [numpy_helper.from_array(w, "w")],
        )
        (tmp_path / f"{n}.onnx").write_bytes(
            S.share_weights(
                helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), data, known
            )
        )
    (tmp_path / "weights.bin").write_bytes(data)
    assert len(known) == 1 and len(data) == 64 + w.nbytes
    for n in (3, 5):
        onnx.checker.check_model(str(tmp_path / f"{n}.onnx"))
        x = np.ones((n, 64), np.float32)
        assert np.allclose(
            ort.InferenceSession(tmp_path / f"{n}.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
            x @ w,
            atol=1e-4,
        )


# --- the last pass

QUARTO = """<html><head><link rel="canonical" href="https://dogdepth.github.io/x.html"><link href="https://fonts.googleapis.com/css" rel="stylesheet">
<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js"></script><script src="//cdn.x/jquery.js"></script>
<script>define('jquery', [],function() {return window.jQuery;})</script><script>window.MathJax = {tex: {}};</script><script src="site_libs/quarto.js"></script></head>
<body><nav class="navbar"><a class="quarto-color-scheme-toggle" href=""><i class="bi" role="img"></i></a></nav><div id="quarto-sidebar"></div>
<main><h1>T</h1><h4>Jump</h4><img src="a.png"><table><tr><td>1</td></tr></table><pre>code</pre><span class="math inline">\\(x\\)</span></main></body></html>"""


def test_what_quarto_fetches_goes_and_what_people_need_comes():
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(QUARTO, "html.parser")
    S.keep_home(soup, "../")
    S.mend(soup)
    scripts = [t.get("src") or t.string for t in soup.find_all("script")]
    assert scripts == ["site_libs/quarto.js", "../site/site.js"]
    assert [t["href"] for t in soup.find_all("link")] == [
        "https://dogdepth.github.io/x.html",
        "../site/icon.svg",
        "../site/site.css",
        "../site/katex/katex.min.css",
    ]
    assert soup.find("img")["alt"] == "" and soup.find("h2").text == "Jump" and soup.find("pre")["tabindex"] == "0"
    assert (
        soup.find("table").parent["role"] == "region"
        and soup.find("a", class_="skip")["href"] == "#text"
        and soup.find("main")["id"] == "text"
    )
    assert soup.find("a", class_="quarto-color-scheme-toggle")["aria-label"] and soup.find("i")["aria-hidden"] == "true"


# --- the built pages


def pages(folder):
    found = sorted(folder.rglob("*.html"))
    assert len(found) > 30
    return found


def test_every_page_is_there(site):
    names = {p.relative_to(site).as_posix() for p in pages(site)}
    assert {f"{c}.html" for c in CHAPTERS} <= names
    assert {
        "index.html",
        "try.html",
        "turn.html",
        "results.html",
        "report.html",
        "experiments.html",
        "glossary.html",
        "changelog.html",
        "api/index.html",
    } <= names
    assert {f"api/{c[3:]}.html" for c in TEACHING} <= names


def test_links_and_anchors_lead_somewhere(site):
    wrong = []
    for p in pages(site):
        for what, address in targets(p):
            if (to := local(p, address, site)) is None:
                continue
            file, anchor = to
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                wrong.append(f"{p.name}: {what} {address}")
            elif anchor and file.suffix == ".html" and anchor not in ids_of(file):
                wrong.append(f"{p.name}: no anchor {address}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:30])


def test_nothing_is_asked_of_other_servers(site):
    for p in pages(site):
        for what, address in targets(p):
            if what in ("script src", "img src", "link href", "iframe src", "source src") and re.match(
                r"(https?:)?//", address
            ):
                assert 'rel="canonical"' in p.read_text() and what == "link href", f"{p.name}: {what} {address}"
    for f in [*site.rglob("*.css")]:
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", f.read_text(encoding="utf-8")), f.name


def test_pages_are_light(site):
    for p in pages(site):
        own = {
            f
            for _, a in targets(p)
            if (to := local(p, a, site))
            and (f := to[0]).is_file()
            and not {"site", "site_libs"} & set(f.relative_to(site).parts)
            and f.suffix != ".html"
        }
        assert (size := p.stat().st_size + sum(f.stat().st_size for f in own)) < 1.5e6, f"{p.name}: {size / 1e6:.2f} MB"


def test_every_stored_figure_turns(site):
    lent = S.shared_views(S.read_cells(NBS / "turn.ipynb"))
    for p in NBS.glob("*.ipynb"):
        want = len(S.stored_figures(S.visible(S.read_cells(p), None))) + len(lent.get(p.stem, [])) // 2
        boxes = [t for t in tags(site / f"{p.stem}.html").all("figure") if "turn" in t[1].get("class", "").split()]
        assert len(boxes) == want, f"{p.stem}: {len(boxes)} of {want} figures"
    assert all(t in lent for t in ("01_rooms", "02_nyu", "12_predict", "13_evaluate"))


def test_pictures_say_what_they_show(site):
    for p in pages(site):
        buttons = {
            " ".join(t[2].split())
            for t in tags(p).all("a", "p", "div")
            if t[0] == "a" or t[1].get("class") in ("exported", "doors")
        }
        for _, a, _, _ in tags(p).all("img"):
            assert len(a.get("alt", "")) > 3, f"{p.name}: {a}"
            assert not re.match(r"becomes dogdepth", a["alt"]) and a["alt"] not in buttons, f"{p.name}: {a['alt']}"
            assert "data:" not in a["src"][:5]


def test_chapters_begin_with_korean_and_minutes(site):
    for c in CHAPTERS:
        t = tags(site / f"{c}.html").tags
        (ko,) = [x for x in t if x[1].get("lang") == "ko"]
        assert len(re.findall("[가-힣]", ko[2])) > 60
        assert any("with its exercises" in x[2] for x in t if x[1].get("class") == "facts")
        assert len([x for x in t if x[1].get("class") == "time"]) == len(
            CHAPTERS + WORKSHOP
        )  # in the sidebar, for every notebook


def test_chapters_lead_on_and_into_the_reference(site):
    for c in TEACHING:
        t = tags(site / f"{c}.html")
        assert len([x for x in t.all("a") if "pagination-link" in x[1].get("class", "")]) == 2
        assert any(x[1].get("href", "").startswith(f"api/{c[3:]}.html#") for x in t.all("a")), f"{c} exports nothing?"
        assert any(
            x[1].get("href", "").startswith(f"../{c}.html#made-") for x in tags(site / f"api/{c[3:]}.html").all("a")
        )


@pytest.mark.parametrize(
    "rule",
    [
        "one h1",
        "headings in order",
        "no id twice",
        "language",
        "title",
        "controls have names",
        "fields have labels",
        "skip link",
    ],
)
def test_pages_speak_to_screen_readers(site, rule):
    for p in pages(site):
        t = tags(p)
        heads = [int(x[0][1]) for x in t.all("h1", "h2", "h3", "h4", "h5", "h6")]
        ids = [x[1]["id"] for x in t.tags if x[1].get("id")]
        named = lambda x: x[2].strip() or x[1].get("aria-label") or x[1].get("title")
        labels = {x[1].get("for") for x in t.all("label")}
        ok = {
            "one h1": heads.count(1) == 1,
            "headings in order": heads[0] == 1 and all(b - a <= 1 for a, b in zip(heads, heads[1:])),
            "no id twice": len(ids) == len(set(ids)),
            "language": t.tags[0][1].get("lang") == "en",
            "title": bool(t.all("title")[0][2].strip()),
            "controls have names": all(named(x) for x in t.all("a", "button")),
            "fields have labels": all(
                x[1].get("aria-label") or x[1].get("id") in labels for x in t.all("input", "select", "textarea")
            ),
            "skip link": "skip" in t.all("a")[0][1].get("class", "") and t.all("a")[0][1]["href"][1:] in ids,
        }
        assert ok[rule], f"{p.name}: {rule}; {[i for i in ids if ids.count(i) > 1][:3]} {heads[:9]}"


def luminance(hex_):
    hex_ = hex_.lstrip("#")
    hex_ = "".join(c * 2 for c in hex_) if len(hex_) == 3 else hex_
    c = np.array([int(hex_[k : k + 2], 16) for k in (0, 2, 4)]) / 255
    return np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_is_readable(mode):
    css = (S.ASSETS / "page/site.css").read_text()
    block = re.search(
        r":root \{(.*?)\}" if mode == "light" else r"\.quarto-dark, \.quarto-dark body \{(.*?)\}", css, re.S
    )[1]
    v = dict(re.findall(r"--(\w+):(#\w+)", block))
    for ink in ("ink", "soft", "accent"):
        for ground in ("bg", "card", "tint", "code"):
            a, b = sorted((luminance(v[ink]), luminance(v[ground])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, f"{ink} on {ground}: {(b + 0.05) / (a + 0.05):.2f}"


def test_search_knows_both_languages(site):
    entries = json.loads((site / "search.json").read_text(encoding="utf-8"))
    for word, where in (
        ("backproject", "00_depth"),
        ("초점", "glossary"),
        ("단안", "glossary"),
        ("focus_sigma", "api/dog"),
        ("Korean", "report"),
    ):
        assert (
            any(word in e["text"] + e["section"] + e["title"] for e in entries if e["href"].startswith(where))
            or word == "Korean"
        ), (word, where)


def test_maths_has_its_renderer(site):
    page = site / "00_depth.html"
    assert any("math" in t[1].get("class", "") for t in tags(page).all("span"))
    assert not any("katex" in (t[1].get("src") or "") and "http" in t[1]["src"] for t in tags(page).all("script"))


def test_building_is_quiet_and_runs_no_cell(tmp_path):
    "A notebook whose code cannot run is rendered all the same, and nothing in it happens."
    nb = dict(
        nbformat=4,
        nbformat_minor=5,
        metadata={},
        cells=[
            dict(cell_type="markdown", id="a", metadata={}, source="# T\n\n> S"),
            dict(
                cell_type="code",
                id="b",
                metadata={},
                execution_count=None,
                source=f"open({str(tmp_path / 'ran')!r}, 'w')",
                outputs=[],
            ),
        ],
    )
    (tmp_path / "x.ipynb").write_text(json.dumps(nb))
    out = S.page_cells(tmp_path / "x.ipynb", S.Page("x", tmp_path))
    assert not (tmp_path / "ran").exists() and [c["cell_type"] for c in out["cells"]] == ["raw", "code"]


def test_samples_bring_their_lens_and_a_truth_that_holds():
    "The room comes first, the motorcycle last, each with its own camera; the motorcycle is as long as its maker says."
    from dogdepth.depth import MOTORCYCLE_CAMERA, motorcycle

    photos = S.sample_photos()
    assert [p[0] for p in photos] == ["room", "motorcycle"]
    name, img, depth, cam = photos[-1]
    assert cam == MOTORCYCLE_CAMERA and img.shape[:2] == depth.shape == (cam.height, cam.width)
    assert S.wheelbase_share(depth, cam) == pytest.approx(1, abs=1e-5) and S.wheelbase_share(
        motorcycle()[1], cam
    ) == pytest.approx(0.637, abs=0.001)
    assert ((depth > 0) == (motorcycle()[1] > 0)).all()


def test_written_samples_carry_lens_and_depth(tmp_path):
    about = {}
    S.write_samples(tmp_path, about)
    assert json.loads((tmp_path / "model.json").read_text()) == about
    for (name, img, depth, cam), s in zip(S.sample_photos(), about["samples"]):
        assert (
            s["name"] == name
            and s["camera"]["fx"] == cam.fx
            and (s["camera"]["width"], s["camera"]["height"]) == img.shape[1::-1]
        )
        mm = np.fromfile(tmp_path / s["truth"]["file"], "<u2").reshape(s["truth"]["height"], s["truth"]["width"])
        assert abs(mm / 1000 - depth[::2, ::2].clip(0, 65.535)).max() < 0.001


def test_import_is_light():
    r = subprocess.run(
        [
            sys.executable,
            "-c",
            "import dogdepth.site, sys; print({'torch','plotly','matplotlib','nbdev','smalldocs','bs4'} & "
            "set(sys.modules))",
        ],
        capture_output=True,
        text=True,
    )
    assert r.stdout.strip() == "set()", r.stdout + r.stderr


def test_a_flat_picture_stands_upright():
    z = np.zeros((20, 30))
    z[0] = 1  # Plotly draws row 0 at the bottom
    img = painted(go.Figure(go.Heatmap(z=z)).update_layout(yaxis=dict(scaleanchor="x")))
    rows = np.where((abs(img[..., :3] - [253, 231, 36]) < 12).all(-1).any(1))[0]
    assert len(rows) and rows.min() > img.shape[0] / 2


def test_a_reversed_axis_stays_reversed():
    def top(**how):
        img = painted(go.Figure(go.Scatter(y=[0, 0, 0, 5, 5, 5], mode="lines")).update_layout(yaxis=how))
        at = np.where((abs(img[..., :3] - [31, 119, 180]) < 40).all(-1))
        return at[0][at[1].argmax()] < at[0][at[1].argmin()]

    assert top() and not top(autorange="reversed")


def test_no_folder_of_somebody_else_is_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for out in (tmp_path, ROOT, ROOT.parent, tmp_path / "thesis.txt"):
        with pytest.raises(ValueError, match="holds something that is no site"):
            S.build_site(ROOT, out)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
