"Evaluation: perfect for the truth, equal to `depth_metrics` under every protocol, the same on every kind of data set."
import json
import math

import cv2
import numpy as np
import pytest

from dogdepth.depth import NYU_CAMERA, write_depth
from dogdepth.evaluate import ByDistance, FixedDepth, evaluate
from dogdepth.metrics import METRICS, average_metrics, crop_mask, depth_metrics
from dogdepth.predict import Prediction

PROTOCOL = {"split", "crop", "cap", "average", "align", "flip", "input_size", "weights"}


def items(n=4, h=48, w=64, seed=0):
    "Frames with holes, the first with few readings."
    r = np.random.default_rng(seed)
    out = []
    for i in range(n):
        d = r.uniform(0.5, 9.5, (h, w)).astype(np.float32)
        d[r.random((h, w)) < 0.2] = 0
        if i == 0:
            d[5:] = 0
        out.append(dict(image=r.integers(0, 256, (h, w, 3), dtype=np.uint8), depth=d, camera=NYU_CAMERA.resize(h, w), scene=f"room_{i // 2}", name=f"room_{i // 2}/{i}"))
    return out


class Noisy:
    "Knows the truth and answers `f` of it."
    weights, size = "noisy", (240, 320)

    def __init__(self, frames, f=lambda d: d):
        self.frames, self.f, self.calls = frames, f, []

    def predict(self, img, camera=None, flip=False):
        self.calls.append((camera, flip))
        (it,) = (i for i in self.frames if i["image"] is img)
        return Prediction(self.f(np.where(it["depth"] > 0, it["depth"], 3)).astype(np.float32), camera, img)


def wrong(d):
    return d * np.exp(0.3 * np.random.default_rng(int(d.sum())).standard_normal(d.shape))


def test_the_truth_scores_perfectly():
    ds = items()
    ev = evaluate(Noisy(ds), ds, progress=False)
    assert all(ev.summary[k] == (1 if k.startswith("delta") else 0) for k in METRICS)
    assert ev.summary["n"] == sum((i["depth"] > 0).sum() for i in ds)


@pytest.mark.parametrize("average", ["image", "pixel"])
@pytest.mark.parametrize("align", [None, "median", "affine"])
@pytest.mark.parametrize("cap", [(1e-3, 10.0), (1.0, 5.0)])
def test_same_as_depth_metrics_of_the_whole_batch(average, align, cap):
    ds = items()
    ev = evaluate(Noisy(ds, wrong), ds, average=average, align=align, cap=cap, progress=False)
    p = np.stack([wrong(np.where(i["depth"] > 0, i["depth"], 3)).astype(np.float32) for i in ds])[:, None]
    want = depth_metrics(p, np.stack([i["depth"] for i in ds])[:, None], average=average, align=align, cap=cap)
    assert list(ev.summary) == list(want)
    for k in want:
        assert ev.summary[k] == pytest.approx(want[k], rel=1e-9), k
    for i, row in zip(ds, ev.images):
        assert (row["name"], row["scene"]) == (i["name"], i["scene"])
    one = depth_metrics(p[2, 0], ds[2]["depth"], align=align, cap=cap)
    assert {k: ev.images[2][k] for k in one} == pytest.approx(one)


@pytest.mark.parametrize("size,crop,used", [((480, 640), "auto", "eigen"), ((480, 640), None, None), ((48, 64), "auto", None)])
def test_crop(size, crop, used):
    ds = items(1, *size)
    ds[0]["depth"][:] = 2
    f = lambda d: np.where(crop_mask((480, 640)), d, 9) if size == (480, 640) else d  # noqa: E731
    ev = evaluate(Noisy(ds, f), ds, crop=crop, progress=False)
    assert ev.protocol["crop"] == used
    assert (ev.summary["abs_rel"] == 0) == (used == "eigen" or size == (48, 64))


def test_mixed_sizes():
    ds = items(2) + items(1, 480, 640, seed=1)
    ev = evaluate(Noisy(ds), ds, progress=False)
    assert ev.protocol["crop"] == "auto" and ev.summary["abs_rel"] == 0


def test_protocol_and_json(tmp_path):
    ds = items()
    ds[1]["depth"][:] = 0  # nothing to score: nan in the row, no vote in the mean
    ev = evaluate(Noisy(ds, wrong), ds, average="pixel", align="median", flip=True, progress=False)
    ev.write(tmp_path / "a.json")
    d = json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert list(d) == ["protocol", "summary", "images"] and set(d["protocol"]) >= PROTOCOL
    assert d["protocol"] == dict(split=None, crop=None, cap=[1e-3, 10.0], average="pixel", align="median", flip=True, input_size=[240, 320], weights="noisy", data="list", frames=4)
    assert list(d["summary"]) == [*METRICS, "n"] and len(d["images"]) == 4
    assert d["images"][1]["abs_rel"] is None and d["images"][1]["n"] == 0
    assert d["summary"]["rmse"] == pytest.approx(average_metrics(ev.images, "pixel")["rmse"]) and math.isfinite(d["summary"]["rmse"])
    assert ev.ranked() == sorted([0, 2, 3], key=lambda i: ev.images[i]["abs_rel"])
    assert ev.ranked("delta1") == sorted([0, 2, 3], key=lambda i: -ev.images[i]["delta1"])
    text = str(ev)
    for word in ("AbsRel", "noisy", f"{ev.summary['abs_rel']:.3f}", "crop None", "averaged by pixel", "align median", "flip True", "0.001 to 10 m", "240x320", "4 frames"):
        assert word in text, word
    assert not list(tmp_path.glob("*.part"))


def test_flip_and_camera_reach_the_predictor():
    ds = items(2)
    p = Noisy(ds)
    evaluate(p, ds, progress=False)
    evaluate(p, ds, flip=True, progress=False)
    assert p.calls == [(i["camera"], f) for f in (False, True) for i in ds]


def test_each_sees_every_frame():
    ds, seen = items(), []
    evaluate(Noisy(ds), ds, progress=False, each=lambda item, depth, row: seen.append((item["name"], depth.shape, row["n"])))
    assert seen == [(i["name"], (48, 64), int((i["depth"] > 0).sum())) for i in ds]


def test_errors():
    ds = items()
    for kw, match in ((dict(crop="garg"), "crop should be one of"), (dict(average="mean"), "average should be one of"), (dict(align="scale"), "align should be one of"), (dict(cap=(10, 1)), "cap should be")):
        p = Noisy(ds)
        with pytest.raises(ValueError, match=match):
            evaluate(p, ds, progress=False, **kw)
        assert not p.calls  # refused before any work
    with pytest.raises(ValueError, match="data set is empty"):
        evaluate(Noisy(ds), [], progress=False)
    with pytest.raises(ValueError, match=r"room_0/0: the prediction is 24x64, the truth 48x64"):
        evaluate(Noisy(ds, lambda d: d[::2]), ds, progress=False)
    with pytest.raises(ValueError, match="holds .* nan or infinite"):
        evaluate(Noisy(ds, lambda d: d * np.nan), ds, progress=False)
    with pytest.raises(ValueError, match="480x640 and of nothing else"):
        evaluate(Noisy(ds), ds, crop="eigen", progress=False)


# --- baselines, distance

def test_fixed_depth():
    d = np.linspace(1, 3, 6, dtype=np.float32).reshape(2, 3)
    img = np.zeros((20, 30, 3), np.uint8)
    r = FixedDepth(d).predict(img)
    assert r.depth_m.shape == (20, 30) and (r.depth_m == cv2.resize(d, (30, 20))).all()
    both = FixedDepth(d).predict(img, flip=True).depth_m
    assert np.allclose(both, both[:, ::-1])
    ds = items()
    ev = evaluate(FixedDepth(np.full((2, 2), 3.0), "three metres"), ds, progress=False)
    assert ev.protocol["weights"] == "three metres" and ev.protocol["input_size"] is None and "network input none" in str(ev)
    t = ds[2]["depth"][ds[2]["depth"] > 0].astype(float)
    assert ev.images[2]["abs_rel"] == pytest.approx(np.mean(abs(3 - t) / t))


def test_by_distance():
    ds = items()
    near_far = ByDistance((0, 2, 5, 10))
    ev = evaluate(Noisy(ds, wrong), ds, progress=False, each=near_far)
    rows = near_far.table()
    assert [(r["near_m"], r["far_m"]) for r in rows] == [(0, 2), (2, 5), (5, 10)]
    t = np.concatenate([i["depth"].ravel() for i in ds]).astype(float)
    p = np.clip(np.concatenate([wrong(np.where(i["depth"] > 0, i["depth"], 3)).astype(np.float32).ravel() for i in ds]).astype(float), 1e-3, 10)
    for r in rows:
        m = (t > r["near_m"]) & (t <= r["far_m"])
        assert r["share"] == pytest.approx(m.sum() / (t > 0).sum())
        assert r["mae_m"] == pytest.approx(abs(p - t)[m].mean())
        assert r["abs_rel"] == pytest.approx((abs(p - t)[m] / t[m]).mean())
        assert r["log_bias"] == pytest.approx(np.log(p[m] / t[m]).mean())
    pooled = average_metrics(ev.images, "pixel")["abs_rel"]
    assert sum(r["share"] * r["abs_rel"] for r in rows) == pytest.approx(pooled)  # the bins add up to the whole
    rim = ByDistance()
    rim(dict(depth=np.full((480, 640), 2.0, np.float32)), np.full((480, 640), 2.0))
    assert rim.sums[:, 0].sum() == 426 * 560  # the same pixels as in the table
    edge = ByDistance((0, 2, 5, 10))
    edge(dict(depth=np.full((2, 2), 2.0, np.float32)), np.full((2, 2), 2.0))
    assert [r["far_m"] for r in edge.table()] == [2]  # a bin owns its far edge


# --- every kind of data set

class Twice:
    "Depth from the picture itself: brightness of the red channel, in decimetres."
    weights = "twice"

    def predict(self, img, camera=None, flip=False):
        return Prediction(np.maximum(img[..., 0] / 10, 0.1).astype(np.float32), camera, img)


def readable(n=3, h=24, w=32):
    "Photos that tell their depth: red is 10 levels a metre."
    for i in range(n):
        d = np.tile(np.linspace(1, 5 + i, w, dtype=np.float32), (h, 1))
        yield np.repeat(np.rint(d * 10).astype(np.uint8)[..., None], 3, 2), d


def test_nyu_folder(tmp_path):
    from dogdepth.nyu import NYUDepth
    rows = []
    (tmp_path / "data/nyu2_test").mkdir(parents=True)
    for i, (img, d) in enumerate(readable()):
        names = [f"data/nyu2_test/{i:05d}_{k}.png" for k in ("colors", "depth")]
        cv2.imwrite(str(tmp_path / names[0]), img[..., ::-1])
        write_depth(tmp_path / names[1], d)
        rows.append(",".join(names))
    (tmp_path / "data/nyu2_test.csv").write_text("\n".join(rows) + "\n")
    ev = evaluate(Twice(), NYUDepth(tmp_path, split="test"), progress=False)
    assert ev.summary["abs_rel"] < 0.03 and ev.protocol["split"] == "test" and ev.protocol["data"] == "NYUDepth"
    assert len({r["name"] for r in ev.images}) == 3


def test_own_folder(tmp_path):
    from dogdepth.nyu import FolderDepth
    for i, (img, d) in enumerate(readable()):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), img[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        write_depth(tmp_path / f"{i}.png", d)
    ev = evaluate(Twice(), FolderDepth(tmp_path, rgb="*.jpg", depth="*.png"), progress=False)
    assert len(ev.images) == 3 and ev.summary["abs_rel"] < 0.05


def test_rendered_rooms():
    from dogdepth.rooms import Rooms
    ds = Rooms(2, 48, 64)
    ev = evaluate(FixedDepth(ds[1]["depth"]), ds, progress=False)
    assert ev.images[1]["abs_rel"] == 0 < ev.images[0]["abs_rel"]


def test_real_frames(data):
    "The bar: a constant on real validation frames scores where it should."
    from dogdepth.nyu import NYUDepth
    ds = NYUDepth(data / "nyu", split="val")
    part = [ds[i] for i in range(0, len(ds), 15)]
    ev = evaluate(FixedDepth(np.full((2, 2), 2.7)), part, progress=False)
    assert ev.protocol["crop"] == "eigen" and 0.25 < ev.summary["abs_rel"] < 0.6
    assert evaluate(Noisy(part), part, progress=False).summary["abs_rel"] == 0


def test_the_default_weights_do_what_their_card_says(data):
    "All 105 validation frames: the row of the model card, to the last printed digit, and README's three numbers with it."
    import re
    from pathlib import Path

    from dogdepth.attention import WEIGHTS
    from dogdepth.nyu import NYUDepth
    from dogdepth.predict import Predictor
    s = evaluate(Predictor(), NYUDepth(data / "nyu", split="val"), progress=False).summary
    card = (WEIGHTS / "default" / "README.md").read_text(encoding="utf-8")
    row = [float(v) for v in re.search(r"\| as it is \| (.*) \|", card)[1].split("|")]
    ours = [s[k] for k in ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3")]
    assert ours == pytest.approx(row, rel=2e-3, abs=6e-4)
    assert s["abs_rel"] < 0.175 and s["rmse"] < 0.6 and s["delta1"] > 0.735
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [float(v) for v in re.search(r"\| default weights \| ([\d.]+) \| ([\d.]+) m \| ([\d.]+) \|", readme).groups()] == [row[0], row[1], row[4]]
