"Metrics against a plain-numpy oracle written from the papers' formulas, and against laws that any right version obeys."

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from dogdepth import confidence, metrics, shape
from dogdepth.depth import NYU_CAMERA
from dogdepth.metrics import EIGEN_CROP, METRICS, crop_mask, depth_metrics

KEYS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3", "n"]


def maps(seed=0, n=1, h=24, w=32, holes=0.2):
    "Truth with holes and a prediction that is wrong by a factor near one: (n,1,h,w) float32."
    r = np.random.default_rng(seed)
    t = r.uniform(0.5, 9.5, (n, 1, h, w)).astype(np.float32)
    p = (t * np.exp(0.3 * r.standard_normal(t.shape))).astype(np.float32)
    t[r.random(t.shape) < holes] = 0
    return p, t


def oracle(p, t):
    "The table, one pixel at a time, from two lists of floats."
    n = len(p)
    g = [math.log(a) - math.log(b) for a, b in zip(p, t)]
    worst = [max(a / b, b / a) for a, b in zip(p, t)]
    mean_g = sum(g) / n
    return {
        "abs_rel": sum(abs(a - b) / b for a, b in zip(p, t)) / n,
        "sq_rel": sum((a - b) ** 2 / b for a, b in zip(p, t)) / n,
        "rmse": math.sqrt(sum((a - b) ** 2 for a, b in zip(p, t)) / n),
        "rmse_log": math.sqrt(sum(x * x for x in g) / n),
        "log10": sum(abs(math.log10(a) - math.log10(b)) for a, b in zip(p, t)) / n,
        "silog": 100 * math.sqrt(sum((x - mean_g) ** 2 for x in g) / n),
        "delta1": sum(x < 1.25 for x in worst) / n,
        "delta2": sum(x < 1.5625 for x in worst) / n,
        "delta3": sum(x < 1.953125 for x in worst) / n,
        "n": n,
    }


def counted_pixels(p, t, mask, cap, align):
    "Loop over one image (H,W) and keep what counts, by hand."
    pp, tt = [], []
    for y in range(t.shape[0]):
        for x in range(t.shape[1]):
            if mask[y, x] and cap[0] < t[y, x] <= cap[1]:
                pp.append(float(p[y, x]))
                tt.append(float(t[y, x]))
    if align == "median":
        s = sorted(tt)[len(tt) // 2] / sorted(pp)[len(pp) // 2] if len(tt) % 2 else np.median(tt) / np.median(pp)
        pp = [a * s for a in pp]
    if align == "affine":
        s, b = np.polyfit(pp, tt, 1)
        pp = [a * s + b for a in pp]
    return [min(max(a, cap[0]), cap[1]) for a in pp], tt


def close(a, b, tol=1e-9):
    assert list(a) == KEYS == list(b)
    for k in KEYS:
        assert a[k] == pytest.approx(b[k], rel=tol, abs=tol), k


@pytest.mark.parametrize("align", [None, "median", "affine"])
@pytest.mark.parametrize("cap", [(1e-3, 10.0), (1.0, 5.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_single_map_against_oracle(align, cap, seed):
    p, t = (x[0, 0] for x in maps(seed))
    mask = np.random.default_rng(9).random(t.shape) < 0.7
    want = oracle(*counted_pixels(p, t, mask, cap, align))
    close(depth_metrics(p, t, mask, cap=cap, align=align), want)
    assert want["delta1"] < want["delta2"] < want["delta3"] <= 1  # the data separates the thresholds


@pytest.mark.parametrize("average", ["image", "pixel"])
@pytest.mark.parametrize("align", [None, "median", "affine"])
def test_batch_against_oracle(average, align):
    p, t = maps(2, n=3)
    t[1, 0, :, 5:] = 0  # one image with few readings: the two averages must differ
    each = [counted_pixels(p[i, 0], t[i, 0], np.ones(t.shape[2:], bool), (1e-3, 10.0), align) for i in range(3)]
    if average == "pixel":
        want = oracle(sum((a for a, _ in each), []), sum((b for _, b in each), []))
    else:
        tables = [oracle(*e) for e in each]
        want = {k: sum(x[k] for x in tables) / 3 for k in KEYS} | {"n": sum(x["n"] for x in tables)}
    close(depth_metrics(torch.tensor(p), torch.tensor(t), average=average, align=align), want)


def test_averages_differ():
    p, t = maps(2, n=3)
    t[1, 0, :, 5:] = 0
    p[1] *= 2
    a, b = (depth_metrics(p, t, average=x)["abs_rel"] for x in ("image", "pixel"))
    assert a > 1.2 * b


def test_numpy_and_torch_and_batch_agree():
    p, t = maps(3)
    one = depth_metrics(p[0, 0], t[0, 0])
    assert one == depth_metrics(torch.tensor(p), torch.tensor(t)) == depth_metrics(torch.tensor(p[0, 0]), t[0, 0])
    assert all(isinstance(v, float) for k, v in one.items() if k != "n") and isinstance(one["n"], int)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_torch_dtypes(dtype):
    p, t = maps(4)
    p = torch.tensor(p, requires_grad=True).to(dtype)
    got = depth_metrics(p, torch.tensor(t))
    assert got["abs_rel"] == pytest.approx(depth_metrics(p.detach().double(), t)["abs_rel"], rel=1e-12)


def test_perfect():
    _, t = maps(5)
    m = depth_metrics(t, t)
    for k in KEYS[:6]:
        assert m[k] == 0, k
    assert m["delta1"] == m["delta2"] == m["delta3"] == 1 and m["n"] == (t > 0).sum()


def test_ten_percent_overshoot_by_hand():
    t = np.linspace(1, 9, 200, dtype=np.float64).reshape(10, 20)
    m = depth_metrics(1.1 * t, t)
    assert m["abs_rel"] == pytest.approx(0.1, abs=1e-12)
    assert m["sq_rel"] == pytest.approx(0.01 * t.mean())
    assert m["rmse"] == pytest.approx(0.1 * np.sqrt((t**2).mean()))
    assert m["rmse_log"] == pytest.approx(math.log(1.1)) and m["log10"] == pytest.approx(math.log10(1.1))
    assert m["silog"] == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("factor", [0.5, 0.9, 3.0])
def test_silog_and_median_ignore_scale(factor):
    p, t = maps(6)
    cap = (1e-3, 1e3)
    a, b = depth_metrics(p, t, cap=cap), depth_metrics(p * factor, t, cap=cap)
    assert b["silog"] == pytest.approx(a["silog"], rel=1e-6) and b["abs_rel"] != pytest.approx(a["abs_rel"], rel=0.01)
    a, b = (depth_metrics(x, t, cap=cap, align="median") for x in (p, p * factor))
    close(a, b, 1e-6)


def test_affine_ignores_scale_and_shift():
    p, t = maps(7)
    cap = (1e-3, 1e3)
    close(*(depth_metrics(x, t, cap=cap, align="affine") for x in (p, 0.3 * p + 2)), 1e-5)
    assert depth_metrics(0.3 * t + 2, t, cap=cap, align="affine")["abs_rel"] == pytest.approx(0, abs=1e-6)
    flat = depth_metrics(np.full_like(t, 2), t, align="affine")  # nothing to fit but the mean
    assert flat["rmse"] == pytest.approx(t[t > 0].astype(float).std(), rel=1e-6)


def test_alignment_is_per_image_even_when_pixels_are_pooled():
    _, t = maps(8, n=2)
    p = t * np.array([2.0, 0.25], np.float32)[:, None, None, None]
    assert depth_metrics(p, t, average="pixel", align="median")["abs_rel"] == pytest.approx(0, abs=1e-7)


def test_prediction_is_clamped_truth_is_masked():
    t = np.array([[5.0, 12.0, 0.0, np.nan, np.inf, 1e-3]], np.float32)
    m = depth_metrics(np.array([[99.0, 1, 1, 1, 1, 1]]), t)
    assert m["n"] == 1 and m["abs_rel"] == pytest.approx(1)  # 99 m counts as 10 m
    for p in (-3.0, 0.0):  # 0 in a prediction is a guess, and no hole
        m = depth_metrics(np.array([[p]]), np.array([[2.0]]))
        assert m["n"] == 1 and m["abs_rel"] == pytest.approx((2 - 1e-3) / 2)


def test_delta_is_strict():
    assert depth_metrics(np.full((2, 2), 2.5), np.full((2, 2), 2.0))["delta1"] == 0
    assert depth_metrics(np.full((2, 2), 2.0), np.full((2, 2), 2.5))["delta1"] == 0
    assert depth_metrics(np.full((2, 2), 2.49), np.full((2, 2), 2.0))["delta1"] == 1


# --- crop


def test_eigen_crop_counts():
    t = np.ones((480, 640), np.float32)
    assert depth_metrics(t, t)["n"] == depth_metrics(t, t, crop="eigen")["n"] == 426 * 560
    assert depth_metrics(t, t, crop=None)["n"] == 480 * 640
    assert depth_metrics(t[::2, ::2], t[::2, ::2])["n"] == 240 * 320


@pytest.mark.parametrize(
    "y,x,inside",
    [(45, 41, True), (44, 41, False), (45, 40, False), (470, 600, True), (471, 600, False), (470, 601, False)],
)
def test_eigen_crop_corners(y, x, inside):
    t = np.ones((1, 1, 480, 640), np.float32)
    p = t.copy()
    p[0, 0, y, x] = 2
    assert (depth_metrics(p, t)["abs_rel"] > 0) == inside
    assert depth_metrics(p, t, crop=None)["abs_rel"] > 0
    assert crop_mask((480, 640))[y, x] == inside
    sub = np.zeros((480, 640), bool)
    sub[EIGEN_CROP] = True
    assert (sub == crop_mask((480, 640), "eigen")).all()


# --- nothing to score, bad input


def test_images_without_pixels():
    p, t = maps(9, n=3)
    t[1] = 0
    close(depth_metrics(p, t), depth_metrics(p[[0, 2]], t[[0, 2]]))
    empty = depth_metrics(p, t * 0)
    assert empty["n"] == 0 and list(empty) == KEYS and all(math.isnan(empty[k]) for k in KEYS[:-1])
    for kw in (dict(average="pixel"), dict(align="median"), dict(align="affine")):
        assert depth_metrics(p, t * 0, **kw)["n"] == 0


def test_nan_where_nothing_counts_is_fine():
    p, t = maps(10)
    want = depth_metrics(p, t)
    p[t == 0] = np.nan
    assert depth_metrics(p, t) == want


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_in_prediction(bad):
    p, t = maps(11, holes=0)
    p[0, 0, 3, 4:6] = bad
    with pytest.raises(ValueError, match=r"holds 2 nan or infinite values at pixels that count, of 768"):
        depth_metrics(p, t)


T = np.ones((4, 5), np.float32)


@pytest.mark.parametrize(
    "args,kw,match",
    [
        ((T, T), dict(crop="eigen"), r"480x640 and of nothing else, got 4x5"),
        ((T, T), dict(crop="garg"), r"crop should be one of \('auto', 'eigen', None\), got 'garg'"),
        ((T, T), dict(average="pixels"), r"average should be one of \('image', 'pixel'\), got 'pixels'"),
        ((T, T), dict(align="scale"), r"align should be one of \(None, 'median', 'affine'\), got 'scale'"),
        ((T, T), dict(cap=(0, 10)), r"cap should be .*got \(0, 10\)"),
        ((T, T), dict(cap=(5, 1)), r"cap should be"),
        (
            (T, T),
            dict(cap=10),
            r"cap should be \(low, high\] metres with 0 < low < high, such as \(0.001, 10\), got 10$",
        ),
        ((T, T), dict(cap=(1, 5, 10)), r"cap should be .*got \(1, 5, 10\)"),
        ((T, T), dict(cap=None), r"cap should be .*got None"),
        ((T, T), dict(cap="10"), r"cap should be .*got '10'"),
        ((T, T[:3]), {}, r"one shape, got \(1, 4, 5\) and \(1, 3, 5\)"),
        ((T[None, None], T), dict(), None),
        ((T[None], T[None]), {}, r"pred should be one map \(H,W\) or a batch \(B,1,H,W\), got \(1, 4, 5\)"),
        ((np.ones((2, 3, 4, 5)), T), {}, r"pred should be .*got \(2, 3, 4, 5\)"),
        ((T, T, T), {}, r"mask should be bool"),
        ((T, T, T[:3] > 0), {}, r"mask should be bool and shaped like target, \(1, 4, 5\)"),
        ((-T, T), dict(align="median"), r"needs a positive prediction, its median is -1"),
    ],
)
def test_errors(args, kw, match):
    if match is None:  # one map and a batch of one mean the same
        assert depth_metrics(*args, **kw)["n"] == 20
        return
    with pytest.raises(ValueError, match=match):
        depth_metrics(*args, **kw)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint8])
def test_a_files_raw_numbers_are_refused(dtype):
    p, t = (x[0, 0] for x in maps(22))
    raw = lambda x: np.rint(x * (25 if dtype == np.uint8 else 1000)).astype(dtype)
    for call in (depth_metrics, metrics.image_metrics):
        for args in ((raw(p), t), (p, raw(t))):
            with pytest.raises(ValueError, match=rf"metres as floats, got {np.dtype(dtype)}: .*read_depth"):
                call(*args)
    with pytest.raises(ValueError, match="metres as floats, got int32"):
        depth_metrics(torch.tensor(raw(p).astype(np.int32)), t)


def test_millimetres_as_floats_are_refused_and_bad_predictions_are_not():
    p, t = (x[0, 0] for x in maps(23))
    with pytest.raises(
        ValueError, match=r"about a thousand times the truth \(medians \d{4} and \d\.\d\d\): are these millimetres"
    ):
        depth_metrics(1000 * p, t)
    assert depth_metrics(1000 * p, t, align="median")["abs_rel"] == pytest.approx(
        depth_metrics(p, t, align="median")["abs_rel"]
    )  # fitted: no unit is claimed
    for bad in (
        p / 1000,
        100 * p,
        1e6 * p,
        np.where(np.arange(32) < 12, 1000 * p, p),
    ):  # too near, too far, absurd, and in part
        assert depth_metrics(bad, t)["n"] == (t > 0).sum()


def test_millimetres_in_both_are_refused_and_a_far_truth_is_not():
    p, t = (x[0, 0] for x in maps(24))
    for kw in ({}, dict(cap=(1e-3, 5.0)), dict(align="median")):
        with pytest.raises(
            ValueError,
            match=r"most of the truth lies beyond \d+ m \(its median is \d{4}\), and the cap is \d+: are these millimetres",
        ):
            depth_metrics(1000 * p, 1000 * t, **kw)
    with pytest.raises(ValueError, match="are these millimetres"):
        depth_metrics(p, 1000 * t)
    assert depth_metrics(20 * p, 20 * t)["n"] < (t > 0).sum()  # outdoors: legal, and left out
    assert depth_metrics(1000 * p, 1000 * t, cap=(1e-3, 1e5))["n"] == (t > 0).sum()  # who says so means it
    assert depth_metrics(p, np.where(np.arange(32) < 12, 1000 * t, t))["n"] > 0  # a part is not most
    assert depth_metrics(p, t, cap=(1e-3, 2e-3))["n"] == 0  # a tiny cap makes no millimetres of metres
    far = np.where(t > 0, np.inf, 0)
    assert depth_metrics(p, far)["n"] == 0  # no reading at all


def test_a_prediction_is_asked_for_its_depth():
    from dogdepth.depth import Camera
    from dogdepth.predict import Prediction

    r = Prediction(T, Camera.from_fov(60, 4, 5), np.zeros((4, 5, 3), np.uint8))
    for call in (lambda: depth_metrics(r, T), lambda: depth_metrics(T, r), lambda: METRICS["rmse"](r, T)):
        with pytest.raises(ValueError, match=r"\(H,W\).* got a Prediction: pass \.depth_m"):
            call()
    assert depth_metrics(r.depth_m, T)["n"] == 20


# --- the pieces that `evaluate` is made of


@pytest.mark.parametrize("average", ["image", "pixel"])
@pytest.mark.parametrize("align", [None, "median"])
def test_rows_average_to_the_table_of_the_batch(average, align):
    p, t = maps(14, n=5)
    t[3], t[1, 0, 4:] = 0, 0
    rows = [metrics.image_metrics(a[0], b[0], align=align) for a, b in zip(p, t)]
    assert rows[3]["n"] == 0 and math.isnan(rows[3]["abs_rel"])
    close(metrics.average_metrics(rows, average), depth_metrics(p, t, average=average, align=align))


@pytest.mark.parametrize("average", ["image", "pixel"])
def test_times_are_copies_of_rows(average):
    p, t = maps(21, n=4)
    t[1], t[2, 0, 6:] = 0, 0
    rows = [metrics.image_metrics(a[0], b[0]) for a, b in zip(p, t)]
    times = np.array([[1, 1, 1, 1], [3, 0, 2, 0], [0, 5, 0, 1]])
    got = metrics.average_metrics(rows, average, times)
    for i, ks in enumerate(times):
        want = metrics.average_metrics([r for r, k in zip(rows, ks) for _ in range(k)], average)
        for k in KEYS:
            assert got[k][i] == pytest.approx(want[k], rel=1e-9), k


def test_log_bias():
    _, t = maps(15)
    assert metrics.log_bias(1.2 * t, t) == pytest.approx(math.log(1.2), rel=1e-6)
    assert metrics.image_metrics(0.8 * t[0, 0], t[0, 0])["log_bias"] == pytest.approx(math.log(0.8), rel=1e-6)


def test_metric_table():
    rows = {
        "a model": depth_metrics(np.full((4, 5), 1.1), np.ones((4, 5))),
        "b": depth_metrics(np.ones((4, 5)), np.ones((4, 5))),
    }
    lines = metrics.metric_table(rows).splitlines()
    assert len(lines) == 4 and len({len(x) for x in lines}) == 1  # columns line up
    cells = [[c.strip() for c in x.strip("|").split("|")] for x in lines]
    assert cells[0] == ["", "AbsRel", "RMSE", "log10", "SILog", "δ1", "δ2", "δ3"]
    assert cells[2] == ["a model", "0.100", "0.100", "0.041", "0.00", "1.000", "1.000", "1.000"]
    said = metrics.metric_table(rows, note="2 maps; no crop")
    assert said.splitlines() == [*lines, "", "2 maps; no crop"]  # an empty line, or Markdown would make a row of it
    assert "n" in metrics.metric_table(rows, ("abs_rel", "n")).splitlines()[0] and "20" in metrics.metric_table(
        rows, ("n",)
    )


def test_baseline_maps():
    r = np.random.default_rng(0)
    frames = [dict(depth=r.uniform(1, 9, (12, 16)).astype(np.float32)) for _ in range(5)]
    for f in frames:
        f["depth"][:, :3] = 0  # never seen
    frames[0]["depth"][5, 5] = 0
    got = metrics.baseline_maps(frames, size=(12, 16))
    seen = np.stack([f["depth"] for f in frames])
    mid = np.median(seen[:, :, 3:], 0)
    mid[5, 2] = np.median(seen[1:, 5, 5])
    assert np.allclose(got["per-pixel median"][:, 3:], mid)
    assert np.allclose(got["per-pixel median"][:, :3], np.median(seen[seen > 0]))
    assert got["training mean"].shape == (12, 16) and np.ptp(got["training mean"]) == 0
    filled = np.where(seen > 0, seen, np.nan)
    filled[:, :, :3] = np.median(seen[seen > 0])
    assert got["training mean"][0, 0] == pytest.approx(np.nanmean(filled), rel=1e-5)
    assert np.allclose(
        metrics.baseline_maps(frames, every=2, size=(12, 16))["per-pixel median"][5, 5], np.median(seen[[2, 4], 5, 5])
    )
    with pytest.raises(ValueError, match="none of 1 training frames holds a reading"):
        metrics.baseline_maps([dict(depth=np.zeros((12, 16), np.float32))])


# --- single metrics


@pytest.mark.parametrize("name", KEYS[:-1])
def test_single_functions_are_the_table(name):
    p, t = maps(12)
    f = getattr(metrics, name)
    assert f is METRICS[name]
    assert f(p, t) == pytest.approx(depth_metrics(p, t, cap=(1e-3, 1e3))[name], rel=1e-12)
    assert f(torch.tensor(p), torch.tensor(t)) == f(p, t)
    mask = (t > 2) & (t < 5)
    assert f(p, t, mask) == pytest.approx(oracle(p[mask].astype(float), t[mask].astype(float))[name], rel=1e-9)


def test_silog_knobs():
    p, t = maps(13)
    assert metrics.silog(p, t, lam=0, scale=1) == pytest.approx(metrics.rmse_log(p, t))
    g = np.log(p[t > 0].astype(float) / t[t > 0])
    assert metrics.silog(p, t, lam=0.85, scale=10) == pytest.approx(
        10 * math.sqrt((g**2).mean() - 0.85 * g.mean() ** 2)
    )


def test_single_function_errors():
    with pytest.raises(
        ValueError, match=r"pred and target should have one shape, got \(4, 5\) and \(3, 5\): resize the prediction"
    ):
        metrics.abs_rel(T, T[:3])
    with pytest.raises(ValueError, match=r"mask should be bool and shaped like target, \(4, 5\); got float32"):
        metrics.abs_rel(T, T, T)


# --- answers without looking: a floor and a wall


def test_floor_plane_by_tracing_each_ray():
    """World geometry, ray by ray: turn the ray, walk to the floor and to the wall, take the nearer, and report its z in
    the camera's frame."""
    cam = NYU_CAMERA.resize(12, 16)
    for height, pitch, wall in ((1.4, 0.0, 3.0), (1.1, 25.0, 4.0), (1.6, -10.0, 2.5)):
        got = metrics.floor_plane(cam, height, pitch, wall)
        a = math.radians(pitch)
        for v in range(12):
            for u in range(16):
                y = (v - cam.cy) / cam.fy
                forward, down = math.cos(a) - y * math.sin(a), math.sin(a) + y * math.cos(a)
                z = min([height / down] * (down > 0) + [wall / forward] * (forward > 0))
                assert got[v, u] == pytest.approx(z, rel=1e-5)
        pts = cam.backproject(got)  # and every point lies on the floor or on the wall
        down, forward = (
            pts[..., 1] * math.cos(a) + pts[..., 2] * math.sin(a),
            pts[..., 2] * math.cos(a) - pts[..., 1] * math.sin(a),
        )
        assert np.minimum(abs(down - height), abs(forward - wall)).max() < 1e-4


def test_fit_floor_plane_finds_what_made_the_rooms():
    cams = [NYU_CAMERA, NYU_CAMERA.resize(240, 320)]
    rooms = [dict(depth=metrics.floor_plane(c, 1.4, 22.0, 3.4), camera=c) for c in cams]
    got = metrics.fit_floor_plane(rooms)
    assert (
        got["height_m"] == 1.4
        and got["pitch_deg"] == pytest.approx(22, abs=0.5)
        and got["wall_m"] == pytest.approx(3.4, rel=0.01)
    )
    rooms[1]["depth"][:] = 0  # a frame without readings has no say
    assert metrics.fit_floor_plane(rooms)["pitch_deg"] == pytest.approx(22, abs=0.5)
    assert metrics.fit_floor_plane(
        [rooms[0], dict(rooms[0], depth=rooms[0]["depth"] * 2)], every=2
    ) == metrics.fit_floor_plane(rooms[:1])
    with pytest.raises(ValueError, match="none of 1 training frames holds a reading"):
        metrics.fit_floor_plane(rooms[1:])


# --- boundaries


def boundary_oracle(p, t, mask):
    """Loop over pixels and their four neighbours, as the definition is written: precision and recall averaged over
    directions, one without an edge as 0, then F1; factors weighted by themselves."""
    factors = [1.05 + 0.2 * k / 9 for k in range(10)]
    score, n = 0.0, None
    h, w = t.shape
    for f in factors:
        precision = recall = edges = 0
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            hit = said = true = 0
            for y in range(h):
                for x in range(w):
                    j = y + dy, x + dx
                    if not (0 <= j[0] < h and 0 <= j[1] < w and mask[y, x] and mask[j]):
                        continue
                    a, b = p[j] / p[y, x] > f, t[j] / t[y, x] > f
                    hit, said, true = hit + (a and b), said + a, true + b
            precision, recall, edges = precision + hit / max(said, 1) / 4, recall + hit / max(true, 1) / 4, edges + true
        n = edges if n is None else n
        score += f * (2 * precision * recall / (precision + recall) if precision + recall else 0)
    return score / sum(factors) if n else math.nan, n


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boundary_f1_against_oracle(seed):
    r = np.random.default_rng(seed)
    t = np.repeat(np.repeat(r.uniform(1, 6, (4, 5)), 3, 0), 3, 1) * (1 + 0.05 * r.random((12, 15)))
    p = t * np.exp(0.05 * r.standard_normal(t.shape))
    t[r.random(t.shape) < 0.1] = 0
    mask = r.random(t.shape) < 0.95
    for m in (None, mask):
        f1, n = boundary_oracle(p, t, (t > 0) & (mask if m is not None else True))
        got = shape.boundary_f1(p, t, m)
        assert got["f1"] == pytest.approx(f1) and got["n"] == n
        assert 0 < got["f1"] < 1 and min(got["precision"], got["recall"]) <= got["f1"] + 1e-9


def test_boundary_f1_laws():
    r = np.random.default_rng(5)
    t = np.repeat(np.repeat(r.uniform(1, 6, (4, 5)), 3, 0), 3, 1)
    p = t * np.exp(0.1 * r.standard_normal(t.shape))
    one = shape.boundary_f1(p, t)
    assert shape.boundary_f1(t, t) == dict(f1=1.0, precision=1.0, recall=1.0, n=one["n"])
    assert shape.boundary_f1(0.37 * p, t) == pytest.approx(one)  # no scale
    assert shape.boundary_f1(p, 1.5 * t) == pytest.approx(one)
    for turn in (np.fliplr, np.flipud, np.transpose):  # no direction
        assert shape.boundary_f1(turn(p), turn(t)) == pytest.approx(one)
    assert shape.boundary_f1(1 / t, t)["f1"] == 0  # every edge there, and every one the wrong way round
    assert shape.boundary_f1(np.full_like(t, 2), t) == dict(f1=0.0, precision=0.0, recall=0.0, n=one["n"])
    flat = shape.boundary_f1(p, np.full_like(t, 2))
    assert flat["n"] == 0 and all(math.isnan(flat[k]) for k in ("f1", "precision", "recall"))
    assert shape.boundary_f1(torch.tensor(p), torch.tensor(t)) == one


def depth_pro(p, t):
    """Depth Pro's program in other words: on 1/depth, whole arrays, no holes; precision and recall are means over four
    directions, F1 a mean over ten factors."""
    ways = [
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:-1], np.s_[1:]),
    ]
    factors, f1 = np.linspace(1.05, 1.25, 10), []
    for f in factors:
        said, true = ([(1 / d)[a] / (1 / d)[b] > f for a, b in ways] for d in (p, t))
        hit = [(x & y).sum() for x, y in zip(said, true)]
        prec, rec = (sum(h / max(x.sum(), 1) for h, x in zip(hit, e)) / 4 for e in (said, true))
        f1.append(2 * prec * rec / (prec + rec) if prec + rec else 0.0)
    return np.sum(np.array(f1) * factors / factors.sum())


@pytest.mark.parametrize("seed", range(5))
def test_boundary_f1_is_depth_pros(seed):
    "Rendered rooms, answers of many kinds: the same number as their program, to rounding."
    from dogdepth.rooms import render_room

    r = np.random.default_rng(seed)
    t = render_room(seed, 60, 80)["depth"].astype(float)
    field = np.exp(np.cumsum(0.03 * r.standard_normal(t.shape), 1))
    for p in (
        t,
        t * field,
        t * np.exp(0.1 * r.standard_normal(t.shape)),
        np.roll(t, 1, 1),
        np.full_like(t, 2),
        1 / t,
        np.maximum(t.T[:60, :60], 1),
    ):
        q = t[: p.shape[0], : p.shape[1]]
        assert shape.boundary_f1(p, q)["f1"] == pytest.approx(depth_pro(p, q), abs=1e-12)


def test_boundary_f1_of_an_empty_direction():
    """A direction or a factor without a true edge scores 0, as in their program: a one-row step is worth 1/4, a pillar
    1, a shallow one the share of the factors that it reaches."""
    step = np.array([[2.0, 2, 2, 4, 4, 4]])
    pillar = np.full((9, 9), 4.0)
    pillar[3:6, 3:6] = 2
    low = np.where(pillar == 2, 3.6, pillar)  # a factor 1.11: an edge for three of the ten factors
    for x, want in ((step, 0.25), (pillar, 1), (low, shape.BOUNDARY_FACTORS[:3].sum() / shape.BOUNDARY_FACTORS.sum())):
        assert shape.boundary_f1(x, x)["f1"] == pytest.approx(want) == pytest.approx(depth_pro(x, x))


def test_boundary_f1_at_one_threshold():
    """A step of 1.1 is an edge at the first three factors only, and there it is found; of four directions only one has
    edges."""
    t = np.array([[2.0, 2.2, 2.2, 4.0]])
    p = np.array([[2.0, 2.2, 2.2, 2.2]])
    f = shape.BOUNDARY_FACTORS
    low = f < 1.1
    assert low.sum() == 3
    got = shape.boundary_f1(p, t)
    assert got["f1"] == pytest.approx((f * low).sum() * (2 * 1 / (1 + 2)) / f.sum() / 4)
    assert got["recall"] == pytest.approx((f * low).sum() * 0.5 / f.sum() / 4) and got["precision"] == pytest.approx(
        (f * low).sum() / f.sum() / 4
    )


def test_maps_of_edges_and_points_are_checked():
    t = np.full((4, 6), 2.0, np.float32)
    cam = NYU_CAMERA.resize(4, 6)
    for call in (lambda p, m=None: shape.boundary_f1(p, t, m), lambda p, m=None: shape.depth_clouds(p, t, cam, m)):
        for m in (np.ones((4, 6), np.uint8), np.ones((4, 6)), np.ones((4, 5), bool), np.ones(6, bool)):
            with pytest.raises(
                ValueError, match=rf"mask should be bool and shaped like target, \(4, 6\); got {m.dtype}, "
            ):
                call(t, m)
        with pytest.raises(
            ValueError, match="the prediction holds 1 nan or infinite values at pixels that count, of 24"
        ):
            call(np.where(np.arange(24).reshape(4, 6) == 5, np.nan, t))
        with pytest.raises(ValueError, match=r"two maps \(H,W\) of one shape"):
            call(t[:3])
    for f in (
        lambda m: shape.depth_steps(t, m),
        lambda m: metrics.image_metrics(t, t, m),
        lambda m: METRICS["rmse"](t, t, m),
    ):
        with pytest.raises(ValueError, match="mask should be bool and shaped like target"):
            f(np.ones((4, 6), np.uint8))
    for bad in (np.full((3, 3), np.nan), np.ones(3), np.ones((3, 2))):
        with pytest.raises(ValueError, match=r"pred should be points \(N,3\) in metres, all of them finite"):
            shape.cloud_distances(bad, np.ones((3, 3)))


def test_boundary_f1_holes_and_crop():
    t = np.full((480, 640), 2.0)
    t[:, :20] = 5  # an edge outside the Eigen crop
    assert shape.boundary_f1(t, t)["n"] == 0 and shape.boundary_f1(t, t, crop=None)["n"] == 480
    s = np.full((4, 6), 2.0)
    s[:, 3:] = 4
    s[:, 2] = 0  # the pixel before the step was not measured: nothing is known of an edge there
    assert shape.boundary_f1(s, s)["n"] == 0
    bad = np.where(s > 0, s, np.nan)  # a hole in the prediction where the truth has one too
    s[:, 3] = 2
    assert shape.boundary_f1(bad, s)["n"] == 4
    with pytest.raises(ValueError, match="holds 8 nan or infinite"):
        shape.boundary_f1(np.where(s == 4, np.nan, s), s)
    for p, q in ((s, s[:3]), (s[None], s[None])):
        with pytest.raises(ValueError, match=r"two maps \(H,W\) of one shape"):
            shape.boundary_f1(p, q)


# --- point clouds


def test_cloud_distances_and_fscore_against_brute_force():
    r = np.random.default_rng(0)
    a, b = r.uniform(0, 1, (300, 3)), r.uniform(0, 1, (400, 3))
    d = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    far = shape.cloud_distances(a, b)
    assert np.allclose(far[0], d.min(1)) and np.allclose(far[1], d.min(0))
    for tau in (0.05, 0.1, 0.2):
        p, q = (d.min(1) < tau).mean(), (d.min(0) < tau).mean()
        assert shape.fscore(*far, tau) == pytest.approx(dict(fscore=2 * p * q / (p + q), precision=p, recall=q))
        assert shape.fscore(*shape.cloud_distances(a, b, limit=0.2), tau) == shape.fscore(
            *far, tau
        )  # a limit changes nothing below it
    few = shape.cloud_distances(a, b, n=50, seed=3)
    assert (
        len(few[0]) == len(few[1]) == 50 and set(few[0]) <= set(far[0]) and set(few[1]) <= set(far[1])
    )  # the others still answer
    assert all((x == y).all() for x, y in zip(few, shape.cloud_distances(a, b, n=50, seed=3)))
    assert (few[0] != shape.cloud_distances(a, b, n=50, seed=4)[0]).any()


def test_fscore_edges():
    assert shape.fscore(np.array([0.3]), np.array([0.3]), 0.1) == dict(fscore=0.0, precision=0.0, recall=0.0)
    assert not any(shape.fscore(np.array([0.1]), np.array([0.1]), 0.1).values())  # exactly tau does not count
    for x, y in ((np.zeros(0), np.ones(1)), (np.ones(1), np.zeros(0))):
        assert math.isnan(shape.fscore(x, y)["fscore"])
    empty = shape.cloud_distances(np.zeros((0, 3)), np.ones((2, 3)))
    assert math.isnan(shape.fscore(*empty)["fscore"])


def test_every_point_counts():
    "No thinning: the same surface, seen by more pixels, weighs more (Tanks and Temples thins first)."
    t, p = np.array([[0, 0, 1.0], [0, 0, 5.0]]), np.array([[0, 0, 1.0], [0, 0, 6.0]])
    assert shape.fscore(*shape.cloud_distances(p, t))["precision"] == 1 / 2
    assert shape.fscore(*shape.cloud_distances(p[[0, 0, 0, 1]], t))["precision"] == 3 / 4


def test_depth_clouds():
    cam = NYU_CAMERA.resize(24, 32)
    p, t = (x[0, 0] for x in maps(20))
    mask = np.random.default_rng(1).random(t.shape) < 0.5
    a, b = shape.depth_clouds(p, t, cam, mask)
    ok = mask & (t > 0)
    v, u = np.nonzero(ok)
    for pts, d in ((a, p), (b, t)):
        z = d[ok]
        assert np.allclose(pts, np.stack([(u - cam.cx) * z / cam.fx, (v - cam.cy) * z / cam.fy, z], 1), atol=1e-5)
    big = np.ones((480, 640), np.float32)
    assert len(shape.depth_clouds(big, big, NYU_CAMERA)[0]) == 426 * 560
    assert len(shape.depth_clouds(big, big, NYU_CAMERA, crop=None)[0]) == 480 * 640


# --- confidence


def laplace(seed=0, n=200_000, lie=1.0):
    "A prediction whose errors are Laplace with a known std, the std claimed, and the truth."
    r = np.random.default_rng(seed)
    t = r.uniform(1, 9, n)
    s = 0.02 * t * np.exp(r.standard_normal(n))
    return t + r.laplace(0, s / math.sqrt(2)), s * lie, t


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_an_honest_law_covers_what_it_promises(level):
    p, s, t = laplace()
    assert confidence.coverage(p, s, t, level=level) == pytest.approx(level, abs=0.004)
    g = t + np.random.default_rng(1).standard_normal(len(t)) * s
    assert confidence.coverage(g, s, t, level=level, law="gaussian") == pytest.approx(level, abs=0.004)
    from scipy import stats

    assert confidence.half_width(level) == pytest.approx(stats.laplace(scale=1 / math.sqrt(2)).ppf((1 + level) / 2))
    assert confidence.half_width(level, "gaussian") == pytest.approx(stats.norm.ppf((1 + level) / 2))


def test_nll_against_scipy():
    from scipy import stats

    p, s, t = laplace(2, 1000)
    assert confidence.nll(p, s, t) == pytest.approx(-stats.laplace.logpdf(t, p, s / math.sqrt(2)).mean())
    assert confidence.nll(p, s, t, law="gaussian") == pytest.approx(-stats.norm.logpdf(t, p, s).mean())
    assert confidence.nll(p, s, t) < min(confidence.nll(p, k * s, t) for k in (0.7, 1.4))
    assert confidence.nll(p, s, t) < confidence.nll(p, np.full_like(t, confidence.constant_std(p, t)), t)


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
@pytest.mark.parametrize("relative", [False, True])
def test_constant_std_is_the_best_constant(law, relative):
    p, _, t = laplace(3, 5000)
    c = confidence.constant_std(p, t, law=law, relative=relative)
    assert isinstance(c, float)
    at = [confidence.nll(p, k * c * (p if relative else np.ones_like(p)), t, law=law) for k in (0.95, 1, 1.05)]
    assert at[1] == min(at)


@pytest.mark.parametrize("law", ["laplace", "gaussian"])
@pytest.mark.parametrize("lie", [0.2, 1.0, 3.0])
def test_calibrate_undoes_a_factor(law, lie):
    p, s, t = laplace(4, 100_000, lie)
    k = confidence.calibrate(p, s, t, law=law)
    assert confidence.coverage(p, k * s * (1 + 1e-12), t, law=law) == pytest.approx(
        0.9, abs=1.1e-5
    )  # on these pixels exactly
    assert confidence.calibrate(*laplace(4, 100_000, 1.0), law=law) == pytest.approx(k * lie)
    if law == "laplace":
        assert k == pytest.approx(1 / lie, rel=0.02)
    q, u, v = laplace(5, 100_000, lie)
    assert confidence.coverage(q, k * u, v, law=law) == pytest.approx(0.9, abs=0.005)  # and on others nearly


def test_calibrate_small_by_hand():
    e, s = np.array([0.1, 0.4, 0.2, 0.3]), np.ones(4)
    k = confidence.calibrate(5 + e, s, np.full(4, 5.0), level=0.75)
    assert k * confidence.half_width(0.75) == pytest.approx(0.3)  # three of four errors are at most 0.3


def test_sparsification_against_removing_one_by_one():
    r = np.random.default_rng(6)
    e, d = r.exponential(1, 50), r.random(50)
    order = np.argsort(-d)
    want = [e[order[k:]].mean() for k in range(50)]
    assert np.allclose(confidence.sparsification(e, d, 50), want)
    best = [np.sort(e)[: 50 - k].mean() for k in range(50)]
    assert confidence.ause(e, d, 50) == pytest.approx(np.mean(np.array(want) - best) / e.mean())
    assert confidence.ause(e, e) == confidence.ause(e, e**2) == 0  # the order is all that counts
    assert confidence.ause(e, -e) > confidence.ause(e, d) > 0
    assert confidence.ause(3 * e, d) == pytest.approx(confidence.ause(e, d))
    assert confidence.ause(np.zeros(5), d[:5]) == 0


def test_equal_doubts_leave_in_no_order():
    e = np.arange(10.0)
    assert np.allclose(confidence.sparsification(e, np.ones(10), 10), e.mean())  # whatever order the pixels lie in
    two = confidence.sparsification(e, (e > 4).astype(float), 10)
    assert np.allclose(two[5:], 2) and two[0] == e.mean()
    r = np.random.default_rng(7)
    mean = np.mean([confidence.sparsification(e, (e > 4) + 1e-3 * r.random(10), 10) for _ in range(4000)], 0)
    assert np.allclose(two, mean, atol=0.05)  # the mean over random orders


def test_confidence_errors():
    p, s, t = laplace(8, 10)
    for f in (confidence.coverage, confidence.nll, confidence.calibrate):
        for bad in (0, -1, np.nan, np.inf):
            u = s.copy()
            u[3] = bad
            with pytest.raises(ValueError, match="std should be metres above 0, got 1 values that are not, of 10"):
                f(p, u, t)
        with pytest.raises(ValueError, match="law should be"):
            f(p, s, t, law="cauchy")
        with pytest.raises(ValueError, match="shape"):
            f(p, s, t[:5])
    for f in (confidence.coverage, confidence.calibrate):
        with pytest.raises(ValueError, match="level should lie between 0 and 1, got 90: 90 % is 0.9$"):
            f(p, s, t, level=90)
    with pytest.raises(ValueError, match="nothing to calibrate on"):
        confidence.calibrate(p, s, t * 0)
    for e, d in (([], []), ([1, 2], [1])):
        with pytest.raises(ValueError, match="of one length, 1 or more"):
            confidence.sparsification(e, d)
    for e, d in (
        ([1, np.nan, 3], [1, 2, 3]),
        ([1, 2, 3], [1, np.nan, 3]),
        ([1, np.inf, 3], [1, 2, 3]),
        ([1, -1, 3], [1, 2, 3]),
    ):
        for f in (confidence.sparsification, confidence.ause):
            with pytest.raises(ValueError, match="errors should be 0 or more, and both finite: 1 of 3 pairs are not"):
                f(e, d)


def test_confidence_takes_masks_holes_and_torch():
    p, s, t = (x.reshape(10, 20) for x in laplace(9, 200))
    t = t.copy()
    t[0] = 0
    s = s.copy()
    s[0] = np.nan  # nothing counts there
    ok = t > 0
    for f in (confidence.coverage, confidence.nll, confidence.calibrate):
        want = f(p[ok], s[ok], t[ok])
        assert (
            f(p, s, t)
            == f(torch.tensor(p), torch.tensor(s), torch.tensor(t))
            == f(p, s, t, mask=ok)
            == pytest.approx(want)
        )


def test_import_is_light():
    code = "import sys, dogdepth.metrics; assert not {'torch', 'matplotlib', 'skimage', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mask_may_reach_beyond_ten_metres():
    t = np.full((40, 40), 4.0)
    t[:, 20:] = 8.0
    near, far = shape.boundary_f1(t, t, t > 0, crop=None), shape.boundary_f1(3 * t, 3 * t, t > 0, crop=None)
    assert (
        near == far and near["n"] > 0 and shape.boundary_f1(3 * t, 3 * t, crop=None)["n"] == 0
    )  # without a mask: to 10 m, as everywhere
    assert (
        shape.boundary_f1(t, np.where(t > 5, 0, t), np.ones_like(t, bool), crop=None)["n"] == 0
    )  # a hole is never scored


def test_image_metrics_of_tensors():
    g = np.random.default_rng(0)
    t = g.uniform(1, 5, (12, 16)).astype(np.float32)
    p = t * 1.1
    assert metrics.image_metrics(torch.from_numpy(p), torch.from_numpy(t)) == metrics.image_metrics(p, t)


def test_the_page_shows_the_stored_protocols():
    "Every row of the file is well formed and stands in the stored table of 08."
    import csv
    import json
    from pathlib import Path

    from dogdepth.dog import results_file

    rows = list(csv.DictReader(results_file("protocols.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 4 and len({r["network"] for r in rows}) == 1 and {r["frames"] for r in rows} == {"654"}
    assert all(r["source"] and r["fit"] and None not in r and 0 < float(r["delta1"]) < 1 for r in rows)
    nb = json.loads((Path(__file__).parents[1] / "nbs" / "08_metrics.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in nb["cells"] if c["id"] == "n016")
    shown = "".join(cell["outputs"][0]["data"]["text/markdown"])
    for r in rows:
        assert " | ".join([r["answer"], r["fit"], *(r[k] or "-" for k in ("abs_rel", "rmse", "delta1"))]) in shown
