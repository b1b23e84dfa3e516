"The fast form of the filter: equal to a float64 reference for every sigma, to the literal scores, at any size, in any state of its scratch memory."

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dogdepth import dog
from dogdepth.blur import _reach, _rounded_blur, gaussian_blur
from dogdepth.files import read_image
from dogdepth.dog import (
    MEASURES,
    _lattice,
    focus_scores,
    focus_sigma,
    literal_scores,
    modified_dog,
    modified_dog_batch,
    stack_dog,
    to_grey,
)
from dogdepth.windows import batch_dog, batch_sigma

H, W = 240, 321  # one even side, one odd: their mirrors differ in a halved picture
SIGMAS = [
    0.5,
    0.77,
    1,
    1.6,
    2,
    2.79,
    2.8,
    3,
    3.7,
    5,
    5.19,
    5.2,
    6.3,
    8,
    10.39,
    10.4,
    14,
    20.7,
    20.8,
    26,
    28,
    33,
    41.5,
    41.6,
    52,
    64,
]


def blur_matrix(n, sigma, reach=6):
    "The blur of one axis in float64, kernel out to `reach` sigma, borders by numpy's own reflection."
    r = int(np.ceil(reach * sigma))
    k = np.exp(-0.5 * (np.arange(-r, r + 1) / sigma) ** 2)
    k /= k.sum()
    where = np.pad(np.arange(n), r, mode="reflect") if n > 1 else np.zeros(2 * r + 1, int)
    m = np.zeros((n, n))
    for i in range(n):
        np.add.at(m[i], where[i : i + 2 * r + 1], k)
    return m


def blur64(g, sigma):
    return blur_matrix(g.shape[0], sigma) @ g.astype(float) @ blur_matrix(g.shape[1], sigma).T


def dog64(g, sigma):
    return np.rint(blur64(g, sigma)) - np.rint(blur64(g, sigma / 10))


def pictures(h, w):
    r = np.random.default_rng(0)
    dot, corner, step, wedge = np.zeros((4, h, w), np.uint8)
    dot[h // 2, w // 2] = 255
    corner[0, 0] = corner[-1, -1] = 255
    step[:, w // 2 :] = 255
    wedge[np.add.outer(np.arange(h), np.arange(w)) > (h + w) // 2] = 200
    return dict(
        noise=r.integers(0, 256, (h, w), dtype=np.uint8),
        dot=dot,
        corner=corner,
        step=step,
        wedge=wedge,
        flat=np.full((h, w), 77, np.uint8),
        smooth=cv2.resize(r.integers(0, 256, (6, 8), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC),
        rooms=cv2.resize(
            r.integers(0, 256, (h // 9 + 1, w // 9 + 1), dtype=np.uint8), (w, h), interpolation=cv2.INTER_NEAREST
        ),
    )


PICTURES = pictures(H, W)


def within(got, want, at_most=2, share=0.001):
    off = abs(got.astype(float) - want)
    assert off.max() <= at_most and (off > 1).mean() <= share, (off.max(), (off > 1).mean())


# --- against the reference


@pytest.mark.parametrize("sigma", SIGMAS)
def test_filter_against_float64(sigma):
    "At most 2 levels off anywhere, borders included, and at most 1 at 99.9 % of the pixels."
    blurs = [[blur_matrix(n, s) for n in (H, W)] for s in (sigma, sigma / 10)]
    for name, g in PICTURES.items():
        wide, fine = (np.rint(a @ g.astype(float) @ b.T) for a, b in blurs)
        signed = modified_dog(g, sigma=sigma, saturate=False)
        within(signed, wide - fine)
        assert (modified_dog(g, sigma=sigma) == np.maximum(signed, 0)).all(), name
        if name == "flat":
            assert not signed.any()


@pytest.mark.parametrize("sigma", SIGMAS)
def test_blur_is_the_exact_one_rounded(sigma):
    "Half a level of rounding and no more than 0.6 of error; a flat picture stays exactly flat."
    for name, g in PICTURES.items():
        got = _rounded_blur(g, sigma, "test")
        assert got.dtype == np.uint8 and got.shape == g.shape
        assert abs(got - blur64(g, sigma)).max() < (0.501 if name == "flat" else 1.1)
    assert (_rounded_blur(PICTURES["flat"], sigma, "test") == 77).all()


def response(n, sigma):
    "The quick blur of one axis as a matrix, taken apart by feeding it one bright line at a time: its steps as floats, unrounded."
    eye = np.zeros((n, n), np.float32)
    np.fill_diagonal(eye, 1)
    L = int(np.log2(sigma / 1.3)) if sigma >= 2.8 else 0
    s = np.sqrt(sigma**2 - 2 * (4**L - 1) / 3) / 2**L
    t = cv2.getGaussianKernel(2 * _reach(s) + 1, s)[:, 0].astype(np.float32)
    one = np.ones(1, np.float32)
    border = (_reach(s) + 4) * 2 ** (L - 1) + 4
    a = np.repeat(eye[:, :, None], 32, 2)  # each picture n x 32, constant along x
    out = []
    for p in a:
        if L:
            p = cv2.pyrDown(p)
            p = cv2.copyMakeBorder(p, 0, int(border), 0, 0, cv2.BORDER_REFLECT_101 if n % 2 else cv2.BORDER_REFLECT)
            for _ in range(L - 1):
                p = cv2.pyrDown(p)
        p = cv2.sepFilter2D(p, cv2.CV_32F, one, t, borderType=cv2.BORDER_REFLECT_101)
        for i in range(L, 0, -1):
            p = cv2.pyrUp(p[: (n - 1 >> i) + 3])
        out.append(p[:n, 0])
    return np.stack(out, 1)


@pytest.mark.parametrize("sigma", [0.5, 1.1, 2, 2.75, 2.8, 4, 5.2, 7, 10.4, 16, 21])
def test_the_worst_picture_there_is(sigma):
    """Black where the quick blur weighs too much and white where it weighs too little: for the pixel it was made for no picture is worse.
    Even that one is at most 2 levels off."""
    n = 97 if sigma < 6 else 256
    exact, quick = blur_matrix(n, sigma), response(n, sigma).astype(float)
    error = quick - exact
    worst = sorted({0, n - 1, *np.argsort(-abs(error).sum(1))[:3].tolist()})
    for y in worst:
        for x in (worst[0], worst[-1], n // 2):
            kernel = np.outer(quick[y], quick[x]) - np.outer(exact[y], exact[x])
            g = np.where(kernel > 0, 255, 0).astype(np.uint8)
            got = _rounded_blur(g, sigma, "test").astype(float)
            assert abs(got - np.rint(blur64(g, sigma)))[y, x] <= 2
            assert abs(got - np.rint(blur64(g, sigma))).max() <= 2


def test_narrow_blurs_change_nothing():
    "A narrow blur below a quarter of a pixel leaves the picture as it is."
    for g in PICTURES.values():
        assert _rounded_blur(g, 0.23, "test") is g and (_rounded_blur(g, 0.25, "test") == g).all()
        assert (np.rint(blur64(g, 0.25)) == g).all()
    assert _rounded_blur(PICTURES["noise"], 0.27, "test") is not PICTURES["noise"]


@pytest.mark.parametrize("size", [(480, 640), (481, 640), (480, 641), (333, 257), (1000, 260)])
@pytest.mark.parametrize("sigma", [2.8, 6, 12, 30])
def test_borders_of_odd_and_even_frames(size, sigma):
    g = pictures(*size)["rooms"]
    for edge in (np.s_[:3], np.s_[-3:], np.s_[:, :3], np.s_[:, -3:]):
        off = abs(_rounded_blur(g, sigma, "test")[edge] - gaussian_blur(g, sigma)[edge])
        assert off.max() < 1.1


# --- scores and sigma


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (23, 25), (32, 32), (59, 61), (64, 49), (130, 129), (480, 640)])
def test_scores_are_the_literal_ones(size):
    for g in pictures(max(size[0], 2), max(size[1], 2)).values():
        g = g[: size[0], : size[1]]
        np.testing.assert_allclose(focus_scores(g), literal_scores(g), rtol=1e-9, atol=1e-9)


def test_sums_do_not_overflow():
    "Full contrast in every disc, the largest sums there are."
    g = np.uint8(255 * (np.indices((480, 640)).sum(0) % 2))
    np.testing.assert_allclose(focus_scores(g), literal_scores(g), rtol=1e-9)
    np.testing.assert_allclose(
        focus_scores(g, radius=60),
        [  # radius 60: 14 641 pixels a window
            cv2.Laplacian(cv2.bitwise_and(g, g, mask=cv2.circle(np.zeros_like(g), p, 60, 255, -1)), cv2.CV_64F).var()
            for p in dog.focus_points(g).tolist()
        ],
        rtol=1e-9,
    )


# --- properties


@settings(max_examples=40, deadline=None)
@given(
    st.integers(32, 200),
    st.integers(32, 200),
    st.sampled_from(sorted(PICTURES)),
    st.booleans(),
    st.booleans(),
    st.one_of(st.none(), st.floats(1e-6, 1e6), st.sampled_from([1e-300, 1e300])),
)
@example(32, 32, "noise", True, True, 64.0)
@example(200, 32, "noise", False, False, 12.0)  # long and thin: the border would be wider than the picture
@example(97, 100, "noise", False, False, 12.0)
def test_any_picture_any_sigma(h, w, kind, colour, saturate, sigma):
    g = pictures(h, w)[kind]
    img = np.dstack([g, g[::-1], g[:, ::-1]]) if colour else g
    out = modified_dog(img, sigma=sigma, saturate=saturate)
    assert out.shape == (h, w) and out.dtype == (np.uint8 if saturate else np.int16)
    if kind == "flat" and not colour:
        assert not out.any()
    if sigma and 0.5 <= sigma <= 64:
        want = dog64(to_grey(img), sigma)
        within(out, np.maximum(want, 0) if saturate else want, share=0.002)  # small pictures: one pixel counts for more


@pytest.mark.parametrize("kind", ["noise", "smooth", "dot", "flat"])
def test_doubtful_sigmas_are_never_nan(kind):
    g = PICTURES[kind]
    for measure in MEASURES:
        assert focus_scores(g, measure).min() >= 0 and np.isfinite(focus_sigma(g, measure)[2])
        assert modified_dog(g, measure).shape == g.shape  # 'intensity' asks for hundreds of pixels


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (32, 4000), (3000, 4000), (4000, 3000)])
def test_extreme_sizes(size):
    for kind, g in pictures(*size).items():
        if kind in ("noise", "dot", "flat", "smooth"):
            for img in (g, np.dstack([g] * 3)):
                for sigma in (None, 0.5, 7.7, 64.0):
                    out = modified_dog(img, sigma=sigma)
                    assert out.shape == size and out.dtype == np.uint8
    a, b = (modified_dog(pictures(*size)["smooth"], sigma=s, saturate=False)[:600, :600] for s in (7.7, 7.7))
    assert (a == b).all()


# --- scratch memory


def test_results_are_not_overwritten():
    "What was returned once stays as it was, whatever is computed later."
    a, b = PICTURES["noise"], PICTURES["smooth"]
    for sigma in (1.0, 2.0, 6.0, 14.0, 40.0):
        first = modified_dog(a, sigma=sigma)
        keep = first.copy()
        six = stack_dog(a)
        six_keep = six.copy()
        modified_dog(b, sigma=sigma), modified_dog(np.dstack([b] * 3)), stack_dog(b)
        assert (first == keep).all() and (six == six_keep).all()
        assert not any(np.shares_memory(first, v) or np.shares_memory(six, v) for v in dog._scratch.kept.values())


def test_order_and_size_leave_no_trace():
    "The same answer after any other picture, size or sigma has used the memory."
    jobs = [
        (PICTURES[k][:h, :w], s)
        for k in ("noise", "rooms")
        for h, w in ((H, W), (200, 300), (64, 80))
        for s in (1.5, 4.0, 11.0, 40.0)
    ]
    fresh = []
    for g, s in jobs:
        dog._scratch.kept.clear()
        fresh.append(modified_dog(g, sigma=s, saturate=False))
    for k in np.random.default_rng(0).permutation(len(jobs) * 3) % len(jobs):
        assert (modified_dog(jobs[k][0], sigma=jobs[k][1], saturate=False) == fresh[k]).all()


def test_threads_do_not_disturb_each_other():
    jobs = [(np.roll(PICTURES["noise"], k, 1), s) for k in range(4) for s in (2.0, 6.0, 14.0)]
    want = [modified_dog(g, sigma=s) for g, s in jobs]
    start = threading.Barrier(4)

    def work(k):
        start.wait()
        return all(
            (modified_dog(*jobs[i][:1], sigma=jobs[i][1]) == want[i]).all()
            for _ in range(8)
            for i in np.roll(range(len(jobs)), k)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_large_arrays_are_not_kept():
    modified_dog(np.zeros((2000, 3000), np.uint8), sigma=6.0)
    assert (
        sum(a.nbytes for a in dog._scratch.kept.values()) < 60e6
        and max(a.nbytes for a in dog._scratch.kept.values()) <= 2**23
    )


# --- the batch


def colour(kind, seed=0):
    g = PICTURES[kind]
    return np.dstack([g, np.roll(g, 3 + seed, 0), np.roll(g, 5, 1)])


def test_batch_on_a_processor_is_the_same_function():
    imgs = [colour(k, s) for k in PICTURES for s in (0, 9)]
    x = torch.from_numpy(np.stack(imgs)).permute(0, 3, 1, 2) / 255
    for kw in ({}, dict(saturate=False), dict(measure="intensity"), dict(fallback=7.5)):
        got = (modified_dog_batch(x, **kw)[:, 0] * 255).round().numpy()
        assert all((a == modified_dog(i, **kw)).all() for a, i in zip(got, imgs))
    assert modified_dog_batch(x[:0]).shape == (0, 1, H, W)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_matrix_form_gives_the_same_picture(measure):
    "What a GPU runs, here on the processor: at most one level from the form in numpy (two, at a few pixels in ten thousand, where both of its blurs are quick ones)."
    imgs = [colour(k) for k in PICTURES] + [np.roll(colour("noise"), 40, 0) // 2]
    c = torch.from_numpy(np.stack(imgs)).permute(0, 3, 1, 2).int()
    got = batch_dog(c, _lattice(*c.shape[2:], 6), measure, 2.0).int().numpy()
    for a, i in zip(got, imgs):
        off = abs(a - modified_dog(i, measure, saturate=False))
        assert off.max() <= 1 or focus_sigma(i, measure)[2] > 28 and off.max() <= 2 and (off > 1).mean() < 5e-4


def test_batch_sigma_is_focus_sigma():
    imgs = [colour(k, s)[:h, :w] for k in ("noise", "rooms", "smooth") for s in (0, 4) for h, w in ((90, 120),)]
    tiny = [i[:40, :30] for i in imgs]  # discs that stick out of the frame
    for group in (imgs, tiny):
        c = torch.from_numpy(np.stack([to_grey(i) for i in group])).int()
        for measure in MEASURES:
            want = [focus_sigma(i, measure)[2] for i in group]
            np.testing.assert_allclose(batch_sigma(c, _lattice(*c.shape[1:], 6), measure, 2.0).numpy(), want, rtol=1e-6)


# --- real frames


def test_real_frames(data):
    files = sorted((data / "nyu/data/nyu2_train").glob("*/*.jpg"))[60::200]
    for f in files:
        g = to_grey(read_image(f))
        np.testing.assert_allclose(focus_scores(g), literal_scores(g), rtol=1e-9)
        sigma = focus_sigma(g)[2]
        within(modified_dog(g, saturate=False), dog64(g, sigma))


@pytest.mark.slow
def test_every_frame(data):
    files = sorted((data / "nyu/data/nyu2_train").glob("*/*.jpg"))
    for f in files:
        g = to_grey(read_image(f))
        sigma = focus_sigma(g)[2]
        wide, fine = (np.rint(gaussian_blur(g, s) + 1e-3) for s in (sigma, sigma / 10))  # itself true to 0.01
        within(modified_dog(g, saturate=False), wide - fine)


def test_batch_levels_are_rounded_and_clipped():
    "Values between two levels go to the nearer one, values outside [0,1] to the ends; strided, double and empty-handed tensors too."
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 64, 80, generator=g) * 1.4 - 0.2
    levels = (x * 255).round().clamp(0, 255)
    want = [modified_dog(i.permute(1, 2, 0).byte().numpy()) for i in levels]
    for form in (x, x.double(), x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x.clone().requires_grad_()):
        got = modified_dog_batch(form)
        assert got.dtype == torch.float32 and not got.requires_grad
        assert all(((a[0] * 255).round().numpy() == b).all() for a, b in zip(got, want))
