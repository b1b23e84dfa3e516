"Sharpened depth against the laws it must keep, and against the published gain on rendered rooms and on real data."

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogdepth.depth import Camera, read_depth
from dogdepth.files import read_image
from dogdepth.edges import (
    edge_row,
    fill_nearest,
    guide_fit,
    local_limits,
    planar_mask,
    plane_residual,
    plane_roughness,
    sharpen,
    steepen,
    work_size,
)
from dogdepth.metrics import abs_rel
from dogdepth.shape import boundary_f1
from dogdepth.rooms import render_room

ROOT = Path(__file__).resolve().parents[1]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(h, w, seed=0, sigma=4):
    "A depth map as a network makes them: (h,w) float32 metres, from 1 to 5."
    x = cv2.GaussianBlur(np.random.default_rng(seed).random((h, w)).astype(np.float32), (0, 0), sigma)
    return (1 + 4 * (x - x.min()) / (x.max() - x.min() + 1e-6)).astype(np.float32)


def two_walls(h=240, w=320, near=2.0, far=3.0, lean=0.3):
    "A photo of two walls, the border between them leaning, and the true depth."
    y, x = np.mgrid[:h, :w]
    left = x < w / 2 + lean * (y - h / 2)
    grey = np.where(left, 80, 150) + np.random.default_rng(1).normal(0, 2, (h, w))
    image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)
    return image, np.where(left, near, far).astype(np.float32)


def seen_by_a_network(depth, shrink=2, sigma=2.0):
    "Shrunk and blurred."
    small = cv2.resize(depth, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), sigma)


def enlarged(small, image):
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


# --- laws of sharpen


@pytest.mark.parametrize("metres", [0.05, 2.5, 80.0])
@pytest.mark.parametrize("shape", [(60, 80), (120, 160), (240, 320)])
def test_flat_depth_stays_flat_under_any_texture(metres, shape):
    out = sharpen(np.full(shape, metres, np.float32), noise(120, 160, 3))
    np.testing.assert_allclose(out, metres, rtol=1e-5)


def test_a_slanting_wall_under_wallpaper_stays_a_plane():
    cam = Camera.from_fov(60, 240, 320)
    wall = (1 / (0.4 + 0.2 * cam.rays()[..., 0] + 0.1 * cam.rays()[..., 1])).astype(np.float32)
    paper = np.where((np.indices((480, 640)).sum(0) // 12 % 2)[..., None], 90, 110).astype(np.uint8).repeat(3, 2)
    out = sharpen(wall, paper)
    truth = enlarged(wall, paper)
    assert plane_roughness(out[20:-20, 20:-20], truth[20:-20, 20:-20])["mean"] < 1e-3
    assert abs_rel(out, truth) < 1e-3


@pytest.mark.parametrize("factor", [0.1, 2.0, 37.0])
def test_a_room_times_as_large(factor):
    small, image = smooth(60, 80), noise(120, 160, 3)
    np.testing.assert_allclose(sharpen(small * np.float32(factor), image), sharpen(small, image) * factor, rtol=1e-3)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_photo_of_one_colour_leaves_smooth_depth_nearly_as_it_was(grey):
    small = smooth(120, 160, sigma=16)
    image = np.full((240, 320, 3), grey, np.uint8)
    out, plain = sharpen(small, image, gain=1.0), enlarged(small, image)
    assert abs_rel(out, plain) < 0.005  # the windows' mean is all that is left of the fit
    assert np.abs(np.diff(np.log(sharpen(small, image)))).max() < 0.049  # and nothing became a border


def test_a_blurred_step_is_sharp_again_where_the_photo_has_its_edge():
    image, truth = two_walls()
    small = seen_by_a_network(truth)
    out = sharpen(small, image)
    assert boundary_f1(enlarged(small, image), truth)["f1"] < 0.05
    assert boundary_f1(out, truth)["f1"] > 0.9 * boundary_f1(truth, truth)["f1"]
    assert abs_rel(out, truth) < 0.5 * abs_rel(enlarged(small, image), truth)


def test_the_edge_of_the_photo_decides_not_that_of_the_network():
    image, truth = two_walls(lean=0.0)
    shifted = np.roll(truth, 3, 1)
    shifted[:, :3] = truth[:, :3]
    out = sharpen(seen_by_a_network(shifted), image)
    jump = np.abs(np.diff(np.log(out), axis=1)).argmax(1)
    assert np.median(jump) == np.abs(np.diff(truth, axis=1)).argmax(1)[0] == 159


@given(st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 70), st.floats(1, 5), st.booleans())
def test_any_size_no_holes_no_overshoot(seed, height, width, enlarge, holes):
    depth = np.random.default_rng(seed).uniform(0.3, 9, (height, width)).astype(np.float32)
    if holes:
        depth[np.random.default_rng(seed + 1).random(depth.shape) < 0.3] = 0
    image = noise(max(round(height * enlarge), 1), max(round(width * enlarge), 1), 3, seed=seed)
    if not 2 / 3 < (width * image.shape[0]) / (height * image.shape[1]) < 3 / 2:
        return
    out = sharpen(depth, image)
    assert out.shape == image.shape[:2] and out.dtype == np.float32 and np.isfinite(out).all()
    seen = depth[depth > 0]
    if not holes:
        assert (out > 0).all()
    if len(seen):
        assert out.max() <= seen.max() * 1.0001 and (out[out > 0] >= seen.min() * 0.9999).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (8, 8), (8, 160), (481, 641), (750, 1000)])
def test_sizes_by_name(shape):
    "Also a photo smaller than the network's map, as a tiny one is."
    small = smooth(272, round(272 * shape[1] / shape[0]))
    assert sharpen(small, noise(*shape, 3)).shape == shape


def test_holes_stay_holes_and_spoil_nothing():
    image, truth = two_walls()
    holed = truth.copy()
    holed[100:140, 30:60] = 0
    holed[10:20, 200:210] = np.nan
    holed[50:55, 250:255] = np.inf
    holed[60:65, 250:255] = -1
    out = sharpen(holed, image)
    bad = ~((holed > 0) & np.isfinite(holed))
    assert (out[bad] == 0).all()
    np.testing.assert_allclose(out[~bad], sharpen(truth, image)[~bad], rtol=1e-3)


def test_depth_without_a_reading_is_all_holes():
    assert not sharpen(np.zeros((6, 8), np.float32), noise(12, 16, 3)).any()


def test_the_same_twice_and_inputs_untouched():
    small, image = smooth(60, 80), noise(120, 160, 3)
    kept = small.copy(), image.copy()
    np.testing.assert_array_equal(sharpen(small, image), sharpen(small, image))
    np.testing.assert_array_equal(small, kept[0])
    np.testing.assert_array_equal(image, kept[1])


def test_layouts_and_types_of_depth():
    small, image = smooth(60, 80), noise(120, 160, 3)
    want = sharpen(small, image)
    np.testing.assert_allclose(sharpen(small.astype(np.float64), image), want, rtol=1e-5)
    np.testing.assert_array_equal(sharpen(np.asfortranarray(small), image[:, ::-1][:, ::-1]), want)
    assert sharpen(np.full((6, 8), 2), noise(12, 16, 3)).dtype == np.float32


@pytest.mark.parametrize(
    "depth, image, error, message",
    [
        (np.ones((6, 8, 1)), noise(12, 16, 3), ValueError, "one map"),
        (np.ones((0, 8)), noise(12, 16, 3), ValueError, "one map"),
        (np.ones((6, 8)), noise(12, 16), ValueError, "RGB"),
        (np.ones((6, 8)), noise(12, 16, 4), ValueError, "RGB"),
        (np.ones((6, 8)), noise(12, 16, 3) / 255, TypeError, "uint8"),
        (np.ones((6, 8), complex), noise(12, 16, 3), TypeError, "metres"),
        (np.ones((8, 6)), noise(12, 16, 3), ValueError, "same view"),
    ],
)
def test_errors_say_what_was_expected(depth, image, error, message):
    with pytest.raises(error, match=message):
        sharpen(depth, image)


# --- its parts


def test_guide_fit_recovers_a_line():
    guide = noise(40, 50).astype(np.float32) / 255
    a, b = guide_fit(guide, 2 * guide + 1, eps=1e-8)
    np.testing.assert_allclose(a, 2, rtol=1e-3)
    np.testing.assert_allclose(b, 1, atol=1e-3)


def test_guide_fit_is_the_literal_one_in_the_middle_of_a_window():
    g, x = noise(9, 9, seed=1).astype(np.float32) / 255, noise(9, 9, seed=2).astype(np.float32) / 255
    lines = []
    for i in range(3, 6):
        for j in range(3, 6):
            G, X = g[i - 1 : i + 2, j - 1 : j + 2], x[i - 1 : i + 2, j - 1 : j + 2]
            a = ((G * X).mean() - G.mean() * X.mean()) / (G.var() + 0.01)
            lines.append((a, X.mean() - a * G.mean()))
    a, b = guide_fit(g, x, radius=1, eps=0.01)
    np.testing.assert_allclose((a[4, 4], b[4, 4]), np.mean(lines, 0), rtol=1e-4)


def test_steepen_leaves_ramps_and_keeps_limits():
    y, x = np.mgrid[:40, :50].astype(np.float32)
    ramp = 0.03 * x - 0.02 * y
    np.testing.assert_allclose(steepen(ramp, 9, gain=5)[8:-8, 8:-8], ramp[8:-8, 8:-8], atol=1e-5)
    bumpy = noise(40, 50).astype(np.float32) / 255
    low, high = local_limits(bumpy, 5)
    out = steepen(bumpy, 5, gain=50)
    assert (out >= low).all() and (out <= high).all()
    np.testing.assert_allclose(steepen(bumpy, 5, gain=1), bumpy, atol=1e-6)


def test_steepen_makes_a_slope_steeper_but_not_a_small_one():
    step = np.repeat(np.tanh(np.linspace(-4, 4, 60))[None].astype(np.float32), 20, 0)
    rise = lambda x: np.diff(x[10]).max() / (x.max() - x.min())
    assert rise(steepen(step, 9)) > 1.3 * rise(step)
    assert rise(steepen(0.002 * step, 9)) < 1.01 * rise(0.002 * step)


def test_fill_nearest():
    x = np.arange(35, dtype=np.float32).reshape(5, 7)
    valid = np.zeros((5, 7), bool)
    valid[0, 0] = valid[4, 6] = True
    out = fill_nearest(x, valid)
    assert set(np.unique(out)) == {0, 34} and out[1, 1] == 0 and out[3, 5] == 34
    assert fill_nearest(x, np.ones((5, 7), bool)) is x


def test_work_size():
    assert work_size((240, 320), (480, 640, 3)) == (240, 320)
    assert work_size((480, 640), (480, 640, 3)) == (240, 320)
    assert work_size((272, 272), (8, 8, 3)) == (8, 8)
    assert work_size((1, 900000), (1, 900000, 3))[0] == 1


def test_plane_residual_is_least_squares():
    d = np.random.default_rng(0).uniform(1, 3, (9, 9))
    y, x = np.mgrid[:9, :9]
    A = np.stack([np.ones(81), x.ravel(), y.ravel()], 1)
    inverse = (1 / d).ravel()
    left = inverse - A @ np.linalg.lstsq(A, inverse, rcond=None)[0]
    np.testing.assert_allclose(plane_residual(d, 9)[4, 4], np.sqrt((left**2).mean()) / inverse.mean(), rtol=1e-9)


def test_plane_roughness_sees_wallpaper_only():
    cam = Camera.from_fov(60, 100, 120)
    wall = (1 / (0.4 + 0.2 * cam.rays()[..., 0])).astype(np.float32)
    paper = 1 + 0.01 * np.sign(np.sin(np.arange(120)))
    assert plane_roughness(1.3 * wall, wall)["mean"] < 1e-4
    assert plane_roughness(wall * paper, wall)["median"] == pytest.approx(0.01, rel=0.1)
    assert np.isnan(plane_roughness(wall, np.random.default_rng(0).uniform(1, 5, wall.shape))["mean"])
    with pytest.raises(ValueError, match="one shape"):
        plane_roughness(wall[1:], wall)


def test_planes_keep_clear_of_holes_and_borders():
    _, truth = two_walls(100, 120)
    truth[50, 30] = 0
    flat = planar_mask(truth, 17)
    assert flat[30, 15] and not flat[50, 30] and not flat[50 + 8, 30 + 8] and not flat[50, 60] and not flat[3, 15]


# --- the gain that the page publishes


def test_imports_neither_torch_nor_the_network():
    code = "import sys, dogdepth.edges; sys.exit('torch' in sys.modules or 'dogdepth.predict' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def frames_of(items, weights):
    from dogdepth.predict import Predictor, network_size, predict_maps

    p = Predictor(weights, device="cpu")
    for i in items:
        size = network_size(*i["image"].shape[:2], p.size)
        yield i | dict(small=predict_maps(p.model, [i["image"]], [i["camera"]], size)[0][0])


def both(items, weights, exact=True):
    frames = list(frames_of(items, weights))
    ways = (lambda f: enlarged(f["small"], f["image"])), (lambda f: sharpen(f["small"], f["image"]))
    return [edge_row(w, frames, exact) for w in ways]


def test_rendered_rooms():
    before, after = both([render_room(s, 480, 640) for s in (9001, 9005, 9011)], "default")
    assert before["f1"] < 0.05 and after["f1"] > 0.25
    assert after["abs_rel"] < before["abs_rel"] + 0.001
    assert after["rough_median"] < 1.1 * before["rough_median"]


def test_published_table():
    with open(ROOT / "results" / "edges.csv", newline="") as f:
        rows = {(r["method"], r["set"]): r for r in csv.DictReader(f)}
    number = lambda kind, key: [float(rows[m, kind][key]) for m in ("enlarged, bilinear", "**sharpen**")]
    for kind in ("flat", "rooms"):
        assert number(kind, "f1")[1] > 0.25 > 0.05 > number(kind, "f1")[0]
    before, after = number("nyu", "abs_rel")
    assert after < before + 0.001 and {r["n"] for r in rows.values() if r["set"] == "nyu"} == {"105"}


def test_real_frames_keep_their_distances(data):
    from dogdepth.nyu import NYUDepth

    val = NYUDepth(data / "nyu", split="val")
    before, after = both([val[i] for i in range(0, len(val), 18)], "twin", exact=False)
    assert after["abs_rel"] < before["abs_rel"] + 0.001


def test_a_flat_the_network_never_saw(data):
    folder = data / "other_cameras"
    if not folder.is_dir():
        pytest.skip("this folder of real data has no other_cameras/")
    with open(folder / "index.csv", newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["set"] == "replica_apartment0"][::6]
    items = []
    for r in rows:
        camera = Camera(*(float(r[k]) for k in ("fx", "fy", "cx", "cy")), int(r["h"]), int(r["w"]))
        image = read_image(folder / r["set"] / "rgb" / f"{r['name']}.jpg")
        items.append(
            dict(image=image, depth=read_depth(folder / r["set"] / "depth_mm" / f"{r['name']}.png"), camera=camera)
        )
    before, after = both(items, "default")
    assert before["f1"] < 0.02 and after["f1"] > 0.2
    assert after["abs_rel"] < before["abs_rel"] + 0.002
