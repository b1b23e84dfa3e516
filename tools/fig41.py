"""Fig 4.1 of the report and its table of 100 random images, again: `python tools/fig41.py` (about 25 minutes on one core; DOGDEPTH_DATA must be set).

Three networks see the same training rooms for the same number of epochs. After the first and after the last of them, each answers for the
same validation rooms; so do the weights in the package, as they are. results/fig41.png holds the answers (grey levels, 255 = 10 m; a row for
each network and epoch, a column for each of ROOMS, named in the file), results/fig41.csv one row for each network, epoch and image.
"""

import argparse
import csv
import io
import json
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dogdepth.attention import DepthUNet
from dogdepth.atomic import atomic_write
from dogdepth.depth import valid_mask
from dogdepth.losses import DepthLoss
from dogdepth.metrics import depth_metrics
from dogdepth.layout import nyu_levels
from dogdepth.train import TrainConfig, fit
from dogdepth.judging import answer_at
from dogdepth.mixtures import make_datasets
from dogdepth.runs import write_log

ROOMS = (3, 24, 32, 101)  # validation frames whose answers are kept as pictures
METRICS = ("abs_rel", "rmse", "delta1")
RESULTS = Path(__file__).resolve().parents[1] / "results"


def recipes(epochs, bs, width, size):
    "The report's program, the report's text, and this course's own way, at a size that a laptop can train."
    # a late decoder and no softening: as the networks of results/fig41.csv were
    small = dict(
        early=False,
        epochs=epochs,
        bs=bs,
        height=size[0],
        width_px=size[1],
        split_by="scene",
        limit=0,
        valid_every=epochs,
        save_minutes=1e9,
    )
    return dict(
        published=TrainConfig.report(width=width, amp="auto", **small),
        report=TrainConfig.report(arch="report", loss="report", width=width, amp="auto", **small),
        light=TrainConfig(small_first=0.0, ema=0.99, soften=0.0, **small),
    )


def answer(model, item, cfg):
    "Metres at the frame's own size; a number stands for the same depth everywhere."
    if isinstance(model, float):
        return torch.full((1, 1, *item["depth"].shape), model)
    return torch.from_numpy(answer_at(model, [item], 0, cfg)[1])[None, None]


def judge(model, item, cfg):
    "The report's four terms in its unit (levels, 255 = 10 m; the grid undivided), ours for structure, and the metrics."
    pred, true = answer(model, item, cfg), torch.from_numpy(item["depth"])[None, None]
    terms = DepthLoss(published=True)(pred * 25.5, true * 25.5)[1]
    structure = DepthLoss()(pred, true, valid_mask(true))[1]["ssim"]
    scores = depth_metrics(pred[0, 0].numpy(), item["depth"])
    return {
        k: f"{float(v):.5f}" for k, v in {**terms, "our_ssim": structure, **{k: scores[k] for k in METRICS}}.items()
    }


class Table:
    "Rows and pictures, as they come."

    def __init__(self, a):
        self.a, self.rows, self.tiles, self.rooms = a, [], {}, []

    def add(self, who, epoch, model, valid, cfg):
        "The scores of one network on the chosen images, and its answers for ROOMS."
        a, began = self.a, time.time()
        chosen = sorted(np.random.default_rng(a.seed).permutation(len(valid))[: a.images].tolist())
        new = [dict(network=who, epoch=epoch, name=valid[i]["name"], **judge(model, valid[i], cfg)) for i in chosen]
        self.rows += new
        if not isinstance(model, float):
            self.rooms = [valid[i]["name"] for i in ROOMS]
            self.tiles[f"{who} {epoch}".strip()] = np.hstack(
                [
                    nyu_levels(
                        cv2.resize(
                            answer(model, valid[i], cfg)[0, 0].numpy(), a.size[::-1], interpolation=cv2.INTER_AREA
                        )
                    )
                    for i in ROOMS
                ]
            )
        print(
            who,
            epoch,
            {k: round(float(np.mean([float(r[k]) for r in new])), 4) for k in list(new[0])[3:]},
            f"{time.time() - began:.0f} s",
            flush=True,
        )

    def load(self, folder):
        "All but the answers of the package's weights, from files written before."
        with open(folder / "fig41.csv", encoding="utf-8") as f:
            self.rows = [r for r in csv.DictReader(f) if r["network"] != "shipped"]
        with Image.open(folder / "fig41.png") as png:
            self.rooms, names = (json.loads(png.info[k]) for k in ("columns", "rows"))
            self.tiles = {n: t for n, t in zip(names, np.split(np.asarray(png), len(names))) if n != "shipped"}

    def write(self, out):
        write_log(out / "fig41.csv", self.rows)
        info, png = PngInfo(), io.BytesIO()
        for k, v in dict(columns=self.rooms, rows=list(self.tiles)).items():
            info.add_text(k, json.dumps(v))
        Image.fromarray(np.vstack(list(self.tiles.values()))).save(png, "PNG", optimize=True, pnginfo=info)
        atomic_write(out / "fig41.png", png.getvalue())


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(epochs=5, bs=5, width=12, images=100, seed=0).items():
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--size", type=int, nargs=2, default=(120, 160), metavar=("H", "W"))
    p.add_argument("--runs", type=Path, default=Path("runs/fig41"), help="where the checkpoints go")
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument(
        "--shipped",
        action="store_true",
        help="train nothing; ask the twin of the weights in the package again and keep the rest",
    )
    a = p.parse_args()
    if a.epochs < 2 or a.images < 1:
        p.error("epochs should be at least 2, images at least 1")
    a.out.mkdir(parents=True, exist_ok=True)
    table, valid = Table(a), None
    if a.shipped:
        table.load(a.out)
    for name, cfg in {} if a.shipped else recipes(a.epochs, a.bs, a.width, a.size).items():
        cfg = replace(cfg, out=str(a.runs / name))
        train, valid = make_datasets(cfg)
        if not table.rows:
            for who, metres in dict(
                nothing=0.0, mean=float(np.mean([train[i]["depth"].mean() for i in range(0, len(train), 5)]))
            ).items():
                table.add(who, "", metres, valid, cfg)
        for epoch in (1, a.epochs):
            run = fit(cfg, train, None, resume=epoch > 1, progress=False, stop_after=epoch * (len(train) // cfg.bs))
            table.add(name, epoch, run.averaged() if epoch > 1 else run.model.eval(), valid, cfg)
    valid = valid or make_datasets(TrainConfig())[1]
    model = DepthUNet.from_pretrained("twin")
    table.add(
        "shipped", "", model, valid, TrainConfig(height=model.config["height"], width_px=model.config["width_px"])
    )
    table.write(a.out)


if __name__ == "__main__":
    main()
