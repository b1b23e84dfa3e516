"The modified DoG against independent forms: the program's own, float64 blurs, scikit-image, hand-computed numbers."
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.filters import difference_of_gaussians

from dogdepth.depth import read_image
from dogdepth.dog import (
    LEAST, MEASURES, _blur_matrix, _reflect, disc, focus_points, focus_scores, focus_sigma, gaussian_blur, gaussian_taps,
    literal_dog, literal_scores, modified_dog, modified_dog_batch, stack_dog, to_grey,
)

KINDS = ("noise", "smooth", "flat", "black", "white", "dot", "stripes")


def picture(h, w, kind="noise", seed=0):
    "A test picture, (h,w,3) uint8."
    r = np.random.default_rng(seed)
    if kind == "noise":
        return r.integers(0, 256, (h, w, 3), dtype=np.uint8)
    if kind == "smooth":
        return cv2.resize(r.integers(0, 256, (5, 6, 3), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w, 3)
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
            np.add.at(m[i], where[i:i + 2 * r + 1], k)
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
    assert len(focus_points(60, 80, grid)) == (grid - 2) ** 2
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

@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (11, 40), (21, 25), (32, 32), (57, 50), (120, 160), (480, 640)])
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
    assert focus_scores(np.full((480, 640), 100, np.uint8))[0] == pytest.approx(100**2 * (out**2).sum() / (480 * 640), rel=1e-12)


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
            assert A.shape == (2, n, n) and torch.isfinite(A).all() and torch.allclose(A.sum(-1), torch.ones(2, n), atol=1e-5)
            if s <= 40:
                want = blur64(np.eye(n), s, reach=6) if n > 1 else np.ones((1, 1))
                got = (A[0] @ torch.eye(n) @ A[0].T).numpy()
                assert abs(got - want).max() < (LEAST if s < 2.6 else 1e-5)  # small taps are left out of narrow blurs


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
    assert abs(modified_dog(g, sigma=6, saturate=False) - theirs).max() <= 1.5  # two roundings of half a level each, and the quick blur


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
    assert (six[..., :3] == img).all() and all((six[..., c] == modified_dog(img, fallback=3.0)).all() for c in (3, 4, 5))
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
    assert max(abs((o[0] * 255).round().cpu().numpy() - modified_dog(picture(240, 320, k))).max() for o, k in zip(out, KINDS)) <= 1


# --- errors

@pytest.mark.parametrize("img, says", [
    (np.zeros((4, 4), np.float32), "uint8 levels 0..255, got float32"),
    (np.zeros((4, 4, 4), np.uint8), r"\(H,W,3\) RGB or \(H,W\) grey"),
    (np.zeros((2, 4, 4, 3), np.uint8), "modified_dog_batch"),
    (np.zeros((0, 4), np.uint8), "at least one pixel"),
    (np.zeros(4, np.uint8), r"got \(4,\)"),
])
def test_wrong_images(img, says):
    for f in (modified_dog, focus_scores, focus_sigma, stack_dog, literal_scores):
        with pytest.raises(ValueError, match=says):
            f(img)


@pytest.mark.parametrize("kw, says", [
    (dict(measure="sharpness"), "laplacian"), (dict(fallback=0), "above 0"), (dict(fallback=float("nan")), "above 0"),
    (dict(sigma=0.0), "positive"), (dict(sigma=-1.0), "positive"), (dict(sigma=float("nan")), "positive"), (dict(sigma=float("inf")), "positive"),
])
def test_wrong_settings(kw, says):
    with pytest.raises(ValueError, match=says):
        modified_dog(picture(20, 20), **kw)


def test_wrong_grid_radius_and_batch():
    with pytest.raises(ValueError, match="at least 3 lines"):
        focus_points(10, 10, grid=2)
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
    code = ("import sys, time, numpy, cv2; t = time.process_time(); import dogdepth.dog; t = time.process_time()-t;"
            "print(t, *[m for m in ('torch','PIL','matplotlib','skimage','scipy','plotly') if m in sys.modules])")
    took, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
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
