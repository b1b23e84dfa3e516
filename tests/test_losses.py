"07_losses: laws (a perfect match is free, holes cannot matter), oracles (the published program, scikit-image, by hand), gradients, errors."

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from dogdepth.losses import (
    DepthLoss,
    LogDepthLoss,
    diffs,
    grad_loss,
    grad_matching,
    grid_loss,
    l1_loss,
    masked_mean,
    silog,
    ssim_loss,
    ssim_map,
)

TERMS = dict(
    l1=l1_loss,
    grad=grad_loss,
    grid=grid_loss,
    ssim=ssim_loss,
    silog=silog,
    silog_lam1=lambda p, t, m: silog(p, t, m, lam=1.0),
    grad_matching=grad_matching,
    report=lambda p, t, m: DepthLoss()(p, t, m)[0],
    log=lambda p, t, m: LogDepthLoss()(p, t, m)[0],
)
each_term = pytest.mark.parametrize("name", TERMS)


def maps(h=13, w=17, b=2, seed=0, dtype=torch.float64, holes=0.3):
    g = torch.Generator().manual_seed(seed)
    rand = lambda: torch.rand(b, 1, h, w, generator=g, dtype=torch.float64)
    t = 1 + 8 * rand()
    return (t * (0.8 + 0.4 * rand())).to(dtype), t.to(dtype), rand() > holes


# ---- the report's published program: inputs anyone can write down, and what it answers in float64

PUBLISHED = dict(
    depth=3.44139513712015, grad_global=1.9408699018478293, grad_grid=15.527051784745185, ssim=0.9977558330921854
)
PUBLISHED_TOTAL, PUBLISHED_PERFECT = 11.03813640748372, 0.9999983723963388


def published_inputs():
    i = torch.arange(2 * 480 * 640, dtype=torch.float64)
    t = 100 + 50 * torch.sin(0.003 * i) + 20 * torch.cos(0.0007 * i)
    return tuple(a.view(2, 1, 480, 640) for a in (t + 5 * torch.sin(0.05 * i) + 2, t))


def test_the_published_program_to_the_letter():
    p, t = published_inputs()
    total, d = DepthLoss(published=True)(p, t)
    assert {k: v.item() for k, v in d.items()} == pytest.approx(PUBLISHED, rel=1e-12)
    assert total.item() == pytest.approx(PUBLISHED_TOTAL, rel=1e-12)
    assert DepthLoss(published=True)(t, t)[0].item() == pytest.approx(PUBLISHED_PERFECT, rel=1e-12)


def test_published_divides_the_grid_by_the_batch_and_ours_does_not():
    p, t, _ = maps(16, 24, b=1)
    pub, own = DepthLoss(published=True), DepthLoss()
    for n in (2, 3, 8):
        pn, tn = p.repeat(n, 1, 1, 1), t.repeat(n, 1, 1, 1)
        assert pub(pn, tn)[1]["grad_grid"] * n == pytest.approx(pub(p, t)[1]["grad_grid"].item())
        for k, v in own(pn, tn)[1].items():
            assert v.item() == pytest.approx(own(p, t)[1][k].item()), k


def test_published_ssim_rewards_the_inverted_map():
    _, t, _ = maps(32, 32, b=1)
    t = 25 * t
    f = lambda p: DepthLoss(published=True)(p, t)[1]["ssim"].item()
    assert f(2 * t.mean() - t) < 0.01 and f(t) > 0.99
    own = lambda p: DepthLoss(data_range=255.0)(p, t)[1]["ssim"].item()
    assert own(2 * t.mean() - t) > 0.5 and own(t) < 1e-9


def test_published_ssim_is_blind_to_places():
    "One number for the whole frame: the pixels of both maps scrambled in the same way leave it, and move a windowed one."
    p, t, m = maps(32, 32, b=1, holes=0)
    mix = torch.randperm(t.numel(), generator=torch.Generator().manual_seed(0))
    scrambled = [d.flatten()[mix].view_as(d) for d in (p, t)]
    smooth = torch.nn.functional.avg_pool2d(t, 5, 1, 2)
    pub = DepthLoss(published=True)
    assert pub(25 * p, 25 * t)[1]["ssim"].item() == pytest.approx(pub(*(25 * d for d in scrambled))[1]["ssim"].item())
    apart = [d.flatten()[mix].view_as(d) for d in (smooth, t)]
    assert abs(ssim_loss(smooth, t, m) - ssim_loss(*apart, m)) > 0.01


def test_ssims_constants_forgive_a_share_of_the_range():
    "10 mm of noise on a wall: nothing beside a range of 10 m, everything beside the program's constants on its levels."
    noise = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 100
    wall = torch.full_like(noise, 2.0)
    assert ssim_map(wall, wall + noise).mean() > 0.99
    assert ssim_map(25.5 * wall, 25.5 * (wall + noise), data_range=1.0).mean() < 0.05


def test_the_reports_total():
    "Report §4: four rounded parts and their sum, with its weights."
    w = DepthLoss().w
    got = sum(w[k] * v for k, v in dict(depth=3.3032, grad_global=0.7557, grad_grid=0.6236, ssim=0.9876).items())
    assert got == pytest.approx(5.2337, abs=2e-4)


# ---- laws


@each_term
@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_a_perfect_match_is_free(name, dtype, tol):
    _, t, m = maps(dtype=dtype)
    assert TERMS[name](t, t, m).abs().max() < tol
    assert TERMS[name](t, t, torch.ones_like(m)).abs().max() < tol


def test_a_perfect_match_is_free_in_every_part():
    _, t, m = maps()
    for loss in (DepthLoss(), LogDepthLoss()):
        assert all(abs(v) < 1e-9 for v in loss(t, t, m)[1].values())


@each_term
def test_a_mistake_costs(name):
    p, t, m = maps()
    assert (TERMS[name](p, t, m) > 1e-3).all()


@each_term
@pytest.mark.parametrize("garbage", [0.0, 1e-3, 1e6, -5.0, float("nan"), float("inf")])
def test_holes_cannot_matter(name, garbage):
    "Whatever stands at masked pixels, of the target or of the prediction: same loss, same gradient, and none at the holes."
    p, t, m = maps()
    p = p.requires_grad_()
    want = TERMS[name](p, t, m).sum()
    (g_want,) = torch.autograd.grad(want, p)
    assert (g_want[~m] == 0).all()
    for q, s in ((p.detach(), torch.where(m, t, garbage)), (torch.where(m, p.detach(), garbage), t)):
        q = q.clone().requires_grad_()
        got = TERMS[name](q, s, m).sum()
        (g,) = torch.autograd.grad(got, q)
        assert got.item() == pytest.approx(want.item(), rel=1e-12)
        assert torch.allclose(g, g_want, rtol=1e-10, atol=1e-14)


@each_term
def test_gradcheck_with_a_mask(name):
    p, t, m = maps(6, 9, b=1)
    assert torch.autograd.gradcheck(lambda q: TERMS[name](q, t, m), p.clone().requires_grad_(), atol=1e-6)


@each_term
def test_nothing_valid_is_free_and_has_no_gradient(name):
    p, t, m = maps()
    p.requires_grad_()
    loss = TERMS[name](p, t, torch.zeros_like(m)).sum()
    loss.backward()
    assert loss.item() == 0 and (p.grad == 0).all()


@each_term
def test_one_by_one_is_as_a_batch(name):
    p, t, m = maps(b=3)
    batch = TERMS[name](p, t, m)
    alone = torch.stack([TERMS[name](p[i : i + 1], t[i : i + 1], m[i : i + 1]).squeeze() for i in range(3)])
    assert torch.allclose(batch if batch.ndim else batch[None], alone if batch.ndim else alone.mean()[None], atol=1e-12)


@pytest.mark.parametrize(
    "name", sorted(set(TERMS) - {"grad_matching", "log"})
)  # every 2nd pixel of a mirrored map is another pixel
def test_mirrored_pictures_cost_the_same(name):
    p, t, m = maps(16, 24)
    assert torch.allclose(TERMS[name](p, t, m), TERMS[name](p.flip(-1), t.flip(-1), m.flip(-1)), atol=1e-12)


@each_term
def test_descending_leads_to_the_truth(name):
    "Scale-free terms up to a factor: compare the logarithms' correlation."
    p, t, m = maps(8, 8, b=1, holes=0)
    q = p.clone().requires_grad_()
    opt = torch.optim.Adam([q], lr=0.05)
    first = TERMS[name](q, t, m).sum().item()
    for _ in range(90):
        opt.zero_grad()
        TERMS[name](q, t, m).sum().backward()
        opt.step()
        q.data.clamp_(min=0.1)
    assert TERMS[name](q, t, m).sum().item() < 0.15 * first
    corr = torch.corrcoef(torch.stack([q.detach().log().flatten(), t.log().flatten()]))[0, 1]
    assert corr > 0.95


def test_the_mask_defaults_to_the_readings():
    p, t, m = maps()
    t = torch.where(m, t, 0)
    for loss in (DepthLoss(), LogDepthLoss()):
        assert loss(p, t)[0].item() == loss(p, t, m)[0].item()
    assert torch.equal(silog(p, t), silog(p, t, m)) and torch.equal(grad_matching(p, t), grad_matching(p, t, m))


# ---- by hand, and by an oracle


def row(*v):
    return torch.tensor(v, dtype=torch.float64).view(1, 1, 1, -1)


def test_by_hand():
    t = row(2, 2, 2, 0)
    assert l1_loss(row(2, 3, 6, 9), t, t > 0).item() == pytest.approx(5 / 3)
    assert grad_loss(row(2, 3, 6, 9), t, t > 0).item() == pytest.approx((1 + 3) / 2)
    for turn in (
        lambda x: x,
        lambda x: x.flip(-1),
        lambda x: x.mT,
        lambda x: x.mT.flip(-2),
    ):  # the hole right, left, below, above
        p, t = turn(row(2, 3, 6, 9)), turn(t)
        assert grad_loss(p, t, t > 0).item() == pytest.approx((1 + 3) / 2)
        t = row(2, 2, 2, 0)
    assert masked_mean(row(1, 2, 30), row(1, 1, 0) > 0).item() == 1.5
    gx, gy = diffs(torch.tensor([[[[1.0, 4.0], [2.0, 9.0]]]]))
    assert gx.flatten().tolist() == [3, 7] and gy.flatten().tolist() == [1, 5]


def test_slopes_keep_their_sign():
    bump, dent = row(2, 3, 2), row(2, 1, 2)
    assert grad_loss(dent, bump, bump > 0).item() == 2.0
    assert DepthLoss(published=True, grid=1)(dent.expand(1, 1, 3, 3), bump.expand(1, 1, 3, 3))[1]["grad_global"] == 0


def test_grid_is_the_global_term_cell_by_cell():
    p, t, m = maps(16, 24)
    want = sum(
        grad_loss(*(a[..., 4 * i : 4 * i + 4, 6 * j : 6 * j + 6] for a in (p, t, m)))
        for i in range(4)
        for j in range(4)
    )
    assert torch.allclose(grid_loss(p, t, m), want)
    assert torch.allclose(grid_loss(p, t, m, 1), grad_loss(p, t, m))
    for h, w in ((3, 5), (17, 19), (1, 9)):  # cells of unequal size, or of none
        assert grid_loss(*maps(h, w)).isfinite().all()


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (33, 27), (64, 48), (101, 7)])
@pytest.mark.parametrize("data_range", [10.0, 255.0])
def test_ssim_is_scikit_images(size, data_range):
    p, t, _ = (a[0, 0].numpy() for a in maps(*size))
    if (
        min(size) < 11
    ):  # scikit-image wants a whole window: compare the inner part of an extended map with the same reflected rim
        pad = lambda a: np.pad(a, 8 if min(size) >= 8 else ((8, 8), (min(size), min(size))), mode="symmetric")
        theirs = structural_similarity(
            pad(p), pad(t), data_range=data_range, gaussian_weights=True, use_sample_covariance=False, full=True
        )[1]
        k = [8, 8 if min(size) >= 8 else min(size)]
        theirs = theirs[k[0] : k[0] + size[0], k[1] : k[1] + size[1]]
    else:
        theirs = structural_similarity(
            p, t, data_range=data_range, gaussian_weights=True, use_sample_covariance=False, full=True
        )[1]
    ours = ssim_map(*(torch.from_numpy(a)[None, None] for a in (p, t)), data_range=data_range)[0, 0].numpy()
    assert np.abs(ours - theirs).max() < 1e-10


def test_ssim_with_holes_is_a_mean_over_readings():
    "One window by hand: weights of the valid pixels, normalised."
    p, t, m = maps(21, 21, b=1)
    m[0, 0, 10, 10] = True
    k = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    w = np.outer(k, k) * m[0, 0, 5:16, 5:16].numpy()
    w /= w.sum()
    x, y = (a[0, 0, 5:16, 5:16].numpy() for a in (p, t))
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, c = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    want = (2 * mx * my + 0.01) * (2 * c + 0.09) / ((mx**2 + my**2 + 0.01) * (vx + vy + 0.09))
    assert ssim_map(p, t, m)[0, 0, 10, 10].item() == pytest.approx(want, rel=1e-10)
    assert torch.allclose(ssim_map(p, t), ssim_map(p, t, torch.ones_like(m)))


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_silog_is_the_formula(lam, scale):
    p, t, m = maps(b=1)
    g = np.log(p[m].numpy()) - np.log(t[m].numpy())
    want = scale * np.sqrt((g**2).mean() - lam * g.mean() ** 2)
    assert silog(p, t, m, lam, scale, eps=0.0).item() == pytest.approx(want, rel=1e-10)
    assert silog(p, t, m, lam, scale).item() == pytest.approx(want, abs=2e-3 * scale)


@pytest.mark.parametrize("lam, scale", [(1.0, 100.0), (0.5, 1.0), (0.0, 10.0)])
def test_silog_the_loss_is_silog_the_score(lam, scale):
    "Two functions of one name: at the same settings the same number, image by image."
    from dogdepth import metrics

    p, t, m = maps()
    got = silog(p, t, m, lam, scale, eps=0.0)
    want = [metrics.silog(p[i], t[i], m[i], lam=lam, scale=scale) for i in range(len(p))]
    assert got.tolist() == pytest.approx(want, rel=1e-9)


def test_silog_at_lambda_1_forgives_a_factor_and_keeps_its_gradient():
    _, t, m = maps()
    for k in (0.3, 1.0, 4.0):
        p = (k * t).requires_grad_()
        loss = silog(p, t, m, lam=1.0).sum()
        loss.backward()
        assert loss.item() < 1e-9 and p.grad.isfinite().all()
    assert silog(1.1 * t, t, m, lam=0.0, eps=0.0)[0].item() == pytest.approx(np.log(1.1))


@pytest.mark.parametrize("k", [0.5, 1.1, 7.0])
def test_grad_matching_forgives_a_factor(k):
    p, t, m = maps()
    assert torch.allclose(grad_matching(k * p, t, m), grad_matching(p, t, m), atol=1e-12)
    assert (grad_matching(p + 0.5, t, m) - grad_matching(p, t, m)).abs().min() > 1e-3


def test_grad_matching_scales_by_hand():
    "A log ramp of slope 1 a pixel: 1, 2, 4, 8 at the four scales, in x alone."
    p = torch.exp(torch.arange(16, dtype=torch.float64) / 10).expand(1, 1, 16, 16)
    assert grad_matching(p, torch.ones_like(p)).item() == pytest.approx((0.1 + 0.2 + 0.4 + 0.8) / 4)
    assert grad_matching(p, torch.ones_like(p), scales=1).item() == pytest.approx(0.1)


# ---- the loss objects


def test_terms_choose_what_counts():
    p, t, m = maps()
    loss = DepthLoss(grid_weight=0.7)
    total, d = loss(p, t, m)
    assert total.item() == pytest.approx((d["depth"] + d["grad_global"] + 0.7 * d["grad_grid"] + d["ssim"]).item())
    for k in d:
        assert DepthLoss(terms=(k,))(p, t, m)[0].item() == pytest.approx(
            d[k].item() * loss.w[k] if k != "grad_grid" else 0.3 * d[k].item()
        )
    assert list(d) == ["depth", "grad_global", "grad_grid", "ssim"] and not any(v.requires_grad for v in d.values())
    total, d = LogDepthLoss(grad_weight=0.25)(p, t, m)
    assert total.item() == pytest.approx((d["silog"] + 0.25 * d["grad"]).item())


def test_errors():
    p, t, m = maps()
    for loss in (DepthLoss(), LogDepthLoss()):
        with pytest.raises(
            ValueError, match=r"pred and target should both be \(B,1,H,W\), got \(2, 1, 13, 16\) and \(2, 1, 13, 17\)"
        ):
            loss(p[..., :-1], t)
        with pytest.raises(ValueError, match=r"should both be \(B,1,H,W\), got \(1, 13, 17\)"):
            loss(p[0], t[0])
        with pytest.raises(ValueError, match="mask should be bool, shaped like target.*torch.float64"):
            loss(p, t, m.double())
        with pytest.raises(
            ValueError, match=r"mask should be bool, shaped like target \(2, 1, 13, 17\), got \(2, 13, 17\)"
        ):
            loss(p, t, m[:, 0])
    with pytest.raises(ValueError, match=r"terms should be among .*got \['l1'\]"):
        DepthLoss(terms=("l1", "ssim"))
    with pytest.raises(ValueError, match=r"11x11 windows: maps should be at least 5x5, got \(4, 17\)"):
        DepthLoss()(p[..., :4, :], t[..., :4, :])


@pytest.mark.parametrize(
    "loss",
    [DepthLoss(), DepthLoss(published=True), LogDepthLoss(), silog, grad_matching],
    ids=["depth", "published", "log", "silog", "grad_matching"],
)
def test_inputs_are_float_maps_of_one_dtype(loss):
    p, t, m = maps()
    with pytest.raises(TypeError, match=r"pred should be a torch tensor \(B,1,H,W\), got ndarray: .*torch.from_numpy"):
        loss(p.detach().numpy(), t.numpy())
    with pytest.raises(TypeError, match=r"target should be a torch tensor .*got ndarray"):
        loss(p, t.numpy())
    with pytest.raises(TypeError, match=r"mask should be a torch tensor .*got ndarray"):
        loss(p, t, m.numpy())
    rgb = [x.expand(-1, 3, -1, -1) for x in (p, t, m)]
    with pytest.raises(ValueError, match=r"both be \(B,1,H,W\), got \(2, 3, 13, 17\) and \(2, 3, 13, 17\)"):
        loss(*rgb)
    for a, b in ((p.byte(), t.byte()), (p.float(), t.double()), (p.half(), t.float()), (p, t.long())):
        with pytest.raises(ValueError, match=rf"floats of one dtype, got {a.dtype} and {b.dtype}: .*\.float\(\)"):
            loss(a, b)


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(grid=0), "grid should be a whole number of cells a side, 1 or more, got 0"),
        (dict(grid=-2), "1 or more, got -2"),
        (dict(grid=2.5), "whole number.*got 2.5"),
        (dict(data_range=0.0), "data_range should be .*above 0, got 0.0"),
        (dict(data_range=-10.0), "above 0, got -10.0"),
        (dict(data_range=float("nan")), "above 0, got nan"),
        (dict(data_range=float("inf")), "got inf"),
        (dict(terms=()), "terms should be .*at least one.*got none"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(bad, match):
    with pytest.raises(ValueError, match=match):
        DepthLoss(**bad)


@pytest.mark.parametrize("published", [False, True])
def test_a_picture_smaller_than_the_grid(published):
    p, t, _ = maps()
    n = 6 if published else 13  # its cells are cut from whole pixels, and a cell of one pixel has no slope
    assert DepthLoss(grid=n, published=published)(p, t)[0].isfinite()
    with pytest.raises(
        ValueError,
        match=r"grid of (14x14|7x7) cells needs maps of at least 14x14 pixels, got \(13, 17\): .*smaller grid",
    ):
        DepthLoss(grid=n + 1, published=published)(p, t)


def test_on_a_real_room(data):
    "Five ways to be wrong on a real depth map: each one costs, and the exchanged one costs SSIM the most."
    from dogdepth.nyu import NYUDepth

    d = torch.from_numpy(NYUDepth(data / "nyu", "val")[100]["depth"])[None, None, ::4, ::4]
    wrong = dict(offset=d + 0.5, scale=d * 1.1, invert=d.amax() + d.amin() - d, shift=d.roll(3, -1))
    for loss in (DepthLoss(), LogDepthLoss()):
        assert loss(d, d)[0] < 1e-5
        assert all(loss(p, d)[0] > 0.02 for p in wrong.values())
    price = {k: DepthLoss()(p, d)[1]["ssim"].item() for k, p in wrong.items()}
    assert max(price, key=price.get) == "invert"


# ---- Fig 4.1 and the table of 100 random images, as results/ keeps them

ROOT = Path(__file__).resolve().parents[1]


def fig41():
    "Means over the images, by network and epoch; the total with batches of 20, as the report's table."
    groups = {}
    for r in csv.DictReader((ROOT / "results/fig41.csv").open(encoding="utf-8")):
        groups.setdefault((r["network"], r["epoch"]), []).append(r)
    keys = list(r)[3:]
    means = {k: {c: np.mean([float(r[c]) for r in rows]) for c in keys} for k, rows in groups.items()}
    assert {tuple(r["name"] for r in rows) for rows in groups.values()} == {
        tuple(r["name"] for r in next(iter(groups.values())))
    }, "all networks see the same images"
    assert {len(rows) for rows in groups.values()} == {100}
    for d in means.values():
        d["total"] = d["depth"] + d["grad_global"] + 0.3 * d["grad_grid"] / 20 + d["ssim"]
    return means


def test_fig41_silence_and_a_wall():
    "The report's loss at epoch 1, 72.4, is about that of a map of zeros; most of the way down from there is one distance for all."
    m = fig41()
    assert m["nothing", ""]["total"] == pytest.approx(72.4, abs=3) and m["nothing", ""]["abs_rel"] == pytest.approx(
        1, abs=1e-3
    )
    assert m["mean", ""]["total"] < 0.45 * m["nothing", ""]["total"]
    assert m["mean", ""]["grad_global"] == pytest.approx(m["nothing", ""]["grad_global"]) and m["mean", ""][
        "ssim"
    ] == pytest.approx(0.5, abs=1e-3)


def test_fig41_the_order_of_the_networks():
    m = fig41()
    total = [
        m[k]["total"]
        for k in (
            ("nothing", ""),
            ("published", "1"),
            ("mean", ""),
            ("published", "5"),
            ("light", "1"),
            ("light", "5"),
            ("shipped", ""),
        )
    ]
    assert total == sorted(total, reverse=True)
    for who in ("published", "report", "light"):
        assert m[who, "5"]["total"] < m[who, "1"]["total"] and m[who, "5"]["abs_rel"] < m[who, "1"]["abs_rel"]
    assert (
        abs(m["published", "5"]["total"] - m["report", "5"]["total"])
        < 2
        < m["report", "5"]["total"] - m["light", "5"]["total"]
    )
    assert m["shipped", ""]["depth"] > 2 * 3.3032


def test_fig41_the_programs_terms_against_the_networks():
    "Its gradient term prefers a blank wall to each of them; its SSIM term is highest for the best map, ours lowest."
    m = fig41()
    assert all(
        d["grad_global"] > m["nothing", ""]["grad_global"] for k, d in m.items() if k[0] not in ("nothing", "mean")
    )
    last = [m[k] for k in (("nothing", ""), ("published", "5"), ("light", "5"), ("shipped", ""))]
    for up, key in ((False, "our_ssim"), (True, "ssim"), (False, "abs_rel")):
        values = [d[key] for d in last]
        assert values == sorted(values, reverse=not up), key


def test_fig41_pictures_are_the_tables():
    "The stored answers name their rooms and networks, and hold nothing else."
    from PIL import Image

    png = Image.open(ROOT / "results/fig41.png")
    rooms, rows = (json.loads(png.info[k]) for k in ("columns", "rows"))
    assert (
        rows == [f"{w} {e}".strip() for w, e in fig41() if w not in ("nothing", "mean")]
        and len(rooms) == len(set(rooms)) == 4
    )
    assert (
        png.mode == "L"
        and png.size == (160 * len(rooms), 120 * len(rows))
        and (ROOT / "results/fig41.png").stat().st_size < 150_000
    )


def test_fig41_rows_are_what_the_losses_say(data):
    "Two of its images once more: a map of zeros costs their mean level, the same slopes, and half the SSIM."
    from dogdepth.nyu import NYUDepth

    ds = NYUDepth(data / "nyu", "val")
    want = [
        r for r in csv.DictReader((ROOT / "results/fig41.csv").open(encoding="utf-8")) if r["network"] == "nothing"
    ][::60]
    for r in want:
        d = ds[next(i for i, f in enumerate(ds.frames) if f.name == r["name"])]["depth"]
        t = torch.from_numpy(d)[None, None] * 25.5
        got = DepthLoss(published=True)(0 * t, t)[1]
        assert {k: v.item() for k, v in got.items()} == pytest.approx({k: float(r[k]) for k in got}, rel=1e-4)
        assert float(r["depth"]) == pytest.approx(d.mean() * 25.5, rel=1e-4)


@pytest.mark.slow
def test_fig41_can_be_made_again(data, tmp_path):
    "The command itself, very small; then the package's weights alone, which leaves the other rows as they are."
    env = {**os.environ, "DOGDEPTH_DATA": str(data)}
    run = lambda *a: subprocess.run(
        [sys.executable, ROOT / "tools/fig41.py", "--images", "2", "--out", tmp_path, "--size", "32", "48", *a],
        env=env,
        capture_output=True,
        text=True,
    )
    r = run("--epochs", "2", "--width", "2", "--bs", "230", "--runs", tmp_path / "runs")
    assert r.returncode == 0, r.stderr
    before = (tmp_path / "fig41.csv").read_bytes(), (tmp_path / "fig41.png").read_bytes()
    assert before[0].count(b"\n") == 1 + 2 * 9
    assert run("--shipped").returncode == 0
    assert before == ((tmp_path / "fig41.csv").read_bytes(), (tmp_path / "fig41.png").read_bytes())
    assert "epochs should be at least 2" in run("--epochs", "1").stderr


@pytest.mark.parametrize("term", [l1_loss, grad_loss, grid_loss, ssim_loss])
def test_each_term_checks_its_maps_and_finds_the_mask_itself(term):
    p, t, _ = maps(24, 24)
    t[0, 0, 3] = 0
    assert torch.equal(term(p, t), term(p, t, t > 0))
    with pytest.raises(ValueError, match=r"both be \(B,1,H,W\)"):
        term(p, t[:, 0])  # would broadcast: a perfect match would cost something
    with pytest.raises(ValueError, match="one dtype"):
        term(p, t.float())


@pytest.mark.parametrize("lam", [-0.1, 2.0, float("nan")])
def test_silog_wants_a_share(lam):
    p, t, m = maps()
    with pytest.raises(ValueError, match="lam should be from 0"):
        silog(p, t, m, lam)
    with pytest.raises(ValueError, match="lam should be from 0"):
        LogDepthLoss(lam)
