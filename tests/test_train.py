"The training loop: exact resume, faults, geometry of augmentation, schedules."

import json
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from dogdepth.depth import Camera
from dogdepth.rooms import Rooms, render_room
from dogdepth.weights import CANONICAL_FOCAL
from dogdepth.attention import DepthUNet
from dogdepth.train import EMA, Run, TrainConfig, epoch_batches
from dogdepth.augment import Frames
from dogdepth.mixtures import Subset
from dogdepth.devices import amp_dtype
from dogdepth.judging import answer_at, end_epoch
from dogdepth.train import fit
from dogdepth.learning import fitting_focal, laplace_nll, loss_of
from dogdepth.runs import load_checkpoint
from dogdepth.recipe import check_settings, lr_at
from dogdepth.mixtures import make_datasets
from dogdepth.train import make_optimizer, train_step
from dogdepth.distributed import recompute_blocks
from dogdepth.runs import save_checkpoint
from dogdepth.augment import size_at
from dogdepth.judging import validate
from dogdepth.mixtures import with_extra
from dogdepth.runs import write_log
from dogdepth.mixtures import WithoutCamera, mix_weights
from dogdepth.augment import shuffled_index, augment, draw, recolour, show_answer, soften, soft_kernel, zoom_item

TINY = TrainConfig(
    arch="report", width=4, pretrained=False, height=32, width_px=48, bs=2, epochs=2, amp="off", valid_every=1
)


@pytest.fixture(scope="module")
def rooms():
    return [render_room(s, 48, 64) for s in range(6)]


def state(run):
    return {**run.model.state_dict(), **{f"ema.{k}": v for k, v in (run.ema.avg if run.ema else {}).items()}}


@pytest.mark.parametrize(
    "change", [{}, dict(ema=0.0), dict(optimizer="adam", schedule="constant", clip=0.0), dict(amp="bf16")]
)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_stop_and_resume_is_never_having_stopped(tmp_path, rooms, change, cut):
    cfg = replace(TINY, **change)
    whole = fit(replace(cfg, out=str(tmp_path / "whole")), rooms, None, progress=False)
    part = fit(replace(cfg, out=str(tmp_path / "cut")), rooms, None, progress=False, stop_after=cut)
    assert part.step == cut
    again = fit(replace(cfg, out=str(tmp_path / "cut")), rooms, None, progress=False, resume=True)
    assert again.step == whole.step == 6
    assert [{**r, "seconds": 0} for r in again.history] == [
        {**r, "seconds": 0} for r in whole.history
    ]  # the log of the interrupted epoch too
    for k, v in state(whole).items():
        assert torch.equal(v, state(again)[k]), k


def test_same_seed_same_weights_other_seed_other_weights(tmp_path, rooms):
    runs = [
        fit(replace(TINY, out=str(tmp_path / n), seed=s, epochs=1), rooms, None, progress=False)
        for n, s in (("a", 0), ("b", 0), ("c", 1))
    ]
    w = [r.model.unet.middle[0].weight for r in runs]
    assert torch.equal(w[0], w[1]) and not torch.equal(w[0], w[2])


def test_worker_processes_change_nothing(tmp_path, rooms):
    a, b = (
        fit(replace(TINY, out=str(tmp_path / str(n)), workers=n, epochs=1), rooms, None, progress=False) for n in (0, 1)
    )
    assert all(torch.equal(v, state(b)[k]) for k, v in state(a).items())


def test_what_a_run_leaves_behind(tmp_path, rooms):
    out = tmp_path / "run"
    run = fit(replace(TINY, out=str(out)), rooms, rooms[:2], progress=False)
    assert sorted(p.name for p in out.iterdir()) == ["best", "config.json", "last.safetensors", "log.csv"]
    assert json.loads((out / "config.json").read_text()) == asdict(run.cfg)
    rows = (out / "log.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("epoch,step,seconds,loss,silog,grad,nll,valid_abs_rel")
    m = type(run.model).from_pretrained(out / "best")
    assert m.config["width"] == 4 and m.extra["train"]["lr"] == TINY.lr


def test_refuses_to_run_over_a_run_and_to_resume_another_recipe(tmp_path, rooms):
    cfg = replace(TINY, out=str(tmp_path / "r"))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        fit(cfg, rooms, None, progress=False, resume=True)
    fit(cfg, rooms, None, progress=False, stop_after=1)
    with pytest.raises(ValueError, match="already holds a run"):
        fit(cfg, rooms, None, progress=False)
    with pytest.raises(ValueError, match="lr was 0.001, is 0.1"):
        fit(replace(cfg, lr=0.1), rooms, None, progress=False, resume=True)
    (tmp_path / "r" / "last.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="is not a dogdepth checkpoint"):
        fit(cfg, rooms, None, progress=False, resume=True)


def test_unwritable_folder_and_full_disk_are_said_first(tmp_path, rooms, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot write to"):
        fit(replace(TINY, out=str(tmp_path / "file" / "run")), rooms, None, progress=False)
    monkeypatch.setattr("dogdepth.runs.shutil.disk_usage", lambda p: type("U", (), dict(free=5 << 20))())
    with pytest.raises(ValueError, match="only 5 MB are free"):
        fit(replace(TINY, out=str(tmp_path / "run")), rooms, None, progress=False)


def test_checkpoint_is_all_or_nothing(tmp_path, rooms, monkeypatch):
    run = fit(replace(TINY, out=str(tmp_path)), rooms, None, progress=False, stop_after=1)
    before = (tmp_path / "last.safetensors").read_bytes()

    def broken(*a):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dogdepth.atomic.os.replace", broken)
    with pytest.raises(OSError):
        save_checkpoint(run, tmp_path / "last.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_loss_names_the_frames_and_changes_no_weight(rooms, bad):
    run = Run(TINY, 6)
    batch = next(iter(torch.utils.data.DataLoader(Frames(rooms, TINY, 0), 2)))
    batch[0][1, 0, 0, 0] = bad
    before = {k: v.clone() for k, v in run.model.named_parameters()}
    with pytest.raises(FloatingPointError, match=rooms[1]["name"]):
        train_step(run, *batch)
    assert all(torch.equal(v, before[k]) for k, v in run.model.named_parameters())


def test_too_few_frames_for_a_batch():
    with pytest.raises(ValueError, match="cannot fill one batch"):
        Run(TINY, 1)


def test_each_epoch_sees_each_frame_once():
    cfg = replace(TINY, bs=4)
    a, b = epoch_batches(cfg, 10, 0), epoch_batches(cfg, 10, 1)
    assert a.shape == (2, 4) and len(set(a.ravel())) == 8 and not np.array_equal(a, b)


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 2), st.floats(-10, 10), st.floats(-1, 1), st.floats(-1, 1))
def test_zoom_keeps_every_point_in_its_place(s, deg, tx, ty):
    """A flat wall seen through the zoomed camera is the same wall: points of the zoomed picture, rolled back, project
    to where the pixels came from."""
    cam = Camera(60.0, 60.0, 30.0, 25.0, 48, 64)
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    item = dict(image=np.zeros((48, 64, 3), np.uint8), depth=(1 + u + 100 * v).astype("f4"), camera=cam)
    z = zoom_item(item, s, deg, tx, ty)
    seen = z["depth"] > 0
    sv, su = np.divmod(np.rint(z["depth"] - 1).astype(int), 100)  # the source pixel, written into the depth
    x, y = (
        (np.arange(64)[None] - z["camera"].cx) / z["camera"].fx,
        (np.arange(48)[:, None] - z["camera"].cy) / z["camera"].fy,
    )
    a = np.radians(deg)
    x, y = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y  # undo the roll
    off = np.maximum(abs(cam.fx * x + cam.cx - su), abs(cam.fy * y + cam.cy - sv))[seen]
    assert seen.mean() > 0.6 and off.max() < 0.75


def test_augmentation_off_is_the_frame_itself(rooms):
    cfg = replace(TINY, flip=False, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0, cut_depth=0.0, soften=0.0)
    out = augment(rooms[0], cfg, np.random.default_rng(0))
    assert all(np.array_equal(out[k], rooms[0][k]) for k in ("image", "depth")) and out["camera"] == rooms[0]["camera"]


def test_flip_flips_all_three(rooms):
    cfg = replace(TINY, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0)
    flipped = [
        o
        for o in (augment(rooms[0], cfg, np.random.default_rng(s)) for s in range(8))
        if o["camera"] != rooms[0]["camera"]
    ]
    assert 0 < len(flipped) < 8
    assert (
        np.array_equal(flipped[0]["depth"], rooms[0]["depth"][:, ::-1])
        and flipped[0]["camera"] == rooms[0]["camera"].flip()
    )


def test_recolour_is_uint8_and_grey_means_grey(rooms):
    img = rooms[0]["image"]
    assert recolour(img, (1.2, 1.1, 0.9), 1.3, 0.8).dtype == np.uint8
    g = recolour(img, (1.2, 1.1, 0.9), 1.3, 0.0)
    assert (np.ptp(g.astype(int), -1) == 0).all()
    assert abs(recolour(img, (1, 1, 1), 1, 1).astype(int) - img).max() <= 1
    assert draw(replace(TINY, grey=1.0), np.random.default_rng(0))["colour"][2] == 0


@pytest.mark.parametrize("sigma", [0.1, 0.4, 0.7, 1.0])
def test_softening_is_a_gaussian_blur(rooms, sigma):
    img, k = rooms[0]["image"], soft_kernel(sigma)
    assert k.sum() == pytest.approx(1, abs=1e-6) and np.array_equal(k, k[::-1]) and (np.diff(k[4:]) <= 0).all()
    assert (k * np.arange(-4, 5) ** 2).sum() == pytest.approx(
        sigma**2, rel=0.02
    ) or sigma < 0.5  # narrow ones are sampled too coarsely for that
    want = gaussian_filter(img.astype(float), (sigma, sigma, 0), mode="mirror", radius=(4, 4, 0))
    out = soften(img, sigma)
    assert out.dtype == np.uint8 and abs(out - want).max() <= 0.51
    assert soften(img, 0.0) is img


def test_half_of_the_pictures_lose_sharpness_and_nothing_else(rooms):
    cfg = replace(TINY, flip=False, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0, cut_depth=0.0, soften=0.5)
    sigmas = [draw(cfg, np.random.default_rng(s))["sigma"] for s in range(200)]
    assert 70 < sum(s > 0 for s in sigmas) < 130 and 0.9 < max(sigmas) <= 1.0 and min(s for s in sigmas if s) < 0.1
    rough = lambda im: cv2.Laplacian(im, cv2.CV_32F).std()
    for seed, sigma in list(enumerate(sigmas))[:20]:
        out = augment(rooms[0], cfg, np.random.default_rng(seed))
        assert np.array_equal(out["depth"], rooms[0]["depth"]) and out["camera"] == rooms[0]["camera"]
        assert (rough(out["image"]) < 0.99 * rough(rooms[0]["image"])) == (sigma > 0.3)
    with_and_without = [draw(replace(TINY, soften=x), np.random.default_rng(5)) for x in (0.0, 1.0)]
    assert all(
        np.array_equal(a, b)
        for k in ("flip", "zoom", "box", "colour")
        for a, b in zip(
            np.atleast_1d(np.array(with_and_without[0][k], dtype=object)),
            np.atleast_1d(np.array(with_and_without[1][k], dtype=object)),
        )
    ), "the other dice must not change"


def test_a_photo_that_is_not_zoomed_is_as_sharp_as_the_one_that_predict_shrinks():
    room = render_room(5, 480, 640)
    cfg = TrainConfig(
        flip=False, zoom=1.6, rotate_deg=0.0, colour=0.0, grey=0.0, cut_depth=0.0, soften=0.0, small_first=0.0
    )
    kept = Frames([room], cfg, epoch=0).small(0)
    assert kept["image"].shape == (480, 640, 3)
    out = zoom_item(kept, 1.0, 0.0, 0.0, 0.0, (240, 320))["image"].astype(int)
    assert abs(out - cv2.resize(room["image"], (320, 240), interpolation=cv2.INTER_AREA)).max() <= 1


@given(st.integers(1, 500), st.data())
def test_schedule_stays_between_nothing_and_one(total, data):
    step = data.draw(st.integers(0, total - 1))
    assert 0 < lr_at(step, total, "onecycle") <= 1 and lr_at(step, total, "constant") == 1


def test_decay_goes_to_filters_only_and_every_parameter_has_a_group():
    cfg = replace(TINY, wd=0.1)
    run = Run(cfg, 6)
    opt = make_optimizer(run.model, cfg)
    assert sum(len(g["params"]) for g in opt.param_groups) == len(list(run.model.parameters()))
    assert all((g["weight_decay"] > 0) == (p.ndim > 1) for g in opt.param_groups for p in g["params"])


def test_average_of_constant_weights_is_the_weights():
    m = torch.nn.BatchNorm1d(3)
    e = EMA(m, 0.9)
    for _ in range(5):
        e.update(m)
    assert all(torch.equal(v, e.avg[k]) for k, v in m.state_dict().items())
    with torch.no_grad():
        m.weight.fill_(2.0)
    e.update(m)
    assert 1 < e.avg["weight"][0] < 2
    young = EMA(torch.nn.Linear(1, 1), 0.999)
    new = {k: v + 1 for k, v in young.avg.items()}
    first = {k: v.clone() for k, v in young.avg.items()}
    net = torch.nn.Linear(1, 1)
    net.load_state_dict(new)
    young.update(net)
    assert all(
        torch.allclose(young.avg[k] - first[k], torch.tensor(9 / 11)) for k in first
    )  # forgets fast while it is young


def test_snapshots_keep_every_epoch_and_their_mean_is_one_network(tmp_path, rooms):
    run = fit(replace(TINY, out=str(tmp_path), snapshots=True, epochs=3), rooms, None, progress=False)
    kept = [tmp_path / f"epoch-{e}" for e in (1, 2, 3)]
    models = [type(run.model).from_pretrained(k) for k in kept]
    assert [m.extra["epoch"] for m in models] == [1, 2, 3] and not (tmp_path / "epoch-4").exists()
    for m in (
        models[-1],
        DepthUNet.from_pretrained(tmp_path / "best"),
    ):  # where nothing validates, the last is the best
        assert m.extra["epoch"] == 3 and all(torch.equal(v, run.ema.avg[k]) for k, v in m.state_dict().items())
    key = "unet.final_conv.weight"
    a, b, c = (m.state_dict()[key] for m in models)
    assert not torch.equal(a, b) and torch.allclose(
        mix_weights(kept, [0.2, 0.3, 0.5]).state_dict()[key], 0.2 * a + 0.3 * b + 0.5 * c
    )


def test_only_the_first_process_validates_and_writes(tmp_path, rooms):
    run = Run(replace(TINY, out=str(tmp_path)), 6)
    run.rank, run.step = 1, 3
    assert "valid_abs_rel" not in end_epoch(run, [dict(loss=1.0)], 1.0, rooms[:1]) and not list(tmp_path.iterdir())
    run.rank = 0
    assert "valid_abs_rel" in end_epoch(run, [dict(loss=1.0)], 1.0, rooms[:1]) and (tmp_path / "log.csv").exists()


@pytest.mark.parametrize(
    "kw,words",
    [
        (dict(optimizer="sgd"), "optimizer should be"),
        (dict(loss="l2"), "loss should be"),
        (dict(amp="int8"), "amp should be"),
        (dict(arch="vit"), "arch should be"),
    ],
)
def test_settings_out_of_range(kw, words):
    with pytest.raises(ValueError, match=words):
        Run(replace(TINY, **kw), 6)
    if "amp" in kw:
        with pytest.raises(ValueError):
            amp_dtype("int8", "cpu")


@pytest.mark.parametrize(
    "loss,arch",
    [
        ("log", "report"),
        ("report", "report"),
        ("published", "published"),
        ("published", "report"),
        ("report", "published"),
    ],
)
def test_every_loss_with_every_network_takes_a_step(rooms, loss, arch):
    cfg = replace(TINY, loss=loss, arch=arch)
    run = Run(cfg, 6)
    batch = next(iter(torch.utils.data.DataLoader(Frames(rooms, cfg, 0), 2)))
    assert np.isfinite(train_step(run, *batch)["loss"]) and run.step == 1


def test_report_recipe_is_the_reports():
    c = TrainConfig.report()
    assert (c.arch, c.optimizer, c.lr, c.bs, c.epochs, c.limit, c.height, c.width_px, c.split_by, c.schedule) == (
        "published",
        "adam",
        0.009,
        30,
        50,
        16_000,
        480,
        640,
        "frame",
        "constant",
    )
    assert TrainConfig.report(bs=2).bs == 2 and not (c.flip or c.colour or c.grey or c.rotate_deg or c.zoom > 1)


def test_metres_do_not_depend_on_zoom(rooms):
    "The network's answer times the focal length: a picture and its zoom ask for the same metres."
    cfg = replace(TINY, flip=False, rotate_deg=0.0, colour=0.0, grey=0.0)
    run = Run(cfg, 6)
    out = torch.full((1, 1, 4, 4), 2.0)
    f = rooms[0]["camera"].focal
    assert torch.allclose(run.model.metres(out, 2 * f), 2 * run.model.metres(out, f))


def test_validation_of_a_perfect_network(rooms):
    class Oracle(torch.nn.Module):
        def __init__(self, items):
            super().__init__()
            self.items = iter(items)

        def forward(self, x):
            return torch.from_numpy(next(self.items)["depth"])[None, None]

        def metres(self, out, focal):
            return out

    items = [dict(r, depth=r["depth"].clip(0.1, 9.9)) for r in rooms[:3]]
    m = validate(Oracle(items), items, replace(TINY, height=48, width_px=64))
    assert m["abs_rel"] < 1e-6 and m["delta1"] == 1


def test_validation_scales_by_the_camera_and_says_where_it_knows_none():
    "A network that always says 2 m for the canonical camera, asked about pictures of three lenses."

    class Constant(torch.nn.Module):
        config = {}
        metres = DepthUNet.metres
        arch = "light"

        def forward(self, x):
            return torch.full((1, 1, *x.shape[-2:]), 2.0)

    cfg = replace(TINY, height=48, width_px=64)
    items = [render_room(3, camera=Camera.from_fov(f, 96, 128)) for f in (45, 63, 90)]
    for item in items:
        got, pred, known = answer_at(Constant(), [item], 0, cfg)
        assert got is item and known and pred.shape == (96, 128)
        assert np.allclose(pred, 2 * item["camera"].resize(48, 64).focal / CANONICAL_FOCAL)
    _, pred, known = answer_at(Constant(), [dict(items[0], camera_known=False)], 0, cfg)
    assert not known and np.allclose(pred, 2)


def test_limit_and_defaults_without_data(tmp_path, monkeypatch, rooms):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    tr, va = make_datasets(replace(TINY, rooms=16))
    assert isinstance(tr, Rooms) and (len(tr), len(va)) == (16, 2)
    run = fit(replace(TINY, out=str(tmp_path), limit=4, epochs=1), rooms, None, progress=False)
    assert run.n == 4 and isinstance(Subset(rooms, [1]), Subset)


@pytest.mark.parametrize("split_by", ["scene", "frame"])
def test_packed_file_splits_without_overlap(tmp_path, split_by):
    from dogdepth.archive import pack

    items = [dict(render_room(i // 2, 24, 32), name=f"f{i}") for i in range(20)]
    path = pack(items, tmp_path / "p.h5", progress=False)
    tr, va = make_datasets(replace(TINY, data=str(path), split_by=split_by))
    assert sorted(tr.idx + va.idx) == list(range(20)) and len(va) > 0
    if split_by == "scene":
        assert not {tr[i]["scene"] for i in range(len(tr))} & {va[i]["scene"] for i in range(len(va))}


def test_log_has_a_column_for_everything(tmp_path):
    write_log(tmp_path / "l.csv", [dict(a=1), dict(a=2, b=3)])
    assert (tmp_path / "l.csv").read_text() == "a,b\n1,\n2,3\n"


def test_learns_nyu(tmp_path, data):
    "A hundred steps on eight real frames halve the loss."
    cfg = TrainConfig(
        arch="report",
        width=8,
        pretrained=False,
        height=48,
        width_px=64,
        bs=8,
        epochs=100,
        amp="off",
        data=str(data / "nyu"),
        limit=8,
        lr=1e-2,
        out=str(tmp_path),
        zoom=1.0,
        rotate_deg=0,
        colour=0,
        grey=0,
        flip=False,
    )
    train, _ = make_datasets(cfg)
    run = fit(replace(cfg, save_minutes=1e9), [train[i] for i in range(0, 690, 87)], None, progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2


def test_loading_puts_back_optimizer_and_position(tmp_path, rooms):
    run = fit(replace(TINY, out=str(tmp_path)), rooms, None, progress=False, stop_after=2)
    other = Run(replace(TINY, out=str(tmp_path)), 6)
    load_checkpoint(other, tmp_path / "last.safetensors")
    assert other.step == 2 and other.opt.state_dict()["state"].keys() == run.opt.state_dict()["state"].keys()


# the second head, photos of an unknown camera, cheaper epochs


def test_second_head_learns_and_leaves_the_depth_alone(tmp_path, rooms):
    both = [
        fit(replace(TINY, out=str(tmp_path / str(c)), clip=0.0, confidence=c), rooms, None, progress=False)
        for c in (True, False)
    ]
    with_head, without = (r.model.state_dict() for r in both)
    # the head draws its first weights after all others, so the two runs start alike
    shared = [k for k in without if "spread" not in k]
    assert all(torch.equal(with_head[k], without[k]) for k in shared)


def test_laplace_width_that_costs_least_is_the_mean_error():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 1, 64, 64, generator=g) * 4 + 1
    off = truth * (0.1 * torch.randn(1, 1, 64, 64, generator=g)).exp()
    mask = torch.rand(1, 1, 64, 64, generator=g) > 0.3
    off[~mask] = 1e9  # what the mask hides must not count
    e = (off / truth).log().abs()[mask].mean().item()
    cost = {b: laplace_nll(off, torch.full_like(off, b * e), truth, mask).item() for b in (0.8, 0.9, 1.0, 1.1, 1.25)}
    assert min(cost, key=cost.get) == 1.0
    assert cost[1.0] == pytest.approx(1 + np.log(2 * e), abs=1e-4)


def test_fitting_focal_makes_the_scale_free(rooms):
    run = Run(replace(TINY, confidence=False), 6)
    x, t, f, n = next(iter(torch.utils.data.DataLoader(Frames(rooms, TINY, None), 2)))
    nobody = torch.zeros_like(f)
    a, b = loss_of(run, x, t, nobody)[0], loss_of(run, x, t / 2, nobody)[0]
    assert a.item() == pytest.approx(b.item(), rel=1e-3)  # whoever has no camera may be any size
    assert loss_of(run, x, t, f)[0].item() != pytest.approx(loss_of(run, x, t / 2, f)[0].item(), rel=1e-2)
    mixed = torch.stack([f[0], nobody[0]])
    assert fitting_focal(t, t).flatten().tolist() == pytest.approx([CANONICAL_FOCAL] * 2)
    assert torch.isfinite(loss_of(run, x, t, mixed)[0])


def test_frames_without_a_camera_are_cut_to_shape_and_say_so(rooms):
    ds = WithoutCamera([render_room(1, 60, 100)], TINY)
    item = ds[0]
    assert item["depth"].shape == item["image"].shape[:2] == (60, 90) and item["camera_known"] is False
    assert (item["camera"].height, item["camera"].width) == (60, 90)
    assert Frames(ds, TINY, 0)[0][2].item() == 0 and Frames(rooms, TINY, 0)[0][2].item() > 0


def test_extra_frames(data, monkeypatch):
    cfg = TrainConfig(extra="defocus")
    train = with_extra([0] * 7, cfg)
    assert len(train) == 7 + 81
    item = train[7]
    assert item["camera_known"] is False and item["depth"].shape == (432, 576) and 0.3 < np.median(item["depth"]) < 10
    with pytest.raises(ValueError, match="some of defocus, lenses.*got 'more'"):
        with_extra([], replace(cfg, extra="more"))
    monkeypatch.delenv("DOGDEPTH_DATA")
    with pytest.raises(ValueError, match="needs the folder defocus_indoor"):
        with_extra([], cfg)


def test_small_first():
    cfg = TrainConfig(small_first=0.5, epochs=4)
    assert [size_at(cfg, e) for e in range(4)] == [(192, 256)] * 2 + [(240, 320)] * 2
    assert size_at(cfg, None) == size_at(TrainConfig(small_first=0.0), 0) == (240, 320)


def test_small_epochs_show_the_same_metres(rooms):
    cfg = replace(
        TINY, height=48, width_px=64, small_first=0.5, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0, flip=False
    )
    a, b = Frames(rooms, cfg, 0)[0], Frames(rooms, cfg, 1)[0]
    assert a[1].shape == (1, 32, 43) and b[1].shape == (1, 48, 64)
    assert a[1].median().item() == pytest.approx(b[1].median().item(), rel=0.05)
    assert b[2].item() == pytest.approx(rooms[0]["camera"].focal, rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(s=st.floats(1, 2), deg=st.floats(-5, 5), tx=st.floats(-1, 1), ty=st.floats(-1, 1))
def test_zoom_to_another_size_is_zoom_then_resize(s, deg, tx, ty):
    item = render_room(3, 96, 128)
    a = zoom_item(item, s, deg, tx, ty, (48, 64))
    b = zoom_item(item, s, deg, tx, ty)["camera"].resize(48, 64)
    assert a["image"].shape == (48, 64, 3) and (a["camera"].height, a["camera"].width) == (48, 64)
    assert a["camera"].focal == pytest.approx(b.focal, rel=0.02)
    # one pixel of the result, taken to 3D, is a point of the room
    v, u = 24, 32
    if a["depth"][v, u]:
        x, y = item["camera"].project(roll(a["camera"].backproject(a["depth"])[v, u], -deg))
        near = item["depth"][
            max(round(float(y)) - 2, 0) : round(float(y)) + 3, max(round(float(x)) - 2, 0) : round(float(x)) + 3
        ]
        assert near.size and near.min() - 1e-3 <= a["depth"][v, u] <= near.max() + 1e-3


def roll(p, deg):
    c, s = np.cos(np.radians(deg)), np.sin(np.radians(deg))
    return np.array([c * p[0] - s * p[1], s * p[0] + c * p[1], p[2]])


def test_zoom_keeps_the_shape_of_the_picture(rooms):
    with pytest.raises(ValueError, match="should be in the ratio of 48x64"):
        zoom_item(rooms[0], 1, 0, 0, 0, (48, 48))


def test_the_answer_shown_is_the_answer(rooms):
    item = {**rooms[0], "image": np.zeros_like(rooms[0]["image"])}
    for k in range(20):
        out = show_answer(item, draw(replace(TINY, cut_depth=1.0), np.random.default_rng(k))["box"])
        shown = out["image"].any(-1)
        ys, xs = np.where(shown)
        h, w = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert shown.sum() == h * w and 0.05 * 48 < h <= 25 and 0.05 * 64 < w <= 33  # a full rectangle
        want = np.clip(item["depth"][shown] * CANONICAL_FOCAL / item["camera"].resize(240, 320).focal * 25.5, 0, 255)
        np.testing.assert_allclose(out["image"][shown], np.repeat(want[:, None], 3, 1), atol=1)
        assert out["depth"] is item["depth"]
    assert not item["image"].any()


@pytest.mark.parametrize(
    "cfg,cut",
    [
        (dict(cut_depth=1.0), 2),
        (dict(small_first=0.5), 2),
        (dict(arch="light", drop_path=0.2, width=6), 2),
        (dict(accumulate=2, bs=4), 1),
        (dict(augment_on="device", cut_depth=1.0), 1),
    ],
    ids=str,
)
def test_stop_and_resume_with_the_newer_settings(tmp_path, rooms, cfg, cut):
    cfg = replace(TINY, **cfg)
    whole = fit(replace(cfg, out=str(tmp_path / "whole")), rooms, None, progress=False)
    fit(replace(cfg, out=str(tmp_path / "cut")), rooms, None, progress=False, stop_after=cut)
    again = fit(replace(cfg, out=str(tmp_path / "cut")), rooms, None, progress=False, resume=True)
    assert all(torch.equal(v, state(again)[k]) for k, v in state(whole).items())


def test_mixed_weights(tmp_path):
    models = [replace(TINY, seed=s) for s in range(3)]
    for i, c in enumerate(models):
        torch.manual_seed(i)
        c.make().save_pretrained(tmp_path / str(i), spread_scale=0.5 + i)
    names, shares = [tmp_path / str(i) for i in range(3)], [0.2, 0.3, 0.5]
    states, mixed = [DepthUNet.from_pretrained(n).state_dict() for n in names], mix_weights(names, shares)
    assert (
        not mixed.training and mixed.extra == {}
    )  # a factor of spread that was found for one does not hold for the mean
    for k, v in mixed.state_dict().items():
        want = sum(a * s[k] for a, s in zip(shares, states)) if v.is_floating_point() else states[-1][k]
        assert torch.allclose(v, want, atol=1e-6), k
    alone = mix_weights(names[:2], [1, 0]).state_dict()
    assert all(torch.equal(alone[k], v) for k, v in states[0].items() if v.is_floating_point())
    with pytest.raises(ValueError, match="shares should be 2 numbers that add up to 1"):
        mix_weights(names[:2], [0.5, 0.6])
    replace(TINY, width=6).make().save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="only networks of one configuration"):
        mix_weights([names[0], tmp_path / "wide"], [0.5, 0.5])


# parts, processes, kills


def batch_of(rooms, cfg, n):
    return next(iter(torch.utils.data.DataLoader(Frames(rooms, cfg, 0), n)))


@pytest.mark.parametrize(
    "loss, checkpointing", [("log", False), ("log", True), ("report", False), ("published", False)]
)
def test_two_parts_are_one_batch_where_nothing_looks_across_it(tmp_path, rooms, loss, checkpointing):
    """With BatchNorm held, two halves say the losses and give the gradient of the whole, the published loss's division
    by the batch included; without, they do not."""
    fit(replace(TINY, out=str(tmp_path / "a")), rooms, rooms[:1], progress=False)
    for frozen in (True, False):
        grads = []
        for k in (1, 2):
            cfg = replace(
                TINY,
                bs=4,
                accumulate=k,
                loss=loss,
                clip=0.0,
                ema=0.0,
                optimizer="adam",
                flip=False,
                init=str(tmp_path / "a/best"),
                frozen_norm=frozen,
                checkpointing=checkpointing,
            )
            run = Run(cfg, 6)
            said = train_step(run, *batch_of(rooms, cfg, 4))
            grads.append(
                [torch.tensor(list(said.values()))] + [p.grad for p in run.model.parameters() if p.grad is not None]
            )
        assert (
            all(
                torch.allclose(a, b, rtol=1e-3, atol=1e-5 * max(1, a.abs().max().item()))
                for a, b in zip(*grads, strict=True)
            )
            is frozen
        )


def averages(model):
    return {k: v.clone() for k, v in model.named_buffers() if "running" in k or "tracked" in k}


def test_frozen_norm_leaves_the_averages_alone_and_learns(tmp_path, rooms):
    first = fit(replace(TINY, out=str(tmp_path / "a")), rooms, rooms[:1], progress=False)
    cfg = replace(TINY, out=str(tmp_path / "b"), init=str(tmp_path / "a/best"), frozen_norm=True)
    run = fit(cfg, rooms, rooms[:1], progress=False)
    begun, ended = DepthUNet.from_pretrained(tmp_path / "a/best"), DepthUNet.from_pretrained(tmp_path / "b/best")
    held, moved, fresh = averages(begun), averages(first.model), averages(Run(TINY, 6).model)
    assert len(held) > 15 and not any(torch.equal(v, moved[k]) for k, v in fresh.items())  # a run without it moves them
    for m in (run.model, ended, run.averaged()):
        assert all(torch.equal(v, averages(m)[k]) for k, v in held.items())
    norms = [(m, ended.get_submodule(n)) for n, m in begun.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(torch.equal(a.weight, b.weight) for a, b in norms)  # what they learn they still learn


def test_frozen_norm_needs_averages():
    with pytest.raises(
        ValueError,
        match="frozen_norm keeps the averages of BatchNorm as they are, and fresh weights have none: name weights in `init`",
    ):
        Run(replace(TINY, frozen_norm=True), 6)


def test_parts_and_processes_throw_their_own_dice(rooms, monkeypatch):
    """Stochastic depth may not leave out the same blocks in every part of a step, and the same step of the same part
    always does."""
    import dogdepth.train as train

    seeds, before = [], train.loss_of
    monkeypatch.setattr(train, "loss_of", lambda *a: (seeds.append(torch.initial_seed()), before(*a))[1])
    cfg = replace(TINY, bs=4, accumulate=2)
    run, parts = Run(cfg, 4), batch_of(rooms, cfg, 4)
    for _ in range(2):
        train_step(run, *parts)
    other = Run(cfg, 4)
    other.rank, other.world_size = 1, 2
    monkeypatch.setattr(other.net, "no_sync", lambda: __import__("contextlib").nullcontext(), raising=False)
    train_step(other, *parts)
    assert len(seeds) == 6 and len(set(seeds[:4])) == 4  # two parts of two steps
    assert not set(seeds[4:]) & {seeds[0]}  # the second process's parts are not the first's
    again = Run(cfg, 4)
    train_step(again, *parts)
    assert seeds[6:] == seeds[:2]


def test_parts_must_divide_the_batch():
    with pytest.raises(ValueError, match="bs=4 cannot be cut into 3 equal parts"):
        Run(replace(TINY, bs=4, accumulate=3), 6)
    with pytest.raises(ValueError, match="augment_on should be"):
        Run(replace(TINY, augment_on="gpu"), 6)
    with pytest.raises(ValueError, match="shuffle_dog goes with"):
        Run(replace(TINY, augment_on="device", shuffle_dog=True), 6)


@pytest.mark.parametrize(
    "change",
    [
        dict(checkpointing=True),
        dict(checkpointing=True, arch="light", width=6, drop_path=0.3),
        dict(checkpointing=True, amp="bf16", accumulate=2),
    ],
    ids=str,
)
def test_checkpointing_changes_no_bit(tmp_path, rooms, change):
    runs = [
        fit(
            replace(TINY, **{**change, "checkpointing": c, "out": str(tmp_path / str(c))}),
            rooms,
            None,
            progress=False,
            stop_after=3,
        )
        for c in (True, False)
    ]
    a, b = map(state, runs)
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize("arch, early", [("light", True), ("light", False), ("report", False), ("published", False)])
def test_checkpointing_computes_every_block_again(arch, early):
    """A block that is left out gives the same gradients and saves no memory: only counting shows it. The encoder's
    first layer stands outside all blocks."""
    torch.manual_seed(0)
    model, runs = DepthUNet(arch, width=6, early=early), {}
    recompute_blocks(model)
    for n, m in model.named_modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.register_forward_pre_hook(lambda *a, n=n: runs.update({n: runs.get(n, 0) + 1}))
    model.train()(torch.rand(2, 6, 64, 96)).mean().backward()
    assert len(runs) > 15 and {n for n, k in runs.items() if k != 2} == (
        {"unet.encoder._bn0"} if arch == "light" else set()
    )


def test_a_checkpoint_that_does_not_name_a_younger_setting_went_without_it(tmp_path, rooms):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    fit(replace(TINY, out=str(tmp_path / "start"), early=False), rooms, None, progress=False)
    cfg = replace(TINY, out=str(tmp_path / "run"), init=str(tmp_path / "start/best"), early=False, soften=0.0)
    fit(cfg, rooms, None, progress=False, stop_after=1)
    path = tmp_path / "run/last.safetensors"
    with safe_open(path, "pt") as f:
        meta = json.loads(f.metadata()["dogdepth"])
    meta["config"] = {k: v for k, v in meta["config"].items() if k not in ("early", "soften", "frozen_norm")}
    save_file(load_file(path), path, metadata={"dogdepth": json.dumps(meta)})
    for change, words in (
        (dict(soften=0.5), "soften was 0.0, is 0.5"),
        (dict(early=True), "early was False, is True"),
        (dict(frozen_norm=True), "frozen_norm was False, is True"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(replace(cfg, **change), rooms, None, progress=False, resume=True)
    assert fit(cfg, rooms, None, progress=False, resume=True, stop_after=2).step == 2


def test_only_a_run_that_does_not_ask_how_long_may_be_made_longer(tmp_path, rooms):
    cfg = replace(TINY, schedule="constant", small_first=0.0)
    fit(replace(cfg, out=str(tmp_path / "a"), epochs=1), rooms, None, progress=False)
    a, b = (
        fit(replace(cfg, out=str(tmp_path / d), epochs=3), rooms, None, progress=False, resume=d == "a") for d in "ab"
    )
    assert a.step == b.step == 9 and all(torch.equal(v, state(b)[k]) for k, v in state(a).items())
    for other in (
        replace(TINY, small_first=0.0),
        replace(cfg, small_first=0.5),
    ):  # the rate, or the size, was planned for one epoch
        out = str(tmp_path / f"{other.schedule}-{other.small_first}")
        fit(replace(other, out=out, epochs=1), rooms, None, progress=False)
        with pytest.raises(ValueError, match="epochs was 1, is 3"):
            fit(replace(other, out=out, epochs=3), rooms, None, progress=False, resume=True)


@pytest.mark.parametrize("preset", [TrainConfig.report, TrainConfig.v100, TrainConfig.small])
def test_presets_make_sense_and_take_changes(preset):
    check_settings(preset())
    assert preset(bs=4, out="x") == replace(preset(), bs=4, out="x")


def test_a_kill_between_the_last_step_and_the_validation_loses_no_epoch(tmp_path, rooms):
    "A checkpoint at the very end of an epoch: resuming still validates it, logs it and keeps its weights."
    cfg = replace(TINY, out=str(tmp_path))
    fit(cfg, rooms, rooms[:1], progress=False, stop_after=6)  # all steps done, the last epoch not yet judged
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    run = fit(cfg, rooms, rooms[:1], progress=False, resume=True)
    assert [r["epoch"] for r in run.history] == [1, 2] and "valid_abs_rel" in run.history[-1] and run.step == 6


SCRIPT = """
import sys, os, torch
from dataclasses import replace
from dogdepth.rooms import Rooms
from dogdepth.train import TrainConfig, fit
import dogdepth.train as t
cfg = TrainConfig(arch='report', width=4, pretrained=False, height=32, width_px=48, bs=2, epochs=2, amp='off', save_minutes=0., out=sys.argv[1])
step = t.train_step
def slow(run, *batch):
    r = step(run, *batch); print('step', run.step, flush=True); return r
t.train_step = slow
fit(cfg, Rooms(6, 32, 48, seed=0), None, resume='--resume' in sys.argv, progress=False)
"""


def test_killed_in_mid_epoch_and_resumed_is_the_same_to_the_last_bit(tmp_path):
    import os
    import signal
    import subprocess
    import sys

    (tmp_path / "go.py").write_text(SCRIPT)
    go = [sys.executable, str(tmp_path / "go.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    p = subprocess.Popen([*go, str(tmp_path / "cut")], stdout=subprocess.PIPE, text=True, env=env)
    for line in p.stdout:
        if line.startswith("step 5"):
            p.send_signal(signal.SIGKILL)
    assert p.wait() == -signal.SIGKILL
    at = json.loads(
        __import__("safetensors").safe_open(tmp_path / "cut/last.safetensors", "pt").metadata()["dogdepth"]
    )["step"]
    assert 3 <= at <= 5  # in the second epoch of three steps
    for out, more in (("cut", ["--resume"]), ("whole", [])):
        subprocess.run([*go, str(tmp_path / out), *more], check=True, env=env, capture_output=True)
    from safetensors.torch import load_file

    a, b = (load_file(tmp_path / out / "last.safetensors") for out in ("cut", "whole"))
    assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def torchrun(n, *args, cwd):
    import os
    import subprocess
    import sys

    code = cwd / "verb.py"
    code.write_text("import sys\nfrom dogdepth.cli import main\nsys.exit(main(sys.argv[1:]))\n")
    env = {k: v for k, v in os.environ.items() if k != "DOGDEPTH_DATA"} | {"OMP_NUM_THREADS": "1"}
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={n}",
        str(code),
        "train",
        *args,
    ]
    return subprocess.run(run, env=env, capture_output=True, text=True, timeout=300)


FLAGS = dict(
    arch="report", width=4, height=32, width_px=48, bs=4, epochs=1, amp="off", rooms=8, zoom=1.0, small_first=0.0
)


def test_two_processes_are_one_that_takes_their_parts_in_turn(tmp_path):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in FLAGS.items()] + ["--no-pretrained"]
    r = torchrun(2, *flags, f"--out={tmp_path / 'two'}", cwd=tmp_path)
    assert r.returncode == 0, r.stderr[-2000:]
    cfg = TrainConfig(**FLAGS, pretrained=False, accumulate=2, out=str(tmp_path / "one"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each of the two: sums in another order would differ in their last bits,
    try:  # which Adam makes whole steps of where a gradient is nothing else
        one = fit(cfg, Rooms(8, 32, 48, seed=0), Rooms(1, 32, 48, seed=8), progress=False)
    finally:
        torch.set_num_threads(threads)
    other = Run(cfg, 8)
    load_two = torch_load(tmp_path / "two" / "last.safetensors")
    for k, v in one.model.state_dict().items():
        if (
            "running" not in k and "tracked" not in k
        ):  # each process averages and counts its own half: weights agree, these cannot
            assert torch.allclose(v.float(), load_two[f"model.{k}"].float(), atol=1e-6), k
    assert not torch.equal(
        one.model.state_dict()["unet.enc1.1.running_mean"], load_two["model.unet.enc1.1.running_mean"]
    )
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "best",
        "config.json",
        "last.safetensors",
        "log.csv",
    ]  # one process writes
    rows = [(tmp_path / d / "log.csv").read_text().splitlines()[1].split(",") for d in ("one", "two")]
    assert float(rows[0][3]) == pytest.approx(float(rows[1][3]), rel=1e-3)  # the loss is the mean over both
    assert other.parts == 2


def torch_load(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path):
    "bs=3 cannot be shared by two: both stop at once, and the reason is said."
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**FLAGS, "bs": 3}.items()] + ["--no-pretrained"]
    r = torchrun(2, *flags, f"--out={tmp_path / 'two'}", cwd=tmp_path)
    assert r.returncode != 0 and "cannot be cut into 2 equal parts" in r.stderr


# frames of other kinds


def test_another_frame_is_another_and_always_the_same_one():
    got = [shuffled_index(i, 5, 0, 1) for i in range(5)]
    assert all(g != i and 0 <= g < 5 for i, g in enumerate(got)) and got == [
        shuffled_index(i, 5, 0, 1) for i in range(5)
    ]


def test_shuffled_dog_keeps_the_photo_and_takes_the_dog_of_another(rooms):
    cfg = replace(TINY, flip=False, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0)
    plain, mixed = (Frames(rooms, replace(cfg, shuffle_dog=s), 0) for s in (False, True))
    for i in range(3):
        j = shuffled_index(i, len(rooms), cfg.seed, 0)
        assert torch.equal(mixed[i][0][:3], plain[i][0][:3]) and torch.equal(mixed[i][0][3:], plain[j][0][3:])


def test_init_starts_from_those_weights_and_names_what_differs(tmp_path, rooms):
    first = Run(TINY, 6).model
    first.save_pretrained(tmp_path / "w")
    run = Run(replace(TINY, init=str(tmp_path / "w"), seed=5), 6)
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in run.model.state_dict().items())
    with pytest.raises(ValueError, match="is another network: width is 4 there, 8 here"):
        Run(replace(TINY, init=str(tmp_path / "w"), width=8), 6)


def test_rooms_through_many_lenses(rooms):
    ds = with_extra(rooms, replace(TINY, extra="lenses"))
    fov = [ds[i]["camera"].fov_deg for i in range(6, 12)]
    assert len(ds) == 6 + 480 and min(fov) >= 38 and max(fov) <= 98 and np.ptp(fov) > 30


def test_no_split_trains_on_all(monkeypatch):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    train, valid = make_datasets(replace(TINY, rooms=16, split_by="none"))
    assert len(train) == 18 and valid is None


@pytest.mark.parametrize(
    "name, bad",
    [
        ("bs", 0),
        ("bs", -2),
        ("bs", 2.0),
        ("epochs", 1.5),
        ("epochs", 0),
        ("valid_every", 0),
        ("height", 0),
        ("height", "48"),
        ("width", -1),
        ("limit", -5),
        ("seed", -1),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("wd", -1.0),
        ("ema", 1.0),
        ("clip", -1.0),
        ("grey", 2.0),
        ("drop_path", 2.0),
        ("zoom", 0.5),
        ("zoom", float("nan")),
        ("dog", "no"),
        ("split_by", "room"),
    ],
)
def test_settings_out_of_range_are_named_before_anything_is_begun(tmp_path, rooms, name, bad):
    with pytest.raises(ValueError, match=f"{name} should be"):
        fit(replace(TINY, **{"out": str(tmp_path / "out"), name: bad}), rooms, None, progress=False)
    assert not (tmp_path / "out").exists()


def test_depth_that_is_not_in_metres_is_not_learned_from(tmp_path, rooms):
    mm = [dict(r, depth=r["depth"] * 1000) for r in rooms]
    with pytest.raises(ValueError, match="no pixel of .* lies between 0.001 and 10 m: is the depth in metres"):
        fit(replace(TINY, out=str(tmp_path / "a")), mm, None, progress=False)
    for valid in (mm[:2], []):
        with pytest.raises(ValueError, match=f"none of {len(valid)} frames to validate on"):
            fit(replace(TINY, out=str(tmp_path / "b")), rooms, valid, progress=False)
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="none of 2 frames"):
        validate(Run(TINY, 6).model, mm[:2], TINY)
    with pytest.raises(ValueError, match="a data set with frames in it"):
        fit(replace(TINY, out=str(tmp_path / "c")), [], None, progress=False)


def test_a_frame_without_a_pixel_inside_the_crop_has_no_say(rooms, tmp_path):
    good = render_room(0, 480, 640)
    outside = good | dict(depth=np.zeros((480, 640), np.float32))
    outside["depth"][:20] = 2.0  # readings, and all of them above the Eigen crop
    net = TINY.make(pretrained=False).eval()
    assert validate(net, [outside, good], TINY) == validate(net, [good], TINY)
    with pytest.raises(ValueError, match="inside the Eigen crop"):
        validate(net, [outside], TINY)
    best = fit(replace(TINY, out=str(tmp_path)), rooms, [outside, good], progress=False).best
    assert np.isfinite(best)


def test_the_law_of_the_dice():
    "Each draw keeps to its range and, over many, to its mean."
    cfg = replace(TINY, zoom=2.0, rotate_deg=5.0, cut_depth=0.5, colour=0.4, grey=0.25, soften=0.5)
    rng = np.random.default_rng(0)
    ds = [draw(cfg, rng) for _ in range(4000)]
    zoom = np.array([d["zoom"] for d in ds])
    assert (
        1 <= zoom[:, 0].min() < 1.01
        and 1.99 < zoom[:, 0].max() <= 2
        and abs(np.log(zoom[:, 0]).mean() - np.log(2) / 2) < 0.02
    )
    assert (
        4.9 < np.abs(zoom[:, 1]).max() <= 5
        and (0.99 < np.abs(zoom[:, 2:]).max(0)).all()
        and np.abs(zoom[:, 2:]).max() <= 1
    )
    box = np.array([d["box"] for d in ds if d["box"]])
    assert (
        abs(len(box) / 4000 - 0.5) < 0.03
        and 0.1 <= box[:, :2].min() < 0.11
        and 0.49 < box[:, :2].max() <= 0.5
        and abs(box[:, :2].mean() - 0.3) < 0.01
    )
    bright, contrast, saturation = (np.array([d["colour"][k] for d in ds]) for k in range(3))
    assert (
        abs(bright.mean() - 1) < 0.02
        and bright.max() <= 1.4 * 1.08 + 1e-9
        and bright.max() > 1.4
        and 0.6 * 0.92 - 1e-9 <= bright.min() < 0.6
    )
    tint = bright / bright.mean(1, keepdims=True)
    assert 0.08 < np.abs(tint - 1).max() < 0.12  # 8 % either way, about the mean of three
    assert 0.6 <= contrast.min() < 0.61 and 1.39 < contrast.max() <= 1.4 and abs((saturation == 0).mean() - 0.25) < 0.03
    assert (
        abs(np.mean([d["flip"] for d in ds]) - 0.5) < 0.03 and abs(np.mean([d["sigma"] > 0 for d in ds]) - 0.5) < 0.03
    )


def test_the_middle_of_the_picture_is_kept(rooms):
    wide = dict(
        rooms[0],
        image=np.tile(np.arange(64, dtype=np.uint8)[:, None], (48, 1, 3)),
        depth=np.tile(np.arange(64, dtype=np.float32), (48, 1)),
    )
    square = WithoutCamera([wide], replace(TINY, height=32, width_px=32))[0]
    assert (
        square["depth"].shape == (48, 48)
        and square["depth"][0].tolist() == list(range(8, 56))
        and square["image"].shape == (48, 48, 3)
    )
    assert square["camera"].cx == wide["camera"].cx - 8


def emptied(item):
    return item | dict(depth=np.zeros_like(item["depth"]), name=f"{item['name']}-empty")


def one_batch(frames, cfg):
    return next(iter(torch.utils.data.DataLoader(Frames(frames, cfg, 0), len(frames))))


@pytest.mark.parametrize("loss", ["log", "report", "published"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_mean_is_over_frames_that_have_readings(rooms, loss, accumulate):
    "Two frames of which the second half says nothing move the weights exactly as the first half alone."
    cfg = replace(
        TINY,
        loss=loss,
        confidence=loss == "log",
        arch="published" if loss == "published" else "report",
        clip=0.0,
        augment_on="loader",
    )
    few, many = Run(replace(cfg, bs=1), 6), Run(replace(cfg, bs=2, accumulate=accumulate), 12)
    many.model.load_state_dict(few.model.state_dict())
    many.loss = few.loss  # the published grid term divides by the images that it sees
    many.parts = few.parts
    with pytest.warns(UserWarning, match=f"no pixel of {rooms[1]['name']}-empty lies between 0.001 and 10 m.*left out"):
        said = train_step(many, *one_batch([rooms[0], emptied(rooms[1])], many.cfg))
    assert said == train_step(few, *one_batch(rooms[:1], few.cfg))
    for (k, p), q in zip(many.model.named_parameters(), few.model.parameters()):
        assert (p.grad is None) == (q.grad is None) and (
            p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-5, atol=1e-7)
        ), k


def test_a_step_without_a_reading_changes_nothing(rooms, recwarn):
    run = Run(TINY, 6)
    before, n = {k: v.clone() for k, v in state(run).items()}, run.ema.n
    assert train_step(run, *one_batch([emptied(r) for r in rooms[:2]], TINY)) == {}
    assert (
        run.step == 1
        and run.ema.n == n
        and not run.opt.state
        and all(torch.equal(v, before[k]) for k, v in state(run).items())
    )
    assert sum("left out of its batch" in str(w.message) for w in recwarn) == 2
    recwarn.clear()
    train_step(run, *one_batch([emptied(r) for r in rooms[:2]], TINY))
    assert not recwarn.list  # each frame once
    for k in range(3):
        train_step(run, *one_batch([emptied(r) | dict(name=f"{k}-{i}") for i, r in enumerate(rooms[:2])], TINY))
    said = [str(w.message) for w in recwarn]
    assert (
        len(said) == 4 and "more frames without a reading" in said[-1]
    )  # five by name, then one that says where to look


@pytest.mark.parametrize("bs", [1, 2])
@pytest.mark.parametrize("on", ["loader", "device"])
@pytest.mark.filterwarnings("ignore:no pixel of")
def test_frames_without_readings_end_no_training_and_resume_exactly(tmp_path, rooms, bs, on):
    frames = [emptied(r) if i in (1, 2, 5) else r for i, r in enumerate(rooms)]
    corner = rooms[3]["depth"].copy()
    corner[6:, 8:] = 0  # a zoom may look past its few readings
    frames[3] = rooms[3] | dict(depth=corner)
    cfg = replace(TINY, bs=bs, augment_on=on, zoom=2.0)
    whole = fit(replace(cfg, out=str(tmp_path / "whole")), frames, rooms[:2], progress=False)
    fit(replace(cfg, out=str(tmp_path / "cut")), frames, rooms[:2], progress=False, stop_after=4 if bs == 1 else 2)
    again = fit(replace(cfg, out=str(tmp_path / "cut")), frames, rooms[:2], progress=False, resume=True)
    assert whole.step == again.step == 2 * (6 // bs) and all(
        torch.isfinite(v).all() for v in state(whole).values() if v.is_floating_point()
    )
    assert all(torch.equal(v, state(again)[k]) for k, v in state(whole).items())
    assert [{**r, "seconds": 0} for r in again.history] == [{**r, "seconds": 0} for r in whole.history] and np.isfinite(
        whole.best
    )


def test_a_run_without_any_reading_is_refused(tmp_path, rooms):
    with pytest.raises(ValueError, match="no pixel of the 6 frames to train on lies between 0.001 and 10 m"):
        fit(replace(TINY, out=str(tmp_path / "run")), [emptied(r) for r in rooms], None, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_process_without_readings_learns_nothing_and_leaves_the_averages_alone(rooms):
    from dogdepth.learning import zero_loss

    run = Run(TINY, 6)
    run.model.train()
    before = {k: v.clone() for k, v in state(run).items()}
    zero_loss(run, one_batch(rooms[:2], TINY)[0]).backward()
    assert all(p.grad is None or not p.grad.any() for p in run.model.parameters()) and any(
        p.grad is not None for p in run.model.parameters()
    )
    assert run.model.training and all(torch.equal(v, before[k]) for k, v in state(run).items())


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(schedule="cosine"), "schedule should be"),
        (dict(dog=False, shuffle_dog=True), "shuffle_dog gives"),
        (dict(device="gpu"), "device 'gpu' cannot"),
    ],
)
def test_refused_before_anything_is_written(wrong, words, rooms, tmp_path):
    with pytest.raises(ValueError, match=words):
        fit(replace(TINY, out=str(tmp_path / "run"), **wrong), rooms, None, progress=False)
    assert not (tmp_path / "run").exists()
