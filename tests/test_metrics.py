"Metrics against a plain-numpy oracle written from the papers' formulas, and against laws that any right version obeys."
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from dogdepth import metrics
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
    assert depth_metrics(np.array([[-3.0]]), np.array([[2.0]]))["abs_rel"] == pytest.approx((2 - 1e-3) / 2)


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


@pytest.mark.parametrize("y,x,inside", [(45, 41, True), (44, 41, False), (45, 40, False), (470, 600, True), (471, 600, False), (470, 601, False)])
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


@pytest.mark.parametrize("args,kw,match", [
    ((T, T), dict(crop="eigen"), r"480x640 and of nothing else, got 4x5"),
    ((T, T), dict(crop="garg"), r"crop should be one of \('auto', 'eigen', None\), got 'garg'"),
    ((T, T), dict(average="pixels"), r"average should be one of \('image', 'pixel'\), got 'pixels'"),
    ((T, T), dict(align="scale"), r"align should be one of \(None, 'median', 'affine'\), got 'scale'"),
    ((T, T), dict(cap=(0, 10)), r"cap should be .*got \(0, 10\)"),
    ((T, T), dict(cap=(5, 1)), r"cap should be"),
    ((T, T[:3]), {}, r"one shape, got \(1, 4, 5\) and \(1, 3, 5\)"),
    ((T[None, None], T), dict(), None),
    ((T[None], T[None]), {}, r"pred should be one map \(H,W\) or a batch \(B,1,H,W\), got \(1, 4, 5\)"),
    ((np.ones((2, 3, 4, 5)), T), {}, r"pred should be .*got \(2, 3, 4, 5\)"),
    ((T, T, T), {}, r"mask should be bool"),
    ((T, T, T[:3] > 0), {}, r"mask should be bool and shaped like target, \(1, 4, 5\)"),
    ((-T, T), dict(align="median"), r"needs a positive prediction, its median is -1"),
])
def test_errors(args, kw, match):
    if match is None:  # one map and a batch of one mean the same
        assert depth_metrics(*args, **kw)["n"] == 20
        return
    with pytest.raises(ValueError, match=match):
        depth_metrics(*args, **kw)


# --- the pieces that `evaluate` is made of

@pytest.mark.parametrize("average", ["image", "pixel"])
@pytest.mark.parametrize("align", [None, "median"])
def test_rows_average_to_the_table_of_the_batch(average, align):
    p, t = maps(14, n=5)
    t[3], t[1, 0, 4:] = 0, 0
    rows = [metrics.image_metrics(a[0], b[0], align=align) for a, b in zip(p, t)]
    assert rows[3]["n"] == 0 and math.isnan(rows[3]["abs_rel"])
    close(metrics.average_metrics(rows, average), depth_metrics(p, t, average=average, align=align))


def test_log_bias():
    _, t = maps(15)
    assert metrics.log_bias(1.2 * t, t) == pytest.approx(math.log(1.2), rel=1e-6)
    assert metrics.image_metrics(0.8 * t[0, 0], t[0, 0])["log_bias"] == pytest.approx(math.log(0.8), rel=1e-6)


def test_metric_table():
    rows = {"a model": depth_metrics(np.full((4, 5), 1.1), np.ones((4, 5))), "b": depth_metrics(np.ones((4, 5)), np.ones((4, 5)))}
    lines = metrics.metric_table(rows).splitlines()
    assert len(lines) == 4 and len({len(x) for x in lines}) == 1  # columns line up
    cells = [[c.strip() for c in x.strip("|").split("|")] for x in lines]
    assert cells[0] == ["", "AbsRel", "RMSE", "log10", "SILog", "δ1", "δ2", "δ3"]
    assert cells[2] == ["a model", "0.100", "0.100", "0.041", "0.00", "1.000", "1.000", "1.000"]
    assert "n" in metrics.metric_table(rows, ("abs_rel", "n")).splitlines()[0] and "20" in metrics.metric_table(rows, ("n",))


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
    assert np.allclose(metrics.baseline_maps(frames, every=2, size=(12, 16))["per-pixel median"][5, 5], np.median(seen[[2, 4], 5, 5]))
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
    assert metrics.silog(p, t, lam=0.85, scale=10) == pytest.approx(10 * math.sqrt((g**2).mean() - 0.85 * g.mean() ** 2))


def test_single_function_errors():
    with pytest.raises(ValueError, match=r"target should have the prediction's shape \(4, 5\), got \(3, 5\)"):
        metrics.abs_rel(T, T[:3])
    with pytest.raises(ValueError, match=r"mask should be bool, got float32"):
        metrics.abs_rel(T, T, T)


def test_import_is_light():
    code = "import sys, dogdepth.metrics; assert not {'torch', 'matplotlib', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
