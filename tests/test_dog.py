"The modified DoG against independent forms: the program's own, float64 blurs, scikit-image, hand-computed numbers."

import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.filters import difference_of_gaussians

import dogdepth.focus
from dogdepth.blur import LEAST, gaussian_blur, gaussian_taps
from dogdepth.files import read_image
from dogdepth.dog import (
    MEASURES,
    disc,
    focus_points,
    focus_scores,
    focus_sigma,
    literal_dog,
    literal_scores,
    modified_dog,
    modified_dog_batch,
    network_planes,
    results_file,
    stack_dog,
    to_grey,
)
from dogdepth.focus import (
    FINE,
    FOCUS,
    LENSES,
    edge_width,
    focus_study,
    noise_level,
    sharpness,
    spearman,
    steady_dog,
    steady_scores,
    study_photos,
    study_rooms,
    write_focus_study,
)
from dogdepth.windows import _blur_matrix, _reflect

KINDS = ("noise", "smooth", "flat", "black", "white", "dot", "stripes")


def picture(h, w, kind="noise", seed=0):
    "A test picture, (h,w,3) uint8."
    r = np.random.default_rng(seed)
    if kind == "noise":
        return r.integers(0, 256, (h, w, 3), dtype=np.uint8)
    if kind == "smooth":
        return cv2.resize(r.integers(0, 256, (5, 6, 3), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC).reshape(
            h, w, 3
        )
    img = np.zeros((h, w, 3), np.uint8)
    if kind in ("flat", "white"):
        img[:] = 255 if kind == "white" else 100
    elif kind == "dot":
        img[h // 2, w // 2] = 255
    elif kind == "stripes":
        img[:, ::2] = 255
    return img


def blur64(grey, sigma, reach=4):
    "The reference: float64 taps out to `reach` sigma, numpy's own reflection, no OpenCV."
    r = int(np.ceil(reach * sigma))
    k = np.exp(-0.5 * (np.arange(-r, r + 1) / sigma) ** 2)
    k /= k.sum()
    a = np.asarray(grey, float)
    for axis in (0, 1):
        n = a.shape[axis]
        m = np.zeros((n, n))  # the blur of one axis as a matrix, borders folded back by numpy's pad
        where = np.pad(np.arange(n), r, mode="reflect") if n > 1 else np.zeros(2 * r + 1, int)
        for i in range(n):
            np.add.at(m[i], where[i : i + 2 * r + 1], k)
        a = np.moveaxis(np.tensordot(m, a, (1, axis)), 0, axis)
    return a


def dog64(grey, sigma):
    return np.rint(blur64(grey, sigma)) - np.rint(blur64(grey, sigma / 10))


def batch(imgs, **kw):
    x = torch.from_numpy(np.stack(imgs)).permute(0, 3, 1, 2) / 255
    return (modified_dog_batch(x, **kw) * 255).round().int()[:, 0].numpy()


# --- points, grey, disc


def test_points_are_the_programs():
    p = focus_points(480, 640)
    assert p.shape == (16, 2)
    assert sorted(set(p[:, 0])) == [127, 255, 383, 511] and sorted(set(p[:, 1])) == [95, 191, 287, 383]
    assert p[0].tolist() == [127, 95] and p[1].tolist() == [255, 95] and p[4].tolist() == [127, 191]  # row by row
    want = [(int(x), int(y)) for y in np.linspace(0, 433 - 1, 6)[1:-1] for x in np.linspace(0, 501 - 1, 6)[1:-1]]
    assert focus_points(433, 501).tolist() == [list(q) for q in want]


def test_points_take_a_size_or_an_image():
    assert (focus_points((480, 640)) == focus_points(480, 640)).all()
    assert (focus_points(picture(48, 64)) == focus_points(48, 64)).all()
    assert (focus_points(picture(48, 64)[..., 0]) == focus_points(48, 64)).all()


@pytest.mark.parametrize("grid", [3, 4, 6, 9])
def test_grid(grid):
    assert len(focus_points(60, 80, grid=grid)) == (grid - 2) ** 2
    if grid > 4:
        assert (focus_points(60, 80, grid) == focus_points(60, 80, grid=grid)).all()
    assert focus_sigma(picture(60, 80), grid=grid)[2] > 0


def test_grey_is_opencvs():
    img = picture(64, 64)
    assert (to_grey(img) == cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)).all()
    r, g, b = np.moveaxis(img.astype(int), -1, 0)
    assert (to_grey(img) == (9798 * r + 19235 * g + 3735 * b + 16384) >> 15).all()


def test_grey_of_views_and_grey_input():
    img = picture(20, 30)
    assert (to_grey(img[:, ::-1]) == to_grey(img)[:, ::-1]).all()
    assert (to_grey(img[..., 0]) == img[..., 0]).all() and (to_grey(img[..., :1]) == img[..., 0]).all()


def test_reflect_is_opencvs():
    for n in (1, 2, 3, 7):
        i = np.arange(-20, 28)
        assert _reflect(i, n).tolist() == [cv2.borderInterpolate(int(k), n, cv2.BORDER_REFLECT_101) for k in i]


# --- scores


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (2, 2), (3, 5), (11, 40), (21, 25), (32, 32), (57, 50), (120, 160), (480, 640)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_the_literal_form(size, kind):
    img = picture(*size, kind)
    np.testing.assert_allclose(focus_scores(img), literal_scores(img), rtol=1e-9, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.sampled_from(KINDS), st.integers(0, 99))
@example(2, 2, "noise", 0)
@example(55, 56, "noise", 0)  # the outer discs touch the border
def test_scores_at_any_size(h, w, kind, seed):
    img = picture(h, w, kind, seed)
    np.testing.assert_allclose(focus_scores(img), literal_scores(img), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(2, 3), (20, 30), (60, 45), (240, 320)])
def test_intensity_scores_are_the_variance_in_the_disc(size):
    g = to_grey(picture(*size))
    want = [g[cv2.circle(np.zeros_like(g), p, 10, 1, -1) > 0].astype(float).var() for p in focus_points(*size).tolist()]
    np.testing.assert_allclose(focus_scores(g, "intensity"), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radius", [1, 4, 17])
def test_other_radii(radius):
    g = to_grey(picture(120, 160))
    want = []
    for p in focus_points(g).tolist():
        mask = cv2.circle(np.zeros_like(g), p, radius, 255, -1)
        want.append(cv2.Laplacian(cv2.bitwise_and(g, g, mask=mask), cv2.CV_64F).var())
    np.testing.assert_allclose(focus_scores(g, radius=radius), want, rtol=1e-9)


def test_a_flat_disc_by_hand():
    "The Laplacian of a flat disc is its level times the number of neighbours on the other side of the rim."
    m = np.pad(disc().astype(int), 2)
    out = sum((m != np.roll(m, s, a)).astype(int) for s, a in ((1, 0), (-1, 0), (1, 1), (-1, 1)))
    assert focus_scores(np.full((480, 640), 100, np.uint8))[0] == pytest.approx(
        100**2 * (out**2).sum() / (480 * 640), rel=1e-12
    )


# --- sigma


def test_sigma_is_first_minus_second():
    img = picture(240, 320)
    s = literal_scores(img)
    a, b = np.argsort(-s)[:2]
    p1, p2, sigma = focus_sigma(img)
    assert p1 == tuple(focus_points(img)[a]) and p2 == tuple(focus_points(img)[b])
    assert sigma == pytest.approx(s[a] - s[b], rel=1e-9) and sigma > 1
    assert [type(v) for v in (*p1, *p2, sigma)] == [int] * 4 + [float]


def discs(*levels):
    "480x640 with a flat bright disc of each level, in the order of the points."
    img = np.zeros((480, 640), np.uint8)
    for p, v in zip(focus_points(img).tolist(), levels):
        cv2.circle(img, p, 12, v, -1)
    return img


def test_ties_go_to_the_first_in_order():
    p1, p2, sigma = focus_sigma(discs(50, 0, 200, 80, 200, 200))
    assert (p1, p2, sigma) == ((383, 95), (127, 191), 2.0)


def test_fallback_below_one():
    close, far = discs(200, 198), discs(200, 197)
    assert 0.6 < np.diff(np.sort(focus_scores(close))[-2:]) < 1 < np.diff(np.sort(focus_scores(far))[-2:]) < 1.2
    assert focus_sigma(close)[2] == 2.0 and focus_sigma(close, fallback=1)[2] == 1.0
    assert focus_sigma(far, fallback=7.5)[2] == pytest.approx(np.diff(np.sort(literal_scores(far))[-2:])[0], rel=1e-9)
    assert (modified_dog(close, fallback=5.0) == modified_dog(close, sigma=5.0)).all()
    assert (modified_dog(close) == modified_dog(close, sigma=2.0)).all()


# --- blur


def test_taps():
    for s in (0.01, 0.2, 1, 7.3):
        t = gaussian_taps(s)
        assert t.sum() == pytest.approx(1) and (t == t[::-1]).all()
    assert gaussian_taps(2.0).size == 21


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1, 3.3, 11.99, 12, 12.01, 25, 64])
@pytest.mark.parametrize("kind", ["noise", "smooth", "dot", "stripes"])
def test_blur_against_float64(sigma, kind):
    g = to_grey(picture(96, 131, kind))
    assert abs(gaussian_blur(g, sigma) - blur64(g, sigma, reach=6)).max() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 400), (40, 30)])
@pytest.mark.parametrize("sigma", [0.3, 5, 20, 300, 1e7])
def test_blur_of_small_pictures(size, sigma):
    g = picture(*size)[..., 0]
    out = gaussian_blur(g, sigma)
    assert out.shape == size and np.isfinite(out).all()
    if sigma <= 20:
        assert abs(out - blur64(g, sigma, reach=6)).max() < 0.01
    if sigma == 1e7:
        assert np.ptp(out) < 1e-2


def test_torch_blur_matrix():
    for n in (1, 2, 7, 90):
        for s in (0.01, 0.4, 3, 40, 1e6):
            A = _blur_matrix(n, torch.tensor([s, 1.0]))
            assert (
                A.shape == (2, n, n)
                and torch.isfinite(A).all()
                and torch.allclose(A.sum(-1), torch.ones(2, n), atol=1e-5)
            )
            if s <= 40:
                want = blur64(np.eye(n), s, reach=6) if n > 1 else np.ones((1, 1))
                got = (A[0] @ torch.eye(n) @ A[0].T).numpy()
                assert abs(got - want).max() < (LEAST if s < 2.8 else 1e-5)  # small taps are left out of narrow blurs


# --- the filter


@pytest.mark.parametrize("sigma", [0.5, 1, 2, 5.4, 12, 12.5, 30, 64])
@pytest.mark.parametrize("kind", ["noise", "smooth", "stripes"])
def test_dog_against_float64(sigma, kind):
    g = to_grey(picture(120, 160, kind))
    off = abs(modified_dog(g, sigma=sigma, saturate=False) - dog64(g, sigma))
    assert off.max() <= 2 and (off > 1).mean() <= 0.001


def test_dog_against_scikit_image():
    g = to_grey(picture(80, 90, "smooth"))
    theirs = -difference_of_gaussians(g.astype(float), 0.6, 6, mode="mirror", truncate=6)
    assert (
        abs(modified_dog(g, sigma=6, saturate=False) - theirs).max() <= 1.5
    )  # two roundings of half a level each, and the quick blur


def test_dog_against_the_literal_form():
    "OpenCV's 8-bit blurs are up to two levels off each."
    for seed in range(3):
        img = picture(240, 320, "smooth", seed)
        assert abs(literal_dog(img).astype(int) - modified_dog(img)).max() <= 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(KINDS), st.sampled_from(MEASURES), st.booleans())
@example(1, 1, "noise", "laplacian", True)
@example(2, 2, "noise", "intensity", True)
@example(52, 42, "stripes", "laplacian", False)  # wide blurs of stripes lie on 127.5: both forms must round ties alike
def test_any_size_any_content(h, w, kind, measure, saturate):
    img = picture(h, w, kind)
    out = modified_dog(img, measure, saturate=saturate)
    assert out.shape == (h, w) and out.dtype == (np.uint8 if saturate else np.int16)
    if kind in ("flat", "black", "white"):
        assert not out.any()
    assert abs(batch([img], measure=measure, saturate=saturate)[0] - out.astype(int)).max() <= 1


def test_saturation_keeps_the_positive_half():
    img = picture(100, 120, "smooth")
    signed = modified_dog(img, saturate=False)
    assert signed.min() < 0 < signed.max()
    assert (modified_dog(img) == np.maximum(signed, 0)).all()


def test_a_step_answers_on_its_dark_side():
    img = np.zeros((60, 80), np.uint8)
    img[:, 40:] = 200
    out = modified_dog(img, sigma=3, saturate=False)[30]
    assert out[37] > 20 and out[42] < -20 and out[5] == 0 and out[75] == 0
    assert (modified_dog(img.T, sigma=3, saturate=False)[:, 30] == out).all()


def test_measure_and_grey_input():
    img = picture(120, 160, "smooth")
    assert (modified_dog(img) == modified_dog(to_grey(img))).all()
    p1, p2, sigma = focus_sigma(img, "intensity")
    assert sigma != focus_sigma(img)[2] and (modified_dog(img, "intensity") == modified_dog(img, sigma=sigma)).all()
    assert (modified_dog(np.asfortranarray(img)) == modified_dog(img)).all()


def test_input_is_not_changed():
    img = picture(64, 64)
    before = img.copy()
    modified_dog(img), stack_dog(img), focus_sigma(img)
    assert (img == before).all()


def test_stack():
    img = picture(50, 70)
    six = stack_dog(img, fallback=3.0)
    assert six.shape == (50, 70, 6) and six.dtype == np.uint8
    assert (six[..., :3] == img).all() and all(
        (six[..., c] == modified_dog(img, fallback=3.0)).all() for c in (3, 4, 5)
    )
    grey = stack_dog(img[..., 0])
    assert all((grey[..., c] == img[..., 0]).all() for c in range(3)) and grey.shape == six.shape
    signed = stack_dog(img, saturate=False)
    assert signed.dtype == np.int16 and (signed[..., :3] == img).all() and signed.min() < 0


# --- the batch


def test_batch_equals_one_by_one():
    imgs = [picture(96, 128, k, s) for k in KINDS for s in range(2)]
    for measure in MEASURES:
        for saturate in (True, False):
            got = batch(imgs, measure=measure, saturate=saturate)
            assert max(abs(g - modified_dog(i, measure, saturate=saturate)).max() for g, i in zip(got, imgs)) <= 1


def test_batch_fallback():
    imgs = [np.dstack([discs(200, 199)] * 3)]
    assert abs(batch(imgs, fallback=6.0)[0] - modified_dog(imgs[0], sigma=6.0)).max() <= 1
    assert abs(batch(imgs, fallback=6.0)[0] - modified_dog(imgs[0], sigma=2.0)).max() > 1


def test_batch_types():
    x = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    x = (x * 255).round() / 255
    out = modified_dog_batch(x)
    assert out.shape == (2, 1, 40, 60) and out.dtype == torch.float32 and 0 <= out.min() and out.max() <= 1
    assert torch.equal(modified_dog_batch(x.double()), out)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(modified_dog_batch(x), out)
    assert not modified_dog_batch(x.requires_grad_()).requires_grad
    assert modified_dog_batch(x[:, :1]).shape == (2, 1, 40, 60)


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_batch_on_every_device(device):
    x = torch.from_numpy(np.stack([picture(240, 320, k) for k in KINDS])).permute(0, 3, 1, 2) / 255
    out = modified_dog_batch(x.to(device))
    assert out.device.type == device
    assert (
        max(
            abs((o[0] * 255).round().cpu().numpy() - modified_dog(picture(240, 320, k))).max()
            for o, k in zip(out, KINDS)
        )
        <= 1
    )


# --- the well-behaved forms


def textured(h=480, w=640, seed=0):
    "A smooth picture with steps of many widths: what a photo is made of, without its noise."
    r = np.random.default_rng(seed)
    img = np.full((h, w), 110.0)
    for _ in range(60):
        y, x, dy, dx = r.random(4) * (h, w, h / 3, w / 3)
        box = np.zeros((h, w))
        box[int(y) : int(y + dy), int(x) : int(x + dx)] = r.uniform(-50, 50)
        img += cv2.GaussianBlur(box, (0, 0), r.choice([0.8, 1.5, 3]) * h / 480)
    return np.clip(img, 5, 250)


def levels(a):
    return np.clip(np.rint(a), 0, 255).astype(np.uint8)


def stepped(width, noise=0, seed=0, low=60, high=180):
    "480x640 with one vertical step, an error function of the given width."
    x = (np.arange(640) - 320) / (width * 2**0.5)
    step = low + (high - low) * (1 + np.array([math.erf(v) for v in x])) / 2
    return levels(np.tile(step, (480, 1)) + np.random.default_rng(seed).normal(0, noise, (480, 640)))


@pytest.mark.parametrize("noise", [1, 2, 5, 10])
def test_noise_level_finds_the_noise_we_add(noise):
    clean = textured()
    got = noise_level(levels(clean + np.random.default_rng(1).normal(0, noise, clean.shape)))
    assert got == pytest.approx(noise, rel=0.1)


def test_noise_level_of_flat_and_ramp():
    assert noise_level(np.full((50, 60), 77, np.uint8)) == 0
    assert noise_level(np.tile(np.arange(100.0), (50, 1))) == pytest.approx(0, abs=1e-4)
    step = np.zeros((50, 60))
    step[:, 30:] = 200
    assert noise_level(step) == 0 == noise_level(step[:, ::-1])


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0, 5])
def test_edge_width_gives_back_the_width_of_a_step(width, noise):
    got = edge_width(stepped(width, noise))[200:280, 320]
    assert abs(got / width - 1).max() < 0.12 and np.median(got) == pytest.approx(width, rel=0.05)


def test_edge_width_does_not_see_light_or_contrast():
    want = edge_width(stepped(2))[240, 320]
    for low, high in ((0, 40), (200, 250), (0, 255), (180, 60)):
        assert edge_width(stepped(2, low=low, high=high))[240, 320] == pytest.approx(want, rel=0.05)


def test_sharpness_of_a_step_by_the_formula():
    "E ~ 1/sqrt(w^2+s^2): with w = 0 the ratio is 2, with w = s*sqrt(2) it is sqrt(2)."
    s = FINE * (480 * 640) ** 0.5
    assert sharpness(stepped(s * 2**0.5))[240, 320] == pytest.approx(2**0.5, rel=0.03)
    assert sharpness(stepped(0.01))[240, 320] == pytest.approx(2, rel=0.03)
    assert sharpness(stepped(12))[240, 320] < 1.15


def test_sharpness_is_unknown_where_there_is_nothing():
    assert np.isnan(sharpness(np.full((90, 120), 100, np.uint8))).all()
    out = sharpness(stepped(2, noise=5))
    assert np.isfinite(out[240, 320]) and np.isnan(out[:, :280]).all() and np.isnan(out[:, 360:]).all()
    assert (steady_scores(np.full((90, 120), 100, np.uint8)) == 0).all()
    grain = levels(100 + np.random.default_rng(0).normal(0, 8, (240, 320)))
    assert np.isnan(sharpness(grain)).mean() > 0.99  # grain alone is no texture


def test_sharpness_falls_when_the_picture_is_blurred():
    img = textured()
    scores = [np.nanmedian(sharpness(levels(cv2.GaussianBlur(img, (0, 0), s)))) for s in (0.5, 1.5, 3, 6)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] + 0.2


def changes(img):
    r = np.random.default_rng(5)
    return {
        "gain": levels(img * 0.5),
        "offset": levels(img * 0.6 + 60),
        "half": levels(cv2.resize(img, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
        "double": levels(cv2.resize(img, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)),
        "noise": levels(img + r.normal(0, 5, img.shape)),
    }


@pytest.mark.parametrize(
    "change, bound", [("gain", 0.03), ("offset", 0.03), ("half", 0.05), ("double", 0.03), ("noise", 0.05)]
)
def test_sharpness_stays_under_change(change, bound):
    "The bounds the chapter states: the median relative change of the score where both are known."
    img = textured()
    a, b = sharpness(levels(img)), sharpness(changes(img)[change])
    b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    both = np.isfinite(a) & np.isfinite(b)
    assert both.mean() > 0.2 and np.median(abs(b[both] / a[both] - 1)) < bound
    grown = {"half": 0.5, "double": 2}.get(change, 1)  # and the width in pixels grows with the picture
    w = [
        edge_width(levels(img)),
        cv2.resize(edge_width(changes(img)[change]), a.shape[::-1], interpolation=cv2.INTER_NEAREST) / grown,
    ]
    soft = both & (w[0] > 1.5)
    assert np.median(w[1][soft] / w[0][soft]) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize(
    "change, bound", [("gain", 0.01), ("offset", 0.01), ("half", 0.02), ("double", 0.01), ("noise", 0.05)]
)
def test_steady_dog_stays_under_change(change, bound):
    "Root mean square change of the blur image, in units of the picture's contrast."
    img = textured()
    a, b = steady_dog(levels(img)), steady_dog(changes(img)[change])
    assert b.shape == changes(img)[change].shape and b.dtype == np.float32
    b = cv2.resize(b, a.shape[::-1], interpolation=cv2.INTER_AREA if change == "double" else cv2.INTER_LINEAR)
    rms = ((a - b) ** 2).mean() ** 0.5
    assert rms < bound and a.std() > 0.1  # small beside what is there


def test_steady_dog_against_float64():
    "Wide minus narrow, over the contrast: positive on the dark side of an edge, as in `modified_dog`."
    g = levels(textured(120, 160))
    s = (120 * 160) ** 0.5
    for share, ratio in ((1 / 128, 4), (1 / 40, 2.5)):
        want = (blur64(g, share * s) - blur64(g, share * s / ratio)) / g.std()
        assert abs(steady_dog(g, share, ratio) - want).max() < 1e-3
    step = stepped(1)
    assert steady_dog(step)[240, 317] > 0.1 and steady_dog(step)[240, 324] < -0.1


def test_noise_in_steady_dog_is_what_the_filter_lets_through():
    """White noise of n levels leaves n / (2 sqrt(pi) sigma) of the narrow blur, minus the little that the wide one
    shares."""
    n, c, img = 5, textured(), textured()
    noisy = levels(c + np.random.default_rng(2).normal(0, n, c.shape))
    s = (480 * 640) ** 0.5 / 128 / 4
    bound = n / (2 * np.pi**0.5 * s) / levels(img).std()
    left = (steady_dog(noisy) * noisy.std() / levels(img).std() - steady_dog(levels(img))).std()
    assert 0.7 * bound < left < 1.05 * bound


def test_the_reports_filter_does_not_stay():
    "What the well-behaved forms mend: the report's sigma follows light and size."
    img = levels(textured())
    half = cv2.resize(img, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    a, b, c = (np.diff(np.sort(focus_scores(i))[-2:])[0] for i in (img, half, levels(img * 0.5)))
    assert b > 2.5 * a and c < 0.35 * a


def test_steady_forms_of_odd_pictures():
    for size in ((1, 1), (1, 9), (3, 5), (33, 50)):
        for kind in KINDS:
            img = picture(*size, kind)
            d, s = steady_dog(img), sharpness(img)
            assert d.shape == s.shape == size and np.isfinite(d).all()
            assert np.isfinite(steady_scores(img)).all() and steady_scores(img).shape == (16,)
            if kind in ("flat", "black", "white"):
                assert abs(d).max() < 1e-4 and np.isnan(s).all()
    assert (steady_dog(levels(textured())).min() < -0.1) and steady_dog(levels(textured())).max() > 0.1  # signed
    for kw in (dict(share=0), dict(ratio=1), dict(share=float("nan"))):
        with pytest.raises(ValueError, match="share should be above 0 and ratio above 1"):
            steady_dog(picture(20, 20), **kw)


def test_steady_scores_do_not_see_the_rim():
    "A bright bare disc wins under the report's rule and counts for nothing here; a dim striped one wins here."
    img = np.full((480, 640), 20, np.uint8)
    p = focus_points(img)
    cv2.circle(img, p[5].tolist(), 60, 220, -1)  # bare: its own edge is far from the point
    x, y = p[10]
    for k in range(-32, 32, 16):
        img[y - 32 : y + 32, x + k : x + k + 8] = 110
    assert focus_scores(img).argmax() == 5 and steady_scores(img).argmax() == 10 and steady_scores(img)[5] == 0


# --- does focus tell depth?


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=50))
def test_spearman_is_scipys(pairs):
    from scipy.stats import spearmanr

    a, b = np.array(pairs, float).T
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b)[0], abs=1e-9)
    else:
        assert np.isnan(spearman(a, b))


def test_partial_spearman():
    r = np.random.default_rng(0)
    c = r.normal(size=4000)
    a, b = c + r.normal(size=4000), c + r.normal(size=4000)  # related through c alone
    assert spearman(a, b) > 0.4 and abs(spearman(a, b, given=c)) < 0.05
    x, y, z = spearman(a, b), spearman(a, c), spearman(b, c)
    assert spearman(a, b, c) == pytest.approx(
        (x - y * z) / ((1 - y * y) * (1 - z * z)) ** 0.5, abs=1e-9
    )  # the textbook's formula
    assert spearman(a, a, c) == pytest.approx(1) and np.isnan(spearman(a, c, c))
    with pytest.raises(ValueError, match="given"):
        spearman(a, b, np.ones(4000))


def blurred_room(seed, focus_m, rows=False):
    "Stripes of one texture, blurred by depth as a strong lens would: focus must tell depth here."
    r = np.random.default_rng(seed)
    depth = np.repeat(np.repeat(r.uniform(1, 5, (3, 4)), 80, 0), 80, 1).astype(np.float32)
    if rows:
        depth = np.repeat(np.linspace(5, 1, 240, dtype=np.float32)[:, None], 320, 1) + r.normal(
            0, 0.05, (240, 320)
        ).astype(np.float32)
    texture = levels(r.normal(110, 50, (240, 320)))
    stack = np.stack([cv2.GaussianBlur(texture, (0, 0), s) if s else texture for s in np.arange(0, 4, 0.2)])
    index = np.minimum(np.rint(3 * abs(1 / depth - 1 / focus_m) / 0.2), 19).astype(int)
    return dict(name=f"r{seed}", scene=f"r{seed}", image=np.take_along_axis(stack, index[None], 0)[0], depth=depth)


def mean(rows, measure, key):
    return np.mean([r[key] for r in rows if r["measure"] == measure])


def test_study_finds_focus_where_it_is():
    for focus_m, sign in (
        (0.9, -1),
        (6.0, 1),
    ):  # in front of everything: sharp is near; behind everything: sharp is far
        rows = focus_study([blurred_room(s, focus_m) for s in range(6)], focus_m, ("laplacian", "tenengrad", "dog"))
        assert len(rows) == 18 and {r["measure"] for r in rows} == {"laplacian", "tenengrad", "dog"}
        for m in ("laplacian", "tenengrad"):
            assert sign * mean(rows, m, "depth") > 0.8 and mean(rows, m, "blur") < -0.8
            assert abs(mean(rows, m, "shuffled")) < 0.35 and sign * mean(rows, m, "given_height") > 0.8


def test_study_is_two_sided_in_the_middle():
    rows = focus_study([blurred_room(s, 1.8) for s in range(6)], 1.8, ("laplacian",))
    assert mean(rows, "laplacian", "blur") < -0.8 and abs(mean(rows, "laplacian", "depth")) < 0.7


def test_controls_unmask_height():
    "All rooms the same ramp: sharpness follows depth, but so it does in another room, and height explains it."
    rows = focus_study([blurred_room(s, 0.9, rows=True) for s in range(5)], 0.9, ("laplacian", "height"))
    assert mean(rows, "laplacian", "depth") < -0.8 and mean(rows, "laplacian", "shuffled") == pytest.approx(
        mean(rows, "laplacian", "depth"), abs=0.02
    )
    assert mean(rows, "height", "depth") > 0.99 and abs(mean(rows, "laplacian", "given_height")) < 0.15


def test_study_of_sharp_pictures_finds_nothing():
    items = [
        {**blurred_room(s, 2.0), "image": levels(np.random.default_rng(s + 90).normal(110, 50, (240, 320)))}
        for s in range(6)
    ]
    rows = focus_study(items, 2.0, ("laplacian", "variance", "dog"))
    for m in ("laplacian", "variance", "dog"):
        assert abs(mean(rows, m, "depth")) < 0.12 and abs(mean(rows, m, "blur")) < 0.12


def test_study_of_pairs_cancels_texture():
    "Texture that hides the blur in one photo cancels in two."
    items = []
    for s in range(5):
        r = blurred_room(s, 0.9)
        cover = cv2.resize(
            np.random.default_rng(s + 7).uniform(0.05, 1, (12, 16)), (320, 240), interpolation=cv2.INTER_NEAREST
        )
        sharp = levels(np.random.default_rng(s + 30).normal(110, 50, (240, 320)))
        hide = lambda im: levels(110 + (im.astype(float) - 110) * cover)  # noqa: E731
        items.append({**r, "image": hide(r["image"]), "sharp": hide(sharp)})
    single = focus_study([{k: v for k, v in i.items() if k != "sharp"} for i in items], 0.9, ("variance",))
    pair = focus_study(items, 0.9, ("variance",))
    assert mean(pair, "variance", "blur") < mean(single, "variance", "blur") - 0.1


def test_study_leaves_holes_out_and_is_deterministic():
    items = [blurred_room(s, 0.9) for s in range(3)]
    full = focus_study(items, 0.9, ("laplacian",))
    for i in items:
        i["depth"][:120] = 0
    half = focus_study(items, 0.9, ("laplacian",))
    assert full[0]["cells"] == 300 and half[0]["cells"] == 160 and half == focus_study(items, 0.9, ("laplacian",))
    assert np.isnan(focus_study(items[:1], None, ("laplacian",))[0]["shuffled"]) and not np.isnan(half[0]["blur"])


def test_focus_measures_fall_with_blur():
    "Each measure of sharpness falls as a picture is blurred; the two rivals do not care."
    g = textured() + np.random.default_rng(0).normal(0, 12, (480, 640))
    soft = [levels(cv2.GaussianBlur(g, (0, 0), s)) for s in (0.6, 2, 5)]
    for m, f in FOCUS.items():
        v = [np.nanmean(f(i)) for i in soft]
        assert f(soft[0]).shape == (480, 640)
        if m in ("brightness", "height"):
            assert v[0] == pytest.approx(v[2], rel=0.02)
        elif m != "dog":  # the report's sigma changes from picture to picture
            assert v[0] > v[1] > v[2], m


ROOT = Path(__file__).resolve().parents[1]


def stored():
    with open(results_file("focus-depth.csv")) as f:
        return list(csv.DictReader(f))


def test_stored_study_is_whole():
    rows, n = stored(), {}
    for r in rows:
        n.setdefault((r["condition"], r["measure"]), set()).add(r["name"])
    count = {k: len(v) for k, v in n.items()}
    assert len(rows) == sum(count.values())
    assert {c for c, _ in count} == {"f/2.8", "f/8", "f/2.8 : f/8", "NYU", *LENSES}
    assert all(count[c, m] == k for c, k in (("f/2.8", 81), ("f/8", 81), ("NYU", 249), ("pinhole", 24)) for m in FOCUS)


def test_stored_rooms_come_out_again():
    "One rendered room, through every lens: the row in results/ is what the code gives."
    want = {(r["condition"], r["name"], r["measure"]): r for r in stored()}
    for name, items, focus_m in study_rooms(1):
        for r in focus_study(items, focus_m, ("laplacian", "dog", "height")):
            for k in ("depth", "given_height", "blur", "depth_rich", "blur_rich"):
                assert r[k] == pytest.approx(float(want[name, r["name"], r["measure"]][k]), abs=0.03, nan_ok=True)


def test_stored_photos_come_out_again(data):
    want = {(r["condition"], r["name"], r["measure"]): r for r in stored()}
    for name, items, focus_m in study_photos(data):
        if name == "NYU":
            continue  # the same code; 249 frames take a while
        for r in focus_study(itertools.islice(items, 3), focus_m, ("laplacian", "variance", "dog")):
            assert r["depth"] == pytest.approx(float(want[name, r["name"], r["measure"]]["depth"]), abs=0.03)
            assert r["blur"] == pytest.approx(float(want[name, r["name"], r["measure"]]["blur"]), abs=0.03)


def test_write_focus_study_of_rooms(tmp_path):
    write_focus_study(tmp_path / "f.csv", n=2, lenses={"pinhole": None})
    with open(tmp_path / "f.csv") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 2 * len(FOCUS) and rows[0]["condition"] == "pinhole" and -1 <= float(rows[0]["depth"]) <= 1


def test_what_the_chapter_says_about_focus_and_depth():
    "The sentences of 03_dog, as intervals of the stored study."
    rows = stored()

    def interval(c, m, k, minus=None):
        v = np.array(
            [float(r[k]) - (float(r[minus]) if minus else 0) for r in rows if r["condition"] == c and r["measure"] == m]
        )
        return v.mean(), *np.percentile(
            v[np.random.default_rng(1).integers(len(v), size=(1000, len(v)))].mean(1), [2.5, 97.5]
        )

    for m in ("variance", "tenengrad", "laplacian", "sharpness", "dog"):
        assert (
            abs(interval("NYU", m, "depth", "shuffled")[0]) < 0.05
        )  # all in focus: nothing beyond what another room gives
        assert abs(interval("f/8", m, "depth")[0]) < 0.15
    assert interval("f/2.8", "laplacian", "blur_rich")[2] < -0.2  # the blur is in the picture
    assert interval("f/2.8 : f/8", "laplacian", "blur_rich")[2] < -0.3
    assert interval("f/2.8", "dog", "given_height")[2] > 0 > interval("f/2.8", "dog", "depth")[2]
    assert interval("NYU", "height", "depth")[1] > 0.5 and interval("f/8", "height", "depth")[1] > 0.3
    assert (
        interval("f/1 at 0.8 m", "sharpness", "depth")[2] < 0 < interval("f/1 at 6 m", "sharpness", "depth")[1]
    )  # the ring decides the sign


# --- where the stored results lie


def test_results_lie_in_the_repository():
    assert results_file("focus-depth.csv") == ROOT / "results/focus-depth.csv" and results_file() == ROOT / "results"


def test_results_of_an_installed_package(tmp_path):
    "Beside the library, as a wheel lays them out; another package's folder `results` is not taken for ours."
    (tmp_path / "dogdepth/results").mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mine.csv").write_text("")
    for f in ("__init__.py", "blur.py", "dog.py"):
        shutil.copy(ROOT / "dogdepth" / f, tmp_path / "dogdepth")
    ask = "import sys; from dogdepth.dog import results_file; print(results_file(sys.argv[1]))"

    def run(name):
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", ask, name], cwd=tmp_path, env=env, capture_output=True, text=True)

    assert "the repository keeps them in `results/`" in run("mine.csv").stderr  # no stored study anywhere
    shutil.copy(ROOT / "results/focus-depth.csv", tmp_path / "dogdepth/results")
    assert Path(run("focus-depth.csv").stdout.strip()) == tmp_path / "dogdepth/results/focus-depth.csv"
    assert "no stored result 'mine.csv'" in run("mine.csv").stderr


def test_a_result_that_is_missing():
    with pytest.raises(FileNotFoundError, match="no stored result 'nothing.csv' in .*results"):
        results_file("nothing.csv")


LESSONS = (
    "01_rooms",
    "03_dog",
    "04_timing",
    "05_unet",
    "06_attention",
    "07_losses",
    "08_metrics",
    "10_ablation",
    "11_v100",
)


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_need_no_file_of_the_repository(name):
    "They run from any folder, with the installed package alone: no cell reaches for `../`."
    cells = json.loads((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = [line for c in cells if c["cell_type"] == "code" for line in "".join(c["source"]).splitlines()]
    assert not [line for line in lines if "'../" in line or '"../' in line]


# --- the limit of the fallback, and the device


@pytest.mark.parametrize("best, sigma", [(6.0, 1.0), (5.5, 7.0), (8.0, 3.0)])
def test_a_difference_of_exactly_one_is_a_sigma(monkeypatch, best, sigma):
    "Scores 5 and 6 give sigma 1; below a difference of 1 it is the fallback, 7 here."
    scores = np.r_[best, 5.0, np.zeros(14)]
    monkeypatch.setattr("dogdepth.dog.literal_scores", lambda g: scores)
    monkeypatch.setattr("dogdepth.dog.focus_scores", lambda *args: scores)
    g = picture(60, 80)[..., 0]
    wide, fine = (cv2.GaussianBlur(g, (0, 0), s).astype(int) for s in (sigma, sigma / 10))
    assert (literal_dog(g, fallback=7.0) == np.maximum(wide - fine, 0)).all()
    assert focus_sigma(g, fallback=7.0)[2] == sigma


def test_a_grid_by_position_is_no_number_of_channels():
    assert (focus_points(480, 640, 5) == focus_points(480, 640, grid=5)).all() and len(focus_points(480, 640, 5)) == 9
    with pytest.raises(ValueError, match="pass the image itself"):
        focus_points(480, 640, 4)


@pytest.mark.parametrize("size, sigmas, window", [((480, 640), (1.5, 3.0), 21), ((240, 320), (0.75, 1.5), 11)])
def test_sharpness_looks_through_a_share_of_the_picture(monkeypatch, size, sigmas, window):
    "Both blurs and the neighbourhood shrink with the picture: 21 px at 480x640."
    seen, slopes = [], dogdepth.focus._slopes
    monkeypatch.setattr(dogdepth.focus, "_slopes", lambda g, s, k: seen.append((s, k)) or slopes(g, s, k))
    sharpness(picture(*size))
    assert [s for s, _ in seen] == pytest.approx(sigmas, rel=0.01) and {k for _, k in seen} == {window}


def test_blur_matrix_stays_on_its_device():
    for n in (1, 9):
        a = _blur_matrix(n, torch.ones(3, device="meta"))
        assert a.device.type == "meta" and a.shape == (3, n, n)


# --- errors


@pytest.mark.parametrize(
    "img, says",
    [
        (np.zeros((4, 4), np.float32), "uint8 levels 0..255, got float32"),
        (np.zeros((4, 4, 4), np.uint8), r"\(H,W,3\) RGB or \(H,W\) grey"),
        (np.zeros((2, 4, 4, 3), np.uint8), "modified_dog_batch"),
        (np.zeros((0, 4), np.uint8), "at least one pixel"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
    ],
)
def test_wrong_images(img, says):
    for f in (modified_dog, focus_scores, focus_sigma, stack_dog, literal_scores):
        with pytest.raises(ValueError, match=says):
            f(img)


@pytest.mark.parametrize(
    "kw, says",
    [
        (dict(measure="sharpness"), "laplacian"),
        (dict(fallback=0), "above 0"),
        (dict(fallback=float("nan")), "above 0"),
        (dict(sigma=0.0), "positive"),
        (dict(sigma=-1.0), "positive"),
        (dict(sigma=float("nan")), "positive"),
        (dict(sigma=float("inf")), "positive"),
    ],
)
def test_wrong_settings(kw, says):
    with pytest.raises(ValueError, match=says):
        modified_dog(picture(20, 20), **kw)


@pytest.mark.parametrize(
    "args",
    [
        (0, 10),
        (10, -3),
        (float("nan"), 10),
        (10, 4.5),
        ("10", 10),
        (480,),
        ((480, 640, 2),),
        ((3, 480, 640),),
        (np.zeros((3, 8, 8)),),
        (np.zeros((2, 8, 8, 3)),),
        (np.zeros((0, 8)),),
    ],
)
def test_points_need_a_picture(args):
    with pytest.raises(ValueError, match="whole height and width"):
        focus_points(*args)


def test_points_of_a_shape_in_pieces():
    "An image's shape, spread out, hands its channels on: they are no grid."
    img = picture(48, 64)
    with pytest.raises(ValueError, match=r"\(3,\) as well: pass the image itself"):
        focus_points(*img.shape)
    want = focus_points(48, 64).tolist()
    for form in (
        img,
        img[..., :1],
        img.shape,
        (48, 64),
        np.array([48, 64]),
        torch.zeros(48, 64),
        np.dstack([img, img[..., 0]]),
    ):
        assert focus_points(form).tolist() == want
    assert focus_points(np.int64(48), 64.0).tolist() == want


def test_batch_says_what_it_is_not():
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    with pytest.raises(ValueError, match="torch tensor .*got ndarray: pass `torch.from_numpy"):
        modified_dog_batch(x)
    for t in (
        torch.from_numpy(x),
        torch.from_numpy(x).half(),
        torch.from_numpy(x).bfloat16(),
        torch.from_numpy(x).double(),
    ):
        assert modified_dog_batch(t).shape == (1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"in \[0,1\], got values up to 2\d\d.*divide levels"):
            modified_dog_batch(t * 255)


def test_wrong_grid_radius_and_batch():
    with pytest.raises(ValueError, match="at least 3 lines"):
        focus_points(10, 10, grid=2)
    with pytest.raises(ValueError, match="at least 3 lines"):
        focus_points(10, 10, grid=float("nan"))
    with pytest.raises(ValueError, match="at least 1 px"):
        focus_scores(picture(20, 20), radius=0)
    for x in (torch.rand(3, 8, 8), torch.rand(1, 6, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"\(B,3,H,W\) float"):
            modified_dog_batch(x)
    with pytest.raises(ValueError, match="measure"):
        modified_dog_batch(torch.rand(1, 3, 8, 8), measure="x")
    with pytest.raises(ValueError, match="fallback"):
        modified_dog_batch(torch.rand(1, 3, 8, 8), fallback=-1)


# --- import


def test_import_is_light_and_quick():
    code = (
        "import sys, time, numpy, cv2; t = time.process_time(); import dogdepth.dog; t = time.process_time()-t;"
        "print(t, *[m for m in ('torch','PIL','matplotlib','skimage','scipy','plotly') if m in sys.modules])"
    )
    took, *heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not heavy and float(took) < 0.3


# --- real frames


def test_on_real_frames(data):
    files = sorted((data / "nyu/data/nyu2_train").glob("*/*.jpg"))[::150]
    assert len(files) > 5
    imgs = [read_image(f) for f in files]
    for img, b in zip(imgs, batch(imgs)):
        np.testing.assert_allclose(focus_scores(img), literal_scores(img), rtol=1e-9)
        sigma = focus_sigma(img)[2]
        out = modified_dog(img)
        off = abs(out - np.maximum(dog64(to_grey(img), sigma), 0))
        assert off.max() <= 2 and (off > 1).mean() <= 0.001
        assert abs(b - out.astype(int)).max() <= 1


def test_the_reports_figure(data):
    "Fig 2.2 of the report: a bathroom, focus points (511,95) and (127,95)."
    img = read_image(data / "nyu/data/nyu2_train/bathroom_0034_out/701.jpg")
    assert focus_sigma(img)[:2] == ((511, 95), (127, 95))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4000, 3000), (32, 4000)])
@pytest.mark.parametrize("measure", MEASURES)
def test_large_pictures(size, measure):
    img = picture(*size, "smooth")
    np.testing.assert_allclose(focus_scores(img), literal_scores(img), rtol=1e-9)
    assert modified_dog(img, measure).shape == size


@pytest.mark.parametrize("h, w", [(48, 64), (49, 61)])
def test_planes_are_the_stack_channels_first(h, w):
    for img in (picture(h, w), picture(h, w, "smooth", 1)[:, ::-1], picture(h, w, seed=2)[::2, 1::3]):
        r, g, b, *d = np.moveaxis(stack_dog(img), -1, 0)
        for dog, bgr in itertools.product((True, False), repeat=2):
            want = np.stack([*((b, g, r) if bgr else (r, g, b)), *d[: 3 * dog]]).astype(np.float32) / 255
            got = network_planes(img, dog, bgr)
            assert got.dtype == np.float32 and got.flags.c_contiguous and np.array_equal(got, want)


@pytest.mark.parametrize("dog", [True, False])
@pytest.mark.parametrize(
    "img",
    [
        np.zeros((48, 64), np.uint8),
        np.zeros((48, 64, 3)),
        np.zeros((3, 48, 64), np.uint8),
        np.zeros((48, 64, 4), np.uint8),
        [[1, 2, 3]],
    ],
    ids=("grey", "floats", "channels first", "RGBA", "list"),
)
def test_planes_of_what_is_no_photo(img, dog):
    with pytest.raises(ValueError, match=r"img should be \(H,W,3\) RGB, uint8, got"):
        network_planes(img, dog)


def test_wide_blurs_wake_no_helpers():
    """Threads of NumPy's BLAS wait in a loop after each product: on two cores a network that came next took twice as
    long."""
    code = (
        "import time, numpy as np, cv2; cv2.setNumThreads(1)\n"
        "from dogdepth.blur import gaussian_blur\n"
        "g = np.random.default_rng(0).integers(0, 256, (240, 320), dtype=np.uint8); gaussian_blur(g, 13); "
        "time.sleep(.5)  # what starting took has gone to sleep\n"
        "all_, mine = time.process_time(), time.thread_time()\n"
        "for s in (13, 20, 40, 86) * 20: gaussian_blur(g, s)\n"
        "print((time.process_time() - all_) / (time.thread_time() - mine))"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "OPENBLAS_", "MKL_"))} | {
        "OPENBLAS_NUM_THREADS": "2"
    }
    r = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert float(r.stdout) < 1.4, f"{float(r.stdout):.2f} times the caller's own time was spent"
