"Counting a training step before it runs: bytes by hand, hook and tape; ceilings; the batched augmentation; the tables."

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dogdepth.attention import DepthUNet
from dogdepth.rooms import render_room
from dogdepth.timing import write_results
from dogdepth.augment import Frames, augment_batch
from dogdepth.train import Run, TrainConfig
from dogdepth.learning import loss_of
from dogdepth.augment import augment, sample_params
from dogdepth.cost import Kept
from dogdepth.v100 import CARDS, Card, Op, Tape, format_training, measured_peak, memory, op_seconds, plan
from dogdepth.v100 import step_seconds, tape
from dogdepth.pipeline import bench_pipeline

SMALL = TrainConfig(arch="report", width=8, pretrained=False, height=64, width_px=96, bs=2, amp="off", drop_path=0.0)
OTHERS = [
    dict(arch="published", loss="published", confidence=False),
    dict(arch="published", loss="report", confidence=False),
    dict(act="relu"),
    dict(climb=False),
    dict(dog=False),
    dict(arch="light", width=0),
    dict(amp="bf16"),
]


def one_pass(cfg):
    n = cfg.bs // cfg.accumulate
    x = torch.rand(n, 6 if cfg.dog else 3, cfg.height, cfg.width_px)
    return x, torch.rand(n, 1, cfg.height, cfg.width_px) * 5 + 1, torch.full((n, 1, 1, 1), 500.0)


@pytest.mark.parametrize("change", [{}, *OTHERS], ids=str)
def test_tape_counts_what_autograd_keeps(change):
    cfg = replace(SMALL, **change)
    run, T, batch = Run(cfg, 4), tape(cfg), one_pass(cfg)
    with Kept(run.model) as kept:
        loss = loss_of(run, *batch)[0]
    first = (
        0 if cfg.arch == "light" or cfg.amp == "bf16" else batch[0].nbytes
    )  # they keep a copy of the photos, made within
    off = sum(n for *_, n in T.kept) + first - kept.bytes
    assert (
        off in (0, loss.nbytes) or cfg.amp == "bf16" and abs(off) < 1e-3 * kept.bytes
    )  # to the byte, but for the loss itself


@pytest.mark.parametrize("act,maps", [("selu", 5), ("relu", 4)])
def test_maps_of_a_block_by_hand(act, maps):
    """conv, BatchNorm, act, conv, ReLU keep five maps (four where the activation needs only its answer), what came in,
    and two numbers a channel and BatchNorm."""
    from dogdepth.unet import ACTS, conv_block

    block = conv_block(3, 8, ACTS[act]).train()
    x = torch.rand(2, 3, 10, 12, requires_grad=True)
    with Kept(block) as kept:
        y = block(x)
    assert kept.bytes == 4 * (2 * 3 * 120 + maps * 2 * 8 * 120 + 2 * 2 * 8) and y.shape == (2, 8, 10, 12)


def test_tape_ends_with_nothing_but_gradients_and_sees_every_flop():
    cfg = replace(SMALL, arch="published", loss="published", confidence=False)
    T = tape(cfg)
    back = [o for o in T.ops if o.way != "step"][-1]
    w = sum(p.nbytes for p in cfg.make(False).parameters())
    last = 2 * 8 * 64 * 96 * 4  # the gradient of the first map, on its way
    assert T.weights == w and abs(back.live - w - last) < 200
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as f:
        loss_of(Run(cfg, 4), *one_pass(cfg))[0].backward()
    assert sum(o.flop for o in T.ops) == f.get_total_flops()


def test_memory_is_linear_in_the_batch_and_needs_none():
    a, b = (memory(TrainConfig.report(bs=n)) for n in (15, 30))
    assert b["kept"] == pytest.approx(2 * a["kept"], rel=0.01) and b["weights"] == a["weights"]
    assert 30 < b["total"] < 33  # the report: 31 GB


def test_each_measure_saves_and_the_parts_add_up():
    base = replace(SMALL, height=240, width_px=320, bs=8, width=16)
    m = {
        k: memory(replace(base, **c))
        for k, c in dict(fp32={}, fp16=dict(amp="fp16"), ck=dict(checkpointing=True), acc=dict(accumulate=2)).items()
    }
    for d in m.values():
        assert d["total"] == pytest.approx(sum(v for k, v in d.items() if k != "total"), abs=0.05)
    assert m["fp16"]["kept"] < 0.65 * m["fp32"]["kept"] and m["ck"]["kept"] < 0.5 * m["fp32"]["kept"]
    assert m["acc"]["kept"] == pytest.approx(m["fp32"]["kept"] / 2, abs=0.02)
    assert all(m[k]["total"] < m["fp32"]["total"] for k in ("fp16", "ck", "acc"))


PUBLISHED = dict(arch="published", loss="published", confidence=False)


@pytest.mark.parametrize(
    "change",
    [
        {},
        dict(checkpointing=True),
        PUBLISHED,
        PUBLISHED | dict(checkpointing=True),
        dict(arch="light", width=0, height=120, width_px=160, checkpointing=True),
    ],
    ids=str,
)
def test_predicted_peak_is_the_allocated_peak(change):
    cfg = replace(SMALL, **dict(height=96, width_px=128) | change)
    assert tape(cfg).peak == pytest.approx(measured_peak(cfg), rel=0.1)


def test_checkpointing_multiplies_a_third_more():
    plain, again = (sum(o.flop for o in tape(replace(SMALL, checkpointing=c, **PUBLISHED)).ops) for c in (False, True))
    assert 1.25 < again / plain < 1.35


def test_ceilings_by_hand():
    card = Card("toy", 1e12, 4e12, 1e9, 1, 1)
    op = Op("convolution", "l", "forward", int(2e12), int(1e9), False, 0)
    assert op_seconds(op, card) == 2  # multiplying takes 2 s, moving 1
    assert op_seconds(op._replace(half=True), card) == 1  # multiplying 0.5 s, moving still 1
    T = Tape()
    T.ops = [op, op._replace(half=True)]
    assert step_seconds(T, card) == 3


def test_tape_of_one_convolution():
    T = Tape()
    with FakeTensorMode():
        conv, x = nn.Conv2d(6, 64, 3, padding=1), torch.rand(2, 6, 48, 64)
        with T:
            conv(x)
    (op,) = [o for o in T.ops if o.name == "convolution"]
    assert op.flop == 2 * 2 * 9 * 6 * 64 * 48 * 64 and op.bytes == 4 * (2 * 48 * 64 * (6 + 64) + 9 * 6 * 64 + 64)


def test_plan_of_the_reports_run():
    p = plan(TrainConfig.report(), CARDS["V100"], 2.5)
    assert p["exaflop"] == pytest.approx(0.458, rel=0.01)  # 3 x 190.7 GFLOP x 800,000
    assert p["price"] == pytest.approx(2.5 * p["hours"]) and 8 < p["hours"] < 28
    assert plan(TrainConfig.report(), CARDS["V100"], 2.5, share=0.5)["hours"] == pytest.approx(2 * p["hours"])
    with pytest.raises(ValueError, match="how many frames"):
        plan(TrainConfig.report(limit=0), CARDS["V100"], 1)


def test_v100_recipe():
    c = TrainConfig.v100()
    assert (c.amp, c.channels_last, c.augment_on, c.bs, c.height, c.limit) == (
        "fp16",
        True,
        "device",
        30,
        480,
        16_000,
    ) and c.workers > 0
    assert TrainConfig.v100(bs=8, amp="bf16").amp == "bf16"


# augmentation on the device

ROOMS = [render_room(s, 60, 80) for s in range(3)]
PLAIN = dict(flip=False, zoom=1.0, rotate_deg=0.0, colour=0.0, grey=0.0, cut_depth=0.0, soften=0.0)


def both(**kw):
    cfg = TrainConfig(**{**dict(height=60, width_px=80, small_first=0.0, pretrained=False), **kw})
    host, raw = (Frames(ROOMS, replace(cfg, augment_on=w), 0) for w in ("loader", "device"))
    stack = torch.utils.data.default_collate
    return stack([host[i] for i in range(3)])[:3], augment_batch(*stack([raw[i] for i in range(3)])[:3], host.size, cfg)


@pytest.mark.parametrize("kw", [{}, dict(arch="published"), dict(dog=False)], ids=str)
def test_identity_on_the_device_is_exact(kw):
    for a, b in zip(*both(**PLAIN, **kw)):
        assert torch.equal(a, b)


def test_mirror_on_the_device_is_exact():
    seeds = [s for s in range(8) if np.random.default_rng((s, 0, 0)).random() < 0.5]
    assert seeds
    for s in seeds[:2]:
        for a, b in zip(*both(**{**PLAIN, "flip": True}, seed=s)):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    "kw",
    [
        dict(zoom=1.6),
        dict(rotate_deg=8.0),
        dict(flip=True, zoom=2.0, rotate_deg=4.0),
        dict(colour=0.4, grey=0.5),
        dict(cut_depth=1.0),
        dict(soften=1.0),
        dict(soften=0.5, cut_depth=1.0, colour=0.4),
        dict(small_first=1.0, epochs=1, zoom=1.3),
    ],
    ids=str,
)
def test_same_dice_same_variant(kw):
    (x, depth, focal), (x2, depth2, focal2) = both(**{**PLAIN, **kw})
    assert x.shape == x2.shape and torch.equal(focal, focal2)  # the camera, exactly
    assert (x - x2)[:, :3].abs().mean() * 255 < 1.5 and (depth == depth2).float().mean() > 0.95
    if "zoom" not in kw and "rotate_deg" not in kw:
        assert torch.equal(depth, depth2) and (x - x2)[:, :3].abs().max() * 255 <= 1.01


def test_numbers_say_where_each_pixel_comes_from():
    "The map of `sample_params` is the camera's: a ray through the new camera meets the pixel that the map names."
    cfg, u, v = TrainConfig(zoom=2.0, rotate_deg=0.0, colour=0.0, grey=0.0, cut_depth=0.0), 7.0, 21.0
    mirrored = set()
    for seed in range(6):
        n = sample_params(ROOMS[0], cfg, np.random.default_rng(seed), (30, 40)).numpy()
        cam = augment(ROOMS[0], cfg, np.random.default_rng(seed), (30, 40))["camera"]
        mirrored.add(bool(n[0] < 0))
        old = ROOMS[0]["camera"].flip() if n[0] < 0 else ROOMS[0]["camera"]
        x, y = (u - cam.cx) / cam.fx * old.fx + old.cx, (v - cam.cy) / cam.fy * old.fy + old.cy
        assert n[:6].reshape(2, 3) @ (u, v, 1) == pytest.approx((79 - x if n[0] < 0 else x, y), abs=0.01)
    assert mirrored == {True, False}


def test_unknown_camera_stays_unknown_on_the_device():
    n = sample_params({**ROOMS[0], "camera_known": False}, TrainConfig(), np.random.default_rng(0), (60, 80))
    assert n[16] == 0 and n.shape == (18,)


# tables


def test_pipeline_rows(tmp_path):
    rows = bench_pipeline(ROOMS, tmp_path, rounds=1, size=(60, 80))
    assert len(rows) == 6 and all(r["images_per_s"] > 0 for r in rows)
    (path,) = tmp_path.glob("training-*.csv")
    write_results([dict(table="training", name="x", median_ms=1.0)], tmp_path, "training")
    kept = list(csv.DictReader(open(path, newline="")))
    assert [r["table"] for r in kept] == ["pipeline"] * 6 + ["training"]
    write_results(rows[:2], tmp_path, "training")
    assert [r["table"] for r in csv.DictReader(open(path, newline=""))] == ["training"] + ["pipeline"] * 2


def test_stored_rows_are_told_as_a_table():
    from pathlib import Path

    stored = [
        r for p in Path(__file__).parents[1].glob("results/training-*.csv") for r in csv.DictReader(open(p, newline=""))
    ]
    rows = [r for r in stored if r["table"] == "training"]
    assert rows and all(0 < float(r["ceiling_ms"]) for r in rows)
    assert format_training(rows).count("\n") == len(rows) + 3
    assert {r["table"] for r in stored} == {"training", "pipeline"}


def test_hook_does_not_count_the_weights():
    net = DepthUNet("report", width=8).train()
    with Kept(net) as kept:
        y = net(torch.rand(1, 6, 32, 32))
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    assert y.requires_grad and not own & set(kept.pieces) and kept.bytes > 0
