"""A graphics card in eight minutes: what 11_v100 predicts, measured. `tools/gpu.sh` finds a Python and starts this.

    tools/gpu.sh OUT                # every part, on a CUDA card
    tools/gpu.sh OUT --tiny         # every part, small, on the processor: a rehearsal
    tools/gpu.sh OUT --only published,light

Each part runs in a process of its own with a time limit of its own. It writes a row into its CSV as soon as it has one;
a part or a row that fails writes its reason there, and the rest goes on. Two parts need no card and run beside the
others. Every row names card, torch, CUDA, date and commit.
"""

import argparse
import copy
import csv
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Callable

import numpy as np

TOP = Path(__file__).resolve().parents[1]
GOAL_MINUTES = 45  # the report's run on one current card
GOOD_SHARE = 0.6  # of the ceiling: what NVIDIA's own U-Net reaches in 16 bits (11_v100)
TF32 = dict(A100=156e12, H100=494.7e12, H200=494.7e12)  # FLOP/s of fp32 convolutions on tensor cores, by data sheet


# --- how large everything is


@dataclass(frozen=True)
class Scale:
    "What a rehearsal on the processor makes smaller."

    height: int = 480
    width_px: int = 640
    bs: int = 30
    width: int = 0  # of `published`; 0: its own 64
    seconds: float = 1.0  # of timing, a row
    warmup: int = 3  # calls before the clock starts
    repeats: int = 3  # calls timed at least
    batches: tuple = (1, 8, 30, 64)
    matrix: int = 8192  # side of the matrices that are multiplied
    megabytes: int = 2048  # of the copy
    rooms: int = 900  # rendered at most
    render_seconds: float = 30
    valid: int = 24  # rooms that are only judged by
    train_size: tuple = (240, 320)
    train_bs: int = 32
    train_seconds: float = 120
    epochs: int = 10  # points of the curve
    steps: tuple = (10, 70)  # of a training with its loader: to warm up, to time
    backend: str = "inductor"  # of torch.compile
    recipes: int = 9  # on paper
    factor: float = 1  # of the time limits


TINY = Scale(
    height=64,
    width_px=96,
    bs=2,
    width=16,
    seconds=0.02,
    warmup=0,
    repeats=2,
    batches=(1, 2),
    matrix=256,
    megabytes=8,
    rooms=8,
    render_seconds=20,
    valid=2,
    train_size=(64, 96),
    train_bs=2,
    train_seconds=4,
    epochs=2,
    steps=(1, 3),
    backend="eager",
    recipes=2,
    factor=5,
)


# --- rows and files


def machine():
    "What every row says about where it was measured, and a file name for this kind of machine."
    import torch
    from dogdepth.timing import environment, machine_slug

    env = environment()
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return dict(
        card=env["gpu"] or env["cpu"],
        card_gb=round(gpu.total_memory / 1e9, 1) if gpu else "",
        cores=env["cores"],
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        cudnn=torch.backends.cudnn.version() or "",
        python=env["python"],
        date=env["date"],
        commit=os.environ.get("COMMIT") or env["commit"],
        slug=machine_slug(env),
    )


def csv_path(out, kind, who):
    "The file of one kind of rows, named like those in results/."
    return Path(out) / f"gpu-{kind}-{who['slug']}.csv"


def read_rows(path):
    "The rows of a CSV, none where there is no file."
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


class Table:
    "The rows of one part: each is on disk as soon as it is added; rows of an earlier run of the same part go."

    def __init__(self, out, part, who):
        self.path, self.part, self.rows = csv_path(out, part.kind, who), part.name, []
        self.who = {k: v for k, v in who.items() if k != "slug"}

    def add(self, name, reason="", **row):
        from dogdepth.runs import write_log

        row = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
        self.rows.append({"part": self.part, "name": name, **row, "reason": reason, **self.who})
        write_log(self.path, [r for r in read_rows(self.path) if r["part"] != self.part] + self.rows)

    def measure(self, name, fn, **known):
        "Add what `fn()` returns, a dict; or, where it fails, why."
        try:
            row, reason = fn(), ""
        except Exception as e:
            row, reason = {}, f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:300]
        self.add(name, reason, **known, **row)
        free()


def free():
    "Give memory back between rows."
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def timed(fn, *args, scale, images, **kw):
    "Columns of a timing: milliseconds a call and images a second."
    from dogdepth.timing import bench

    t = bench(fn, *args, warmup=scale.warmup, seconds=scale.seconds, repeats=(scale.repeats, 200), **kw)
    return dict(
        runs=len(t.ms), median_ms=t.median, q25_ms=t.at(25), q75_ms=t.at(75), images_per_s=1e3 * images / t.median
    )


def set_tf32(on):
    "Let fp32 products and convolutions use the tensor cores' shorter numbers, or not."
    import torch

    torch.backends.cudnn.allow_tf32 = on
    torch.set_float32_matmul_precision("high" if on else "highest")


# --- what the card can do, by its data sheet or measured


@lru_cache(None)
def sheets():
    from dogdepth.v100 import CARDS

    return CARDS | dict(H200=replace(CARDS["H100"], name="H200", bytes=4.8e12, gb=141))


@lru_cache(None)
def ceiling(name, tf32, tiny):
    "The `Card` of this name where its data sheet is known, else one whose ceilings are measured now."
    import torch
    from dogdepth.cost import machine_rates
    from dogdepth.v100 import Card

    known = next((c for k, c in sheets().items() if k in name), None)
    if known:
        return replace(known, fp32=TF32.get(known.name, known.fp32)) if tf32 else known
    scale = TINY if tiny else Scale()
    set_tf32(tf32)
    with torch.device(device()):
        full, half = (machine_rates(scale.matrix, scale.megabytes, dtype=d) for d in (torch.float32, torch.bfloat16))
    return Card(name, full["flop_s"], half["flop_s"], full["byte_s"], 0, 0)


def device():
    "cuda where there is a card, else cpu."
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def part_card(table, scale, who, work):
    "Matrix products and copies: what this card reaches at best."
    import torch
    from dogdepth.timing import bench
    from dogdepth.cost import machine_rates

    def product(dtype, tf32):
        set_tf32(tf32)
        with torch.device(device()):
            r = machine_rates(scale.matrix, scale.megabytes, dtype=dtype)
        return dict(tflop_s=r["flop_s"] / 1e12, gb_s=r["byte_s"] / 1e9)

    def link():
        x = torch.zeros(scale.megabytes << 17, pin_memory=device() == "cuda")
        y = torch.empty_like(x, device=device())
        return dict(gb_s=x.nbytes / bench(lambda: y.copy_(x, non_blocking=True), seconds=0.25).at(0) / 1e6)

    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("fp32, TF32", torch.float32, True),
        ("fp16", torch.float16, False),
        ("bf16", torch.bfloat16, False),
    ):
        table.measure(f"matrix product, {name}", lambda: product(dtype, tf32), size=f"{scale.matrix}x{scale.matrix}")
    table.measure("copy from the computer's memory", link)


# --- training steps

RECIPES = {  # name -> changes of TrainConfig, and what else is switched on
    "fp32": (dict(amp="off"), ()),
    "fp32, TF32": (dict(amp="off"), ("tf32",)),
    "fp16": (dict(amp="fp16"), ("tf32",)),
    "bf16": (dict(amp="bf16"), ("tf32",)),
    "bf16, channels_last": (dict(amp="bf16", channels_last=True), ("tf32",)),
    "fp16, channels_last": (dict(amp="fp16", channels_last=True), ("tf32",)),
    "bf16, channels_last, cudnn.benchmark": (dict(amp="bf16", channels_last=True), ("tf32", "benchmark")),
    "fp32, TF32, checkpointing": (dict(amp="off", checkpointing=True), ("tf32",)),
    "bf16, channels_last, checkpointing": (dict(amp="bf16", channels_last=True, checkpointing=True), ("tf32",)),
    "bf16, channels_last, compiled": (dict(amp="bf16", channels_last=True), ("tf32", "compiled")),
}


def config(arch, scale, **changes):
    "The report's recipe for `published`, `TrainConfig.v100` for `light`; a small rate: the pictures are random."
    from dogdepth.train import TrainConfig

    common = dict(
        height=scale.height,
        width_px=scale.width_px,
        bs=scale.bs,
        lr=1e-5,
        epochs=1000,
        small_first=0.0,
        pretrained=False,
    )
    if arch == "published":
        return TrainConfig.report(**common | dict(width=scale.width) | changes)
    return TrainConfig.v100(**common | dict(channels_last=False, augment_on="loader", workers=0) | changes)


def report_minutes(images_per_s):
    "How long the report's run takes at this rate: 50 epochs of 16,000 frames."
    from dogdepth.train import TrainConfig

    cfg = TrainConfig.report()
    return cfg.epochs * cfg.limit / images_per_s / 60


def random_batch(cfg):
    "Pictures and depths that lie on the device."
    import torch

    size = cfg.height, cfg.width_px
    with torch.device(device()):
        return (
            torch.rand(cfg.bs, 6, *size),
            torch.rand(cfg.bs, 1, *size) * 5 + 1,
            torch.full((cfg.bs, 1, 1, 1), 500.0),
            ("random",),
        )


def peak_gb(run, batch, tape):
    "The most memory that a step holds, weights and all: asked of the card; on the processor, of the profiler."
    import torch
    from dogdepth.train import train_step
    from dogdepth.v100 import measured_peak, memory

    if run.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        train_step(run, *batch)
        return torch.cuda.max_memory_allocated() / 1e9
    return memory(run.cfg, tape)["total"] + (measured_peak(run.cfg) - tape.peak) / 1e9


def one_step(cfg, switches, scale, who):
    "Columns of one recipe: measured, and beside it what the tape of 11_v100 says."
    import torch
    from dogdepth.train import Run, train_step
    from dogdepth.v100 import memory, step_seconds, tape

    set_tf32("tf32" in switches)
    torch.backends.cudnn.benchmark = "benchmark" in switches
    run, batch = Run(cfg, cfg.bs), random_batch(cfg)
    if "compiled" in switches:
        run.net = torch.compile(run.model, backend=scale.backend)
    start = time.perf_counter()
    train_step(run, *batch)
    first_s = time.perf_counter() - start
    row = timed(train_step, run, *batch, scale=scale, images=cfg.bs)
    T = tape(cfg)
    least_ms = 1e3 * step_seconds(T, ceiling(who["card"], "tf32" in switches, scale == TINY))
    row |= dict(
        ceiling_ms=least_ms,
        reached=least_ms / row["median_ms"],
        predicted_per_s=GOOD_SHARE * 1e3 * cfg.bs / least_ms,
        peak_gb=peak_gb(run, batch, T),
        predicted_gb=memory(cfg, T)["total"],
        first_step_s=first_s,
    )
    return row | (dict(report_minutes=report_minutes(row["images_per_s"])) if cfg.arch == "published" else {})


def steps(table, scale, who, arch, names):
    "A row for each of the recipes named."
    for name in names:
        kw, switches = RECIPES[name]
        known = dict(network=arch, size=f"{scale.height}x{scale.width_px}", bs=scale.bs)
        table.measure(f"{arch}, {name}", lambda: one_step(config(arch, scale, **kw), switches, scale, who), **known)


def part_published(table, scale, who, work):
    "One training step of the report's network, recipe by recipe: images a second, peak memory, the prediction."
    steps(table, scale, who, "published", [n for n in RECIPES if "compiled" not in n])


def part_light(table, scale, who, work):
    "The same for the package's own network."
    steps(
        table, scale, who, "light", [n for n in RECIPES if "compiled" not in n and "benchmark" not in n and n != "fp32"]
    )


def part_compiled(table, scale, who, work):
    "Both networks through torch.compile; the first step holds the compiling."
    for arch in ("published", "light"):
        steps(table, scale, who, arch, [n for n in RECIPES if "compiled" in n])


# --- rates: the filter, predictions, feeding


def photos(n, scale):
    "Rendered rooms, uint8: a few, over and over."
    from dogdepth.rooms import render_room

    few = [render_room(seed, scale.height, scale.width_px)["image"] for seed in range(min(n, 4))]
    return [few[i % len(few)] for i in range(n)]


def part_rates(table, scale, who, work):
    "The filter and its augmentation as a batch, photo to depth, the network alone: images a second by batch."
    import torch
    from dogdepth.attention import network_input
    from dogdepth.dog import modified_dog_batch
    from dogdepth.predict import Predictor

    imgs, size = photos(max(scale.batches), scale), (scale.height, scale.width_px)
    x = torch.stack([torch.from_numpy(i) for i in imgs]).permute(0, 3, 1, 2).to(device()) / 255
    for b in scale.batches:
        table.measure(
            "modified_dog_batch",
            lambda: timed(modified_dog_batch, x[:b], scale=scale, images=b),
            batch=b,
            size=f"{size[0]}x{size[1]}",
        )
    table.measure(
        "augment_batch with its filter",
        lambda: timed(*augmentation(imgs, scale), scale=scale, images=scale.bs),
        batch=scale.bs,
        size=f"{size[0]}x{size[1]}",
    )
    small = (size[0] // 2, size[1] // 2)
    for bf16 in (False, True):
        ask, dtype = Predictor(device=device(), size=small, bf16=bf16), "bf16" if bf16 else "fp32"
        for b in scale.batches:
            table.measure(
                f"photo to depth, {dtype}",
                lambda: timed(lambda: ask.predict_batch(imgs[:b], bs=b), scale=scale, images=b),
                batch=b,
                size=f"{small[0]}x{small[1]}",
            )
        inputs = torch.stack([network_input(np.ascontiguousarray(i[::2, ::2])) for i in imgs]).to(
            device(), next(ask.model.parameters()).dtype
        )
        inputs = inputs.to(memory_format=torch.channels_last)
        forward = torch.inference_mode()(lambda part: ask.model(part, spread=True))
        for b in scale.batches:
            table.measure(
                f"the network alone, {dtype}",
                lambda: timed(forward, inputs[:b], scale=scale, images=b),
                batch=b,
                size=f"{small[0]}x{small[1]}",
            )


def augmentation(imgs, scale):
    "`augment_batch` and a batch for it that lies on the device."
    import torch
    from dogdepth.rooms import render_room
    from dogdepth.augment import Frames, augment_batch
    from dogdepth.train import TrainConfig

    cfg = TrainConfig(height=scale.height, width_px=scale.width_px, augment_on="device", small_first=0.0)
    frames = Frames([render_room(seed, scale.height, scale.width_px) for seed in range(2)], cfg, 0)
    raw = torch.utils.data.default_collate([frames[i % 2] for i in range(scale.bs)])[:3]
    img, depth, how = (t.to(device()) for t in raw)
    return augment_batch, img, depth, how, frames.size, cfg


def part_feeding(table, scale, who, work):
    "The report's run in 16 bits with its loader at work: packed frames, varied and filtered on the device."
    cfg = config(
        "published",
        scale,
        amp="bf16",
        channels_last=True,
        augment_on="device",
        workers=workers(),
        out=str(work / "feeding"),
    )
    set_tf32(True)

    def whole():
        rate = fit_rate(cfg, rooms(work)[0], scale, work)
        return dict(images_per_s=rate, report_minutes=report_minutes(rate))

    table.measure(
        "published, bf16, channels_last, with its loader",
        whole,
        batch=scale.bs,
        size=f"{scale.height}x{scale.width_px}",
    )


def workers():
    "Processes that read frames: two cores are left to the program and to the card."
    return max(0, min(8, (os.cpu_count() or 1) - 2))


def fit_rate(cfg, frames, scale, work):
    "Images a second of `fit`, its loader's start not counted: a longer trial less a shorter one, after one to warm up."
    from dogdepth.mixtures import Subset
    from dogdepth.train import fit

    few, many = scale.steps
    frames, took = Subset(frames, np.arange(many * cfg.bs) % len(frames)), []
    for k, n in enumerate((few, few, many)):
        start = time.perf_counter()
        fit(
            replace(cfg, out=str(work / f"{Path(cfg.out).name}-{k}"), epochs=1),
            frames,
            None,
            progress=False,
            stop_after=n,
        )
        took.append(time.perf_counter() - start)
    more = took[2] - took[1]
    return cfg.bs * (many - few) / more if more > 0 else cfg.bs * many / took[2]


# --- answers in 16 bits


def part_answers(table, scale, who, work):
    "Depth in fewer bits beside fp32, by the weights in the package: how far apart at most."
    import torch
    from dogdepth.attention import DepthUNet
    from dogdepth.depth import default_camera
    from dogdepth.predict import predict_maps

    imgs = photos(4 if scale != TINY else 2, scale)
    cams, small = [default_camera(*i.shape[:2]) for i in imgs], (scale.height // 2, scale.width_px // 2)
    net = DepthUNet.from_pretrained("default").to(device()).eval()

    def depth(dtype=torch.float32, autocast=None, tf32=False):
        set_tf32(tf32)
        model = copy.deepcopy(net).to(dtype)
        with torch.autocast(device(), autocast) if autocast else nullcontext():
            return predict_maps(model, imgs, cams, small)[0]

    def apart(**how):
        true, got = depth(), depth(**how)
        if not np.isfinite(got).all():
            raise FloatingPointError(f"{(~np.isfinite(got)).sum()} of {got.size} answers are no numbers")
        off = abs(got - true) / true
        return dict(
            largest=float(off.max()),
            p999=float(np.percentile(off, 99.9)),
            median=float(np.median(off)),
            pixels=off.size,
        )

    half, brain = torch.float16, torch.bfloat16
    for name, how in {
        "fp16, autocast": dict(autocast=half),
        "fp16, weights too": dict(dtype=half),
        "bf16, autocast": dict(autocast=brain),
        "bf16, weights too": dict(dtype=brain),
        "fp32, TF32": dict(tf32=True),
        "fp32 again": {},
    }.items():
        table.measure(name, lambda: apart(**how), size=f"{small[0]}x{small[1]}", photos=len(imgs))


# --- a training of two minutes


def part_rooms(table, scale, who, work):
    "Rooms rendered on the processor and packed: what the two trainings see."
    import torch
    from dogdepth.archive import pack
    from dogdepth.rooms import Rooms
    from dogdepth.mixtures import Subset

    def render():
        start, items = time.perf_counter(), []
        loader = torch.utils.data.DataLoader(
            Rooms(scale.rooms, scale.height, scale.width_px),
            batch_size=1,
            collate_fn=itemgetter(0),
            num_workers=workers(),
        )
        for item in loader:
            items.append(item)
            if len(items) > 2 * scale.valid and time.perf_counter() - start > scale.render_seconds:
                break
        took, cut = time.perf_counter() - start, scale.valid
        pack(Subset(items, range(cut)), work / "valid.h5", progress=False)
        pack(Subset(items, range(cut, len(items))), work / "train.h5", progress=False)
        return dict(images=len(items), images_per_s=len(items) / took, workers=workers())

    table.measure("rooms rendered", render, size=f"{scale.height}x{scale.width_px}")


def rooms(work):
    "What `part_rooms` left: rooms to train on, rooms to judge by."
    from dogdepth.archive import PackedDepth

    if not (work / "train.h5").exists():
        raise FileNotFoundError("no rooms: the part 'rooms' failed or was left out")
    return PackedDepth(work / "train.h5"), PackedDepth(work / "valid.h5")


def median_row(train, valid):
    "What the per-pixel median of the training rooms scores: what a network must beat."
    import cv2
    from dogdepth.metrics import baseline_maps, depth_metrics

    guess = baseline_maps(train)["per-pixel median"]
    scores = [
        depth_metrics(cv2.resize(guess, it["depth"].shape[::-1]), it["depth"])
        for it in (valid[i] for i in range(len(valid)))
    ]
    return {f"valid_{k}": float(np.mean([s[k] for s in scores])) for k in ("abs_rel", "rmse", "delta1")}


def part_train(table, scale, who, work):
    "`light` from random weights on rendered rooms for two minutes: its curve, beside the per-pixel median."
    from dogdepth.mixtures import Subset
    from dogdepth.train import TrainConfig, fit

    h, w = scale.train_size
    cfg = TrainConfig(
        pretrained=False,
        height=h,
        width_px=w,
        bs=scale.train_bs,
        epochs=scale.epochs,
        small_first=0.0,
        valid_every=1,
        augment_on="device",
        workers=workers(),
        out=str(work / "train"),
    )
    set_tf32(True)
    known = dict(size=f"{h}x{w}", bs=cfg.bs)
    table.measure("per-pixel median", lambda: dict(epoch=0, **median_row(*rooms(work))), **known)

    def curve():
        train, valid = rooms(work)
        rate = fit_rate(cfg, train, scale, work)
        frames = max(1, int(scale.train_seconds / cfg.epochs * rate * 0.9) // cfg.bs) * cfg.bs
        start = time.perf_counter()
        run = fit(cfg, Subset(train, np.arange(frames) % len(train)), valid, progress=False)
        for row in run.history:
            table.add("light", **known, **row)
        return dict(
            seconds=time.perf_counter() - start, frames=frames * cfg.epochs, rooms=len(train), images_per_s=rate
        )

    table.measure("the whole training", curve, **known)


# --- on paper


def paper_recipes():
    "The report's run and what makes it shorter: name -> settings, and does it use TF32."
    from dogdepth.train import TrainConfig

    r = TrainConfig.report()
    half = replace(r, amp="bf16", channels_last=True)
    return {
        "the report: fp32": (r, False),
        "16 bits, channels_last": (half, False),
        "fp32, TF32": (r, True),
        "16 bits, channels_last, checkpointing": (replace(half, checkpointing=True), False),
        "16 bits, channels_last, half of the epochs at 4/5 of the size": (replace(half, small_first=0.5), False),
        "16 bits, channels_last, at 240x320": (replace(half, height=240, width_px=320), False),
        "all 50,688 pairs, 20 epochs: fp32": (replace(r, limit=50_688, epochs=20), False),
        "all 50,688 pairs, 20 epochs: 16 bits, channels_last": (replace(half, limit=50_688, epochs=20), False),
        "light (TrainConfig.v100), 16 bits": (TrainConfig.v100(pretrained=False), False),
    }


def part_paper(table, scale, who, work):
    "On paper: what the report's run (28 hours on a V100) should need on one card, and what brings it below 45 minutes."
    from dogdepth.v100 import plan

    def row(cfg, card):
        p = plan(cfg, card, 0.0)
        minutes = 60 * p["hours"]
        return dict(
            exaflop=p["exaflop"],
            gb=p["gb"],
            fits=p["gb"] < card.gb,
            images_per_s=p["images_per_s"],
            minutes_at_ceiling=minutes,
            minutes_at_share=minutes / GOOD_SHARE,
            share=GOOD_SHARE,
            share_for_goal=minutes / GOAL_MINUTES,
            below_goal=minutes / GOOD_SHARE < GOAL_MINUTES,
        )

    for name, (cfg, tf32) in list(paper_recipes().items())[: scale.recipes]:
        for card in sheets().values():
            if not tf32 or card.name in TF32:
                used = replace(card, fp32=TF32[card.name]) if tf32 else card
                table.measure(name, lambda: row(cfg, used), on=card.name, epochs=cfg.epochs, frames=cfg.limit)


# --- the parts, each in a process of its own


@dataclass(frozen=True)
class Part:
    "What runs in a process of its own."

    name: str
    kind: str  # of its CSV
    seconds: float  # it may take
    run: Callable  # (table, scale, who, work): adds rows to the table
    lane: str = "card"
    needs: tuple = ()  # parts that come first


PARTS = {
    p.name: p
    for p in (
        Part("rooms", "paper", 80, part_rooms, "processor"),
        Part("paper", "paper", 120, part_paper, "processor"),
        Part("card", "rates", 30, part_card),
        Part("published", "steps", 90, part_published),
        Part("light", "steps", 90, part_light),
        Part("answers", "answers", 40, part_answers),
        Part("rates", "rates", 75, part_rates),
        Part("feeding", "rates", 60, part_feeding, needs=("rooms",)),
        Part("train", "curve", 180, part_train, needs=("rooms",)),
        Part("compiled", "steps", 150, part_compiled),
    )
}

COLUMNS = dict(  # of the tables that are printed
    steps="name images_per_s predicted_per_s reached peak_gb predicted_gb report_minutes",
    rates="name batch size images_per_s tflop_s gb_s report_minutes",
    answers="name largest p999 median",
    curve="name epoch seconds loss valid_abs_rel valid_rmse valid_delta1",
    paper="name on gb images_per_s minutes_at_ceiling minutes_at_share share_for_goal below_goal",
)


def markdown(rows, kind):
    "The rows as a table; those that failed as lines below it."
    good, cols = [r for r in rows if not r["reason"]], COLUMNS[kind].split()
    cols = [c for c in cols if any(r.get(c) not in (None, "") for r in good)]
    cell = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)
    number = lambda v: float(v) if str(v).replace(".", "", 1).replace("-", "", 2).replace("e", "", 1).isdigit() else v
    lines = ["| " + " | ".join(c.replace("_", " ") for c in cols) + " |", "|" + "---|" * len(cols)] if good else []
    lines += ["| " + " | ".join(cell(number(r.get(c) or "")) for c in cols) + " |" for r in good]
    return "\n".join(
        lines + [""] * bool(lines) + [f"- **{r['name']}** failed: {r['reason']}" for r in rows if r["reason"]]
    )


CHILDREN = set()  # processes at work


def end(child):
    "Kill a process and all it has started: loaders, compilers."
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # they are gone
    child.wait()


def watch(command, seconds, log):
    "Run `command`, its output in the file `log`; why it failed, or ''. Past its time it dies with all it has started."
    with open(log, "wb") as f:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, start_new_session=True
        )
        CHILDREN.add(child)
        try:
            status, late = child.wait(seconds), False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            end(child)
            CHILDREN.discard(child)
    if late:
        return f"took longer than its {seconds:.0f} s"
    if status < 0:
        return f"ended by signal {signal.Signals(-status).name}" + (
            " (out of memory?)" if status == -signal.SIGKILL else ""
        )
    lines = Path(log).read_text(errors="replace").strip().splitlines()
    return "" if status == 0 else f"exit status {status}: {lines[-1][:300] if lines else 'it said nothing'}"


class Runner:
    "Runs parts in two lanes, those for the card and those for the processor, until the minutes are up."

    def __init__(self, out, who, tiny, minutes, limits, command):
        self.out, self.who, self.tiny, self.command, self.limits = Path(out), who, tiny, command, limits
        self.start, self.minutes, self.work = time.monotonic(), minutes, Path(tempfile.mkdtemp(prefix="gpu-"))
        self.lock, self.reasons, self.done = threading.Lock(), {}, {}

    def rows(self, part):
        return [r for r in read_rows(csv_path(self.out, part.kind, self.who)) if r["part"] == part.name]

    def one(self, part):
        "Run one part; keep and print what came of it."
        start = time.monotonic()
        left = self.minutes * 60 - (start - self.start)
        limit = min(left, self.limits.get(part.name, part.seconds * (TINY.factor if self.tiny else 1)))
        log = self.work / f"{part.name}.log"
        command = [*self.command, str(self.out), "--part", part.name, "--work", str(self.work), *["--tiny"] * self.tiny]
        reason = watch(command, limit, log) if left > 5 else f"left out: the {self.minutes:g} minutes were up"
        if reason:
            table = Table(self.out, part, self.who)
            table.rows = self.rows(part)
            table.add(part.name, reason)
        failed = [r["name"] for r in self.rows(part) if r["reason"]]
        took = time.monotonic() - start
        with self.lock:
            self.reasons[part.name] = failed
            print(
                f"\n== {part.name}: {part.run.__doc__} ({took:.0f} s)\n\n{markdown(self.rows(part), part.kind)}",
                flush=True,
            )
            with open(self.out / "log.txt", "ab") as f:
                f.write(
                    f"== {part.name}, {took:.0f} s\n".encode()
                    + (log.read_bytes()[-20_000:] if log.exists() else b"")
                    + b"\n"
                )

    def lane(self, parts):
        for p in parts:
            for need in p.needs:
                if need in self.done:
                    self.done[need].wait()
            try:
                self.one(p)
            finally:
                self.done[p.name].set()

    def all(self, parts):
        "Run them all; names of rows that failed, by part."
        self.done = {p.name: threading.Event() for p in parts}
        lanes = [[p for p in parts if p.lane == lane] for lane in ("processor", "card")]
        threads = [threading.Thread(target=self.lane, args=(lane,), daemon=True) for lane in lanes]
        try:
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        finally:
            self.minutes = 0  # where it was interrupted, no further part begins
            for child in list(CHILDREN):
                end(child)
            shutil.rmtree(self.work, ignore_errors=True)
        return {k: v for k, v in self.reasons.items() if v}

    def summary(self, parts):
        "summary.md: every table of this run under a line that names the machine."
        from dogdepth.atomic import atomic_write

        w = self.who
        head = f"{w['card']}, {w['cores']} cores; torch {w['torch']}, CUDA {w['cuda'] or 'none'}; "
        head += f"commit {w['commit'] or 'unknown'}, {w['date']}"
        if self.tiny:
            head += ". A rehearsal on small pictures: these numbers say nothing about a card"
        text = [f"{head}.\n"] + [f"## {p.name}\n\n{p.run.__doc__}\n\n{markdown(self.rows(p), p.kind)}\n" for p in parts]
        atomic_write(self.out / "summary.md", "\n".join(text).encode())


def chosen(only):
    "The parts named, with those that they need, in order; `ValueError` for a name that is none."
    names = set(only.split(",")) if only else set(PARTS)
    if odd := names - set(PARTS):
        raise ValueError(f"no part {', '.join(sorted(odd))}: there are {', '.join(PARTS)}")
    names |= {need for n in names for need in PARTS[n].needs}
    return [p for p in PARTS.values() if p.name in names]


def limits_of(pairs):
    "['rates=5'] -> {'rates': 5.0}"
    try:
        return {name: float(seconds) for name, seconds in (pair.split("=") for pair in pairs)}
    except ValueError:
        raise ValueError(f"--limit takes NAME=SECONDS, got {' '.join(pairs)}") from None


def ask_machine(tiny):
    "`machine()` in a process that ends, so that this one holds no memory of the card."
    code = "import json, sys; sys.path[:0] = sys.argv[1:]; import gpu; print(json.dumps(gpu.machine()))"
    r = subprocess.run(
        [sys.executable, "-c", code, str(TOP / "tools"), str(TOP)], capture_output=True, text=True, env=environ(tiny)
    )
    if r.returncode:
        raise ValueError(f"this Python cannot run it: {r.stderr.strip().splitlines()[-1]}")
    return json.loads(r.stdout.splitlines()[-1])


def environ(tiny):
    "A rehearsal sees no card."
    return os.environ | (dict(CUDA_VISIBLE_DEVICES="") if tiny else {})


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "out",
        nargs="?",
        default=os.environ.get("OUT") or "out/gpu",
        help="folder for the CSVs (default: $OUT, else out/gpu)",
    )
    p.add_argument("--tiny", action="store_true", help="small pictures and networks on the processor")
    p.add_argument("--only", metavar="NAME,NAME", help="these parts alone, and what they need")
    p.add_argument("--minutes", type=float, default=8, help="no part goes on after so many (8)")
    p.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help="another time limit for a part; may be given again",
    )
    p.add_argument("--list", action="store_true", help="say what the parts measure")
    p.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # what a child process runs
    p.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    try:
        a.parts, a.limits = chosen(a.only), limits_of(a.limit)
    except ValueError as e:
        p.error(str(e))
    return a


def main(argv=None, command=(sys.executable, __file__)):
    sys.path.insert(0, str(TOP))
    a = arguments(argv)
    if a.list:
        print(
            "\n".join(
                f"{p.name:10} {p.seconds:4.0f} s at most, gpu-{p.kind}-*.csv: {p.run.__doc__}" for p in PARTS.values()
            )
        )
        return 0
    if a.part:
        os.environ.update(environ(a.tiny))
        part, who = PARTS[a.part], machine()
        part.run(Table(a.out, part, who), TINY if a.tiny else Scale(), who, a.work)
        return 0
    try:
        who = ask_machine(a.tiny)
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    if not (a.tiny or who.get("card_gb")):
        print("no CUDA card here: rehearse with --tiny", file=sys.stderr)
        return 2
    Path(a.out).mkdir(parents=True, exist_ok=True)
    (Path(a.out) / "log.txt").write_text("")
    print(
        f"{who['card']}; torch {who['torch']}, CUDA {who['cuda'] or 'none'}; "
        f"at most {a.minutes:g} minutes; CSVs in {a.out}",
        flush=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runner = Runner(a.out, who, a.tiny, a.minutes, a.limits, list(command))
    failed = runner.all(a.parts)
    runner.summary(a.parts)
    for part, names in failed.items():
        print(f"failed in {part}: {', '.join(names)}")
    print(f"{len(a.parts) - len(failed)} of {len(a.parts)} parts whole; {Path(a.out) / 'summary.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
