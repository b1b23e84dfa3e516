"Evaluation: perfect for the truth, equal to `depth_metrics` under every protocol, the same on every kind of data set."

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from dogdepth.depth import NYU_CAMERA, valid_mask, write_depth
from dogdepth.evaluate import (
    PROTOCOLS,
    Evaluation,
    FixedDepth,
    FloorPlane,
    bootstrap_interval,
    evaluate,
    evaluate_protocols,
    t_interval,
)
from dogdepth.metrics import METRICS, average_metrics, crop_mask, depth_metrics, floor_plane
from dogdepth.shape import boundary_f1, cloud_distances, depth_clouds, fscore
from dogdepth.predict import Prediction
from dogdepth.rooms import render_room
from dogdepth.sets import kind_of, learned_rooms, seen_frames
from dogdepth.tables import (
    ByDistance,
    StdSample,
    by_kind,
    fov_scale,
    mean_of,
    scale_spread,
    seeds_table,
    shape_scores,
    std_report,
)

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
        out.append(
            dict(
                image=r.integers(0, 256, (h, w, 3), dtype=np.uint8),
                depth=d,
                camera=NYU_CAMERA.resize(h, w),
                scene=f"room_{i // 2}",
                name=f"room_{i // 2}/{i}",
            )
        )
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


@pytest.mark.parametrize(
    "size,crop,used", [((480, 640), "auto", "eigen"), ((480, 640), None, None), ((48, 64), "auto", None)]
)
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
    assert d["protocol"] == dict(
        split=None,
        split_by=None,
        split_seed=None,
        crop=None,
        cap=[1e-3, 10.0],
        average="pixel",
        align="median",
        flip=True,
        input_size=[240, 320],
        weights="noisy",
        data="list",
        frames=4,
    )
    assert list(d["summary"]) == [*METRICS, "n"] and len(d["images"]) == 4
    assert d["images"][1]["abs_rel"] is None and d["images"][1]["n"] == 0
    assert d["summary"]["rmse"] == pytest.approx(average_metrics(ev.images, "pixel")["rmse"]) and math.isfinite(
        d["summary"]["rmse"]
    )
    assert ev.ranked() == sorted([0, 2, 3], key=lambda i: ev.images[i]["abs_rel"])
    assert ev.ranked("delta1") == sorted([0, 2, 3], key=lambda i: -ev.images[i]["delta1"])
    text = str(ev)
    for word in (
        "AbsRel",
        "noisy",
        f"{ev.summary['abs_rel']:.3f}",
        "crop None",
        "averaged by pixel",
        "align median",
        "flip True",
        "0.001 to 10 m",
        "240x320",
        "4 frames",
    ):
        assert word in text, word
    assert not list(tmp_path.glob("*.part"))


def test_ranked_knows_which_way_is_better():
    base = dict.fromkeys((*METRICS, "log_bias", "boundary_f1", "boundary_f1_8", "f_5cm"), 0.5) | dict(n=9)
    rows = [base | dict(name=str(i)) for i in range(4)]
    ev = Evaluation(rows, {}, {})
    up = [0.2, 0.9, 0.4, 0.6]
    for key in (*METRICS, "boundary_f1", "boundary_f1_8", "f_5cm"):
        for r, v in zip(rows, up):
            r[key] = v
        more = key.startswith(("delta", "boundary_f1", "f_"))
        assert ev.ranked(key) == ([1, 3, 2, 0] if more else [0, 2, 3, 1]), key
    for r, v in zip(rows, (-0.5, 0.1, 0.3, -0.2)):
        r["log_bias"] = v
    assert ev.ranked("log_bias") == [1, 3, 2, 0]  # by its size: too near is as bad as too far
    rows[1]["f_5cm"] = math.nan  # a frame without a value, wherever it stands, is no best and no worst
    del rows[3]["f_5cm"]
    assert ev.ranked("f_5cm") == [2, 0]
    rows[2]["n"] = 0
    assert ev.ranked("f_5cm") == [0] and ev.ranked("abs_rel") == [0, 3, 1]
    for odd in ("f_20cm", "absrel", "name", "n", "coverage"):
        with pytest.raises(
            ValueError,
            match=f"cannot tell best from worst by '{odd}': expected one of abs_rel, .*delta3, log_bias, boundary_f1, boundary_f1_8, f_5cm$",
        ):
            ev.ranked(odd)
    assert Evaluation([], {}, {}).ranked() == []


def test_flip_and_camera_reach_the_predictor():
    ds = items(2)
    p = Noisy(ds)
    evaluate(p, ds, progress=False)
    evaluate(p, ds, flip=True, progress=False)
    assert p.calls == [(i["camera"], f) for f in (False, True) for i in ds]


def test_each_sees_every_frame():
    ds, seen = items(), []
    evaluate(
        Noisy(ds),
        ds,
        progress=False,
        each=lambda item, prediction, row: seen.append((item["name"], prediction.depth_m.shape, row["n"])),
    )
    assert seen == [(i["name"], (48, 64), int((i["depth"] > 0).sum())) for i in ds]


def test_errors():
    ds = items()
    for kw, match in (
        (dict(crop="garg"), "crop should be one of"),
        (dict(average="mean"), "average should be one of"),
        (dict(align="scale"), "align should be one of"),
        (dict(cap=(10, 1)), "cap should be"),
    ):
        p = Noisy(ds)
        with pytest.raises(ValueError, match=match):
            evaluate(p, ds, progress=False, **kw)
        assert not p.calls  # refused before any work
    with pytest.raises(ValueError, match="data set is empty"):
        evaluate(Noisy(ds), [], progress=False)
    for path in ("nyu", Path("nyu")):
        with pytest.raises(ValueError, match="takes a data set, got the path 'nyu'"):
            evaluate(Noisy(ds), path, progress=False)
    with pytest.raises(ValueError, match=r"room_0/0: the prediction is 24x64, the truth 48x64"):
        evaluate(Noisy(ds, lambda d: d[::2]), ds, progress=False)
    with pytest.raises(ValueError, match="holds .* nan or infinite"):
        evaluate(Noisy(ds, lambda d: d * np.nan), ds, progress=False)
    with pytest.raises(ValueError, match="480x640 and of nothing else"):
        evaluate(Noisy(ds), ds, crop="eigen", progress=False)


def test_numpys_numbers_become_json(tmp_path):
    "What `each` returns and what `cap` holds may be numpy's or torch's."
    import torch

    ds = items()
    each = lambda item, p, row: dict(
        far=p.depth_m.max(),
        count=np.int64(3),
        sure=np.bool_(True),
        where=np.array([1.5, np.nan], np.float32),
        deep=dict(a=(torch.tensor(2.5), Path("x/y"))),
        bad=np.float32("inf"),
    )  # noqa: E731
    ev = evaluate(Noisy(ds), ds, each=each, cap=(np.float32(0.5), np.float32(10)), progress=False)
    ev.more["at"] = np.arange(3)
    ev.write(tmp_path / "e.json")
    d = json.loads((tmp_path / "e.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert d["protocol"]["cap"] == [0.5, 10] and d["at"] == [0, 1, 2]
    row = d["images"][2]
    assert row["far"] == pytest.approx(float(np.where(ds[2]["depth"] > 0, ds[2]["depth"], 3).max()))
    assert {k: row[k] for k in ("count", "sure", "where", "deep", "bad")} == dict(
        count=3, sure=True, where=[1.5, None], deep=dict(a=[2.5, "x/y"]), bad=None
    )


class Plain:
    "Predictors that are wrong in one way each."

    def __init__(self, answer):
        self.answer = answer

    def predict(self, img, camera=None):
        return self.answer


@pytest.mark.parametrize(
    "predictor,got",
    [
        ("default", "'default'"),
        (None, "None"),
        (Noisy, "class"),
        (lambda img: img, "function"),
        (dict(predict=1), "predict"),
    ],
)
def test_something_else_than_a_predictor(predictor, got):
    with pytest.raises(
        ValueError,
        match=rf"evaluate takes a predictor, an object with predict\(img, camera\) -> \.depth_m, got .*{got}.*: pass Predictor\('default'\)",
    ):
        evaluate(predictor, items(1), progress=False)


def test_what_comes_in_is_checked():
    ds = items(2)
    for odd, match in (
        (np.ones((48, 64)), "room_0/0: predict should return a Prediction, .* got a ndarray: wrap it"),
        (None, "got a NoneType"),
        (dict(depth_m=1), "got a dict"),
    ):
        with pytest.raises(ValueError, match=match):
            evaluate(Plain(odd), ds, progress=False)
    with pytest.raises(ValueError, match="with a length or a list of items, got a generator: pass list"):
        evaluate(Noisy(ds), (i for i in ds), progress=False)
    with pytest.raises(ValueError, match="protocols should name one way of counting or more"):
        evaluate_protocols(Noisy(ds), ds, {}, progress=False)
    p = Plain(None)
    for call in (lambda: evaluate(p, ds, flip=True, progress=False), lambda: evaluate_protocols(p, ds, progress=False)):
        with pytest.raises(
            ValueError, match=r"flip=True asks for predict\(img, camera, flip=True\), which Plain does not take"
        ):
            call()
    with pytest.raises(ValueError, match=r"frame 1 should be a dict with image and depth .*got \['depth', 'name'\]"):
        evaluate(Noisy(ds), [ds[0], dict(depth=1, name="x")], progress=False)
    with pytest.raises(ValueError, match="frame 0 should be a dict .*got tuple"):
        evaluate(Noisy(ds), [(1, 2)], progress=False)
    with pytest.raises(ValueError, match="room_0/1: the prediction holds 1 nan or infinite values"):
        spoil = lambda d: np.where(
            (np.arange(d.size) == np.flatnonzero(ds[1]["depth"])[0]).reshape(d.shape)
            & (d == np.where(ds[1]["depth"] > 0, ds[1]["depth"], 3)).all(),
            np.nan,
            d,
        )  # noqa: E731
        evaluate(Noisy(ds, spoil), ds, progress=False)


def test_items_without_names_get_numbers():
    ds = [{k: i[k] for k in ("image", "depth")} for i in items(3)]
    seen = []
    ev = evaluate(Noisy(ds), ds, progress=False, each=lambda item, p, row: seen.append(item))
    assert [(r["name"], r["scene"]) for r in ev.images] == [("00000", None), ("00001", None), ("00002", None)]
    assert ev.summary["abs_rel"] == 0 and [i["camera"] for i in seen] == [None] * 3 and "name" not in ds[0]
    assert len(bootstrap_interval(ev, n=10)) == 2
    got = evaluate(
        FixedDepth(np.full((2, 2), 3.0)), ds, progress=False, each=shape_scores
    )  # the prediction's camera stands in
    assert 0 < got.images[0]["f_20cm"] < 1


def kaggle(root, scenes=("bedroom_0014", "bedroom_0004", "kitchen_0052", "den_0001")):
    "A training list of tiny frames under the names of rooms."
    from dogdepth.layout import write_nyu
    from dogdepth.rooms import Rooms

    write_nyu([r | dict(scene=s) for r, s in zip(Rooms(len(scenes), 48, 64), scenes)], root)
    (root / "val_scenes.txt").write_text("bedroom_0014\nkitchen_0052\n")
    return root


def test_the_protocol_says_how_the_split_was_made(tmp_path):
    from dogdepth.nyu import NYUDepth
    from dogdepth.archive import pack

    root, flat = kaggle(tmp_path), FixedDepth(np.full((2, 2), 3.0))
    made = lambda ds: (lambda e: ({k: e.protocol.get(k) for k in ("split", "split_by", "split_seed")}, str(e)))(
        evaluate(flat, ds, progress=False)
    )  # noqa: E731
    for how, want, said in (
        (dict(split="val"), ("val", "scene", None), "split val by scene;"),
        (dict(split="val", split_by="frame", seed=7), ("val", "frame", 7), "split val by frame (seed 7);"),
        (dict(split="train"), ("train", "scene", None), "split train by scene;"),
        (dict(split="all"), ("all", None, None), "split all;"),
    ):
        ds = NYUDepth(root, **how)
        got, text = made(ds)
        assert tuple(got.values()) == want and said in text
        from dogdepth.archive import PackedDepth

        packed = PackedDepth(pack(ds, tmp_path / f"{want[0]}-{want[1]}.h5", progress=False))
        got, text = made(packed)
        assert (
            tuple(got.values()) == (*want[:2], None)
            and f"split {want[0]}{' by ' + want[1] if want[1] else ''};" in text
        )
        assert evaluate(flat, packed, progress=False).protocol["source"].startswith("NYUDepth(")
    listed = evaluate(
        flat, PackedDepth(pack([NYUDepth(root, "all")[0]], tmp_path / "l.h5", progress=False)), progress=False
    ).protocol
    assert listed["split"] is None and len(listed["source"]) <= 200


def test_splits_made_otherwise_are_not_alike():
    def run(**change):
        ev = made_up([0.1, 0.2, 0.3], ["a_1", "b_1", "c_1"])
        ev.protocol |= dict(split_by="scene") | change
        return ev

    with pytest.raises(ValueError, match="measured alike, here they differ: split_by 'scene' and 'frame'$"):
        bootstrap_interval(run(), other=run(split_by="frame"))
    with pytest.raises(ValueError, match="here they differ: split 'val' and 'train'$"):
        bootstrap_interval(run(), other=run(split="train"))
    assert bootstrap_interval(run(), other=run(split=None, split_by=None)) == (
        0,
        0,
    )  # a list does not know: no claim, no refusal
    with pytest.raises(ValueError, match="were not measured alike"):
        seeds_table({"a": [run(), run(split_by="frame")]})


def test_interval_arguments():
    ev = made_up([0.1, 0.2, 0.3], ["a_1", "b_1", "c_1"])
    for level in (95, 0, 1, -0.5):
        for call in (lambda: bootstrap_interval(ev, level=level), lambda: t_interval([1, 2, 3], level)):
            with pytest.raises(ValueError, match=f"level should lie between 0 and 1, got {level}"):
                call()
    for n in (0, -3, 2.5):
        with pytest.raises(ValueError, match=f"n is how often rooms are drawn again, 1 or more, got {n}"):
            bootstrap_interval(ev, n=n)


# --- what the weights learned from


def test_frames_that_the_weights_learned_from_are_known_by_their_rooms(tmp_path):
    from dogdepth.nyu import NYUDepth
    from dogdepth.archive import PackedDepth, pack
    from dogdepth.rooms import Rooms

    root = kaggle(tmp_path)
    names = ("default", "twin", "runs/mine")
    count = lambda ds: [seen_frames(evaluate(FixedDepth(np.full((2, 2), 3.0), w), ds, progress=False)) for w in names]  # noqa: E731
    everything = NYUDepth(root, "all")
    assert count(everything) == [3, 1, 0]  # two held out, one learned from by both, one that is not NYU's
    assert count(NYUDepth(root, "val")) == [2, 0, 0] and count(NYUDepth(root, "train")) == [1, 1, 0]
    assert count(PackedDepth(pack(everything, tmp_path / "p.h5", progress=False))) == [3, 1, 0]
    assert count(Rooms(2, 48, 64)) == count([{k: i[k] for k in ("image", "depth")} for i in items(2)]) == [0, 0, 0]
    ev = evaluate(
        FixedDepth(np.full((2, 2), 3.0), "default"), [everything[0] | dict(scene="bedroom_0014b")], progress=False
    )
    assert seen_frames(ev) == 1  # a part of that room
    ev.protocol["split"] = "test"
    assert seen_frames(ev) == 0


def test_learned_rooms_are_those_of_the_list(data):
    from dogdepth.nyu import NYUDepth
    from dogdepth.layout import place

    train, val = ({place(s) for s in NYUDepth(data / "nyu", split=k).scenes} for k in ("train", "val"))
    assert learned_rooms("twin") == train and learned_rooms() == train | val and learned_rooms("x") == set()


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
    assert (
        ev.protocol["weights"] == "three metres"
        and ev.protocol["input_size"] is None
        and "network input none" in str(ev)
    )
    t = ds[2]["depth"][ds[2]["depth"] > 0].astype(float)
    assert ev.images[2]["abs_rel"] == pytest.approx(np.mean(abs(3 - t) / t))


def test_by_distance():
    ds = items()
    near_far = ByDistance((0, 2, 5, 10))
    ev = evaluate(Noisy(ds, wrong), ds, progress=False, each=near_far)
    rows = near_far.table()
    assert [(r["near_m"], r["far_m"]) for r in rows] == [(0, 2), (2, 5), (5, 10)]
    t = np.concatenate([i["depth"].ravel() for i in ds]).astype(float)
    p = np.clip(
        np.concatenate([wrong(np.where(i["depth"] > 0, i["depth"], 3)).astype(np.float32).ravel() for i in ds]).astype(
            float
        ),
        1e-3,
        10,
    )
    for r in rows:
        m = (t > r["near_m"]) & (t <= r["far_m"])
        assert r["share"] == pytest.approx(m.sum() / (t > 0).sum())
        assert r["mae_m"] == pytest.approx(abs(p - t)[m].mean())
        assert r["abs_rel"] == pytest.approx((abs(p - t)[m] / t[m]).mean())
        assert r["log_bias"] == pytest.approx(np.log(p[m] / t[m]).mean())
    pooled = average_metrics(ev.images, "pixel")["abs_rel"]
    assert sum(r["share"] * r["abs_rel"] for r in rows) == pytest.approx(pooled)  # the bins add up to the whole
    rim = ByDistance()
    rim(dict(depth=np.full((480, 640), 2.0, np.float32)), Prediction(np.full((480, 640), 2.0), None, None))
    assert rim.sums[:, 0].sum() == 426 * 560  # the same pixels as in the table
    edge = ByDistance((0, 2, 5, 10))
    edge(dict(depth=np.full((2, 2), 2.0, np.float32)), Prediction(np.full((2, 2), 2.0), None, None))
    assert [r["far_m"] for r in edge.table()] == [2]  # a bin owns its far edge


def test_by_distance_of_the_prediction():
    "A law without bias, whatever is predicted: sorted by the truth it seems to play safe, sorted by the prediction it does not."
    r = np.random.default_rng(0)
    p = r.choice([1.0, 2.0, 4.0], (200, 300))
    t = p * np.exp(r.normal(0, 0.35, p.shape))
    got = {}
    for by in ("truth", "prediction"):
        d = ByDistance((0, 1.5, 3, 8), by=by)
        d(dict(depth=t.astype(np.float32)), Prediction(p.astype(np.float32), None, None))
        got[by] = d.table()
        assert sum(x["share"] for x in got[by]) == pytest.approx(1)
    for k, (x, at) in enumerate(zip(got["prediction"], (1, 2, 4))):
        m = (p == at) & (t <= 10)
        assert x["share"] == pytest.approx(m.sum() / (t <= 10).sum())
        assert x["log_bias"] == pytest.approx(np.log(p / t)[m].mean(), abs=1e-6) and abs(x["log_bias"]) < 0.01, k
        assert x["abs_rel"] == pytest.approx((abs(p - t) / t)[m].mean(), abs=1e-6)
    assert got["truth"][0]["log_bias"] > 0.05 and got["truth"][2]["log_bias"] < -0.05
    with pytest.raises(ValueError, match="by should be 'truth' or 'prediction', got 'pred'"):
        ByDistance(by="pred")


def test_by_distance_honours_its_cap():
    ds = items()
    part = ByDistance((0, 2, 5, 10), cap=(1.0, 5.0))
    ev = evaluate(Noisy(ds, wrong), ds, progress=False, each=part, cap=(1.0, 5.0))
    rows = part.table()
    assert [r["far_m"] for r in rows] == [2, 5] and part.sums[:, 0].sum() == ev.summary["n"]
    assert sum(r["share"] * r["abs_rel"] for r in rows) == pytest.approx(
        average_metrics(ev.images, "pixel")["abs_rel"]
    )  # truth left out and prediction clamped as there
    beyond = ByDistance((1, 2, 5), cap=(1e-3, 20.0))
    beyond(dict(depth=np.array([[0.5, 15.0]], np.float32)), Prediction(np.array([[0.5, 30.0]]), None, None))
    assert [(r["far_m"], r["mae_m"]) for r in beyond.table()] == [
        (2, 0),
        (5, 5),
    ]  # the outer bins take what lies beyond; 30 m are clamped to 20
    for bad, match in ((dict(cap=(5, 1)), "cap should be"), (dict(crop="garg"), "crop should be one of")):
        with pytest.raises(ValueError, match=match):
            ByDistance(**bad)


# --- protocols side by side


def test_protocols_side_by_side_are_the_single_ones():
    ds = items()
    p = Noisy(ds, wrong)
    ways = PROTOCOLS | {"no crop asked": dict(crop=None), "cap": dict(cap=(1.0, 5.0), average="pixel")}
    evs = evaluate_protocols(p, ds, ways, progress=False)
    assert list(evs) == list(ways)
    assert len(p.calls) == 2 * len(ds)  # each photo once as it is and once with its mirror image, however many rows
    for k, how in ways.items():
        one = evaluate(Noisy(ds, wrong), ds, progress=False, **how)
        assert evs[k].summary == one.summary and evs[k].images == one.images and evs[k].protocol == one.protocol, k
    assert evs["with the mirrored photo"].protocol["flip"] and not evs["as usual"].protocol["flip"]
    assert (
        len(
            {
                round(e.summary["rmse"], 9)
                for k, e in evs.items()
                if k not in ("with the mirrored photo", "whole frame, border included", "no crop asked")
            }
        )
        == 7
    )  # each way counts otherwise


def test_each_row_scores_its_own_prediction():
    class Mirror(Noisy):
        def predict(self, img, camera=None, flip=False):
            p = super().predict(img, camera, flip)
            return Prediction(p.depth_m * (1.1 if flip else 1), camera, img)

    ds = items()
    seen = []
    p = Mirror(ds)
    evs = evaluate_protocols(
        p,
        ds,
        {"plain": {}, "flip": dict(flip=True, cap=(1e-3, 20.0))},
        progress=False,
        each=lambda item, pred, row: seen.append(row["abs_rel"]),
    )
    assert (
        evs["plain"].summary["abs_rel"] == 0
        and evs["flip"].summary["abs_rel"] == pytest.approx(0.1)
        and seen == [0] * 4
    )
    assert p.calls == [(i["camera"], f) for i in ds for f in (False, True)]


def test_what_each_returns_joins_the_row_of_the_first_protocol():
    ds = items()
    evs = evaluate_protocols(
        Noisy(ds),
        ds,
        {"a": {}, "b": dict(align="median")},
        progress=False,
        each=lambda item, p, row: (
            dict(far=float(item["depth"].max())) if item["name"][-1] != "3" else dict(far=math.nan)
        ),
    )
    assert [r["far"] for r in evs["a"].images[:3]] == [float(i["depth"].max()) for i in ds[:3]] and "far" not in evs[
        "b"
    ].images[0]
    assert mean_of(evs["a"], ["far"])["far"] == pytest.approx(
        np.mean([i["depth"].max() for i in ds[:3]])
    )  # nan has no vote
    assert json.dumps(evs["a"].to_dict())


def test_protocol_errors():
    ds = items(1)
    with pytest.raises(ValueError, match=r"protocol 'odd' has \['mirror'\]: expected some of \['align'"):
        evaluate_protocols(Noisy(ds), ds, {"odd": dict(mirror=True)}, progress=False)
    with pytest.raises(ValueError, match="crop should be one of"):
        evaluate_protocols(Noisy(ds), ds, {"a": {}, "b": dict(crop="garg")}, progress=False)


def test_floor_plane_knows_the_lens():
    img = np.zeros((24, 32, 3), np.uint8)
    how = dict(height_m=1.4, pitch_deg=20.0, wall_m=3.0)
    cam = NYU_CAMERA.resize(24, 32)
    assert (FloorPlane(**how).predict(img).depth_m == floor_plane(cam, **how)).all()
    other = type(cam).from_fov(90, 24, 32)
    assert (FloorPlane(**how).predict(img, other, flip=True).depth_m == floor_plane(other, **how)).all()


# --- how sure is the mean?


def made_up(values, scenes, n=100, weights="a"):
    "An evaluation from bare numbers: one AbsRel a frame."
    rows = [
        dict.fromkeys((*METRICS, "log_bias"), float(v)) | dict(name=f"{s}/{i}", scene=s, n=n)
        for i, (v, s) in enumerate(zip(values, scenes))
    ]
    return Evaluation(rows, average_metrics(rows), dict(average="image", weights=weights, split="val"))


def test_bootstrap_draws_rooms_not_frames():
    r = np.random.default_rng(0)
    room = r.normal(0.2, 0.05, 40)  # rooms differ, their frames do not
    ev = made_up(np.repeat(room, 5), [f"room_{k:04d}" for k in range(40) for _ in range(5)])
    lo, hi = bootstrap_interval(ev)
    assert lo < ev.summary["abs_rel"] < hi
    assert hi - lo == pytest.approx(2 * 1.96 * room.std() / 40**0.5, rel=0.1)  # 40 independent things, not 200
    a, b = bootstrap_interval(ev, by="frame")
    assert (hi - lo) / (b - a) == pytest.approx(5**0.5, rel=0.1)
    assert bootstrap_interval(ev) == (lo, hi) != bootstrap_interval(ev, seed=1)
    wide = bootstrap_interval(ev, level=0.99)
    assert wide[0] < lo and wide[1] > hi
    parts = made_up(np.repeat(room, 5), [f"room_{k:04d}{'abcde'[j]}" for k in range(40) for j in range(5)])
    assert bootstrap_interval(parts) == (lo, hi)  # parts a, b, c of a video are one room
    nameless = made_up(np.repeat(room, 5), [None] * 200)
    assert bootstrap_interval(nameless) == bootstrap_interval(nameless, by="frame")


def test_bootstrap_of_a_difference():
    r = np.random.default_rng(1)
    scenes = [f"room_{k:04d}" for k in range(50)]
    hard = r.normal(0.2, 0.08, 50)
    a, b = made_up(hard, scenes), made_up(hard - 0.01 + r.normal(0, 0.005, 50), scenes)
    lo, hi = bootstrap_interval(a, other=b)
    assert 0 < lo < 0.01 < hi < 0.02  # certain, although each alone is known to 0.02 only
    one = bootstrap_interval(a)
    assert one[1] - one[0] > 5 * (hi - lo)
    assert bootstrap_interval(b, other=a) == pytest.approx((-hi, -lo))
    with pytest.raises(ValueError, match="same frames in the same order"):
        bootstrap_interval(a, other=made_up(hard, scenes[::-1]))
    with pytest.raises(ValueError, match="by should be 'room' or 'frame', got 'scene'"):
        bootstrap_interval(a, by="scene")
    with pytest.raises(ValueError, match="at least two rooms to draw from, got 1"):
        bootstrap_interval(made_up([0.1, 0.2], ["room_0001a", "room_0001b"]))


@pytest.mark.parametrize(
    "how,said",
    [
        (dict(crop="eigen"), "crop None and 'eigen'"),
        (dict(cap=[1e-3, 5.0]), r"cap \[0.001, 10.0\] and \[0.001, 5.0\]"),
        (dict(average="pixel"), "average 'image' and 'pixel'"),
        (dict(align="median"), "align None and 'median'"),
        (dict(crop="eigen", align="affine"), "crop None and 'eigen'; align None and 'affine'"),
    ],
)
def test_a_difference_takes_what_was_measured_alike(how, said):
    def run(**change):
        ev = made_up([0.1, 0.2, 0.3], ["a_1", "b_1", "c_1"])
        ev.protocol |= (
            dict(
                crop=None,
                cap=[1e-3, 10.0],
                average="image",
                align=None,
                flip=False,
                input_size=[240, 320],
                data="NYUDepth",
                frames=3,
            )
            | change
        )
        return ev

    with pytest.raises(ValueError, match=f"measured alike, here they differ: {said}$"):
        bootstrap_interval(run(), other=run(**how))
    assert bootstrap_interval(run(**how), other=run(**how)) == (0, 0)
    assert bootstrap_interval(
        run(), other=run(weights="b", flip=True, input_size=[96, 128], data="list", split=None)
    ) == (0, 0)  # these may differ: they are what is compared


def test_bootstrap_names_the_keys_it_knows():
    with pytest.raises(ValueError, match="key should be one of abs_rel, .*delta3, got 'f_5cm'"):
        bootstrap_interval(made_up([0.1, 0.2], ["a_1", "b_1"]), "f_5cm")


def test_bootstrap_keeps_the_average_of_the_evaluation():
    ev = made_up([0.1, 0.3], ["a_1", "b_1"])
    ev.images[1]["n"] = 10**9
    ev.protocol["average"] = "pixel"
    assert bootstrap_interval(ev, "delta1")[1] == pytest.approx(0.3) and np.median(
        [bootstrap_interval(ev, "delta1", n=1, seed=s)[0] for s in range(9)]
    ) == pytest.approx(0.3, abs=1e-6)


def test_t_interval_against_scipy_and_by_simulation():
    from scipy import stats

    x = [0.170, 0.164, 0.175]
    m, half = t_interval(x)
    lo, hi = stats.t.interval(0.95, 2, loc=np.mean(x), scale=stats.sem(x))
    assert (m - half, m + half) == pytest.approx((lo, hi))
    r = np.random.default_rng(0).normal(1, 1, (600, 3))
    held = np.mean([abs(m - 1) <= h for m, h in map(t_interval, r)])
    assert held == pytest.approx(0.95, abs=0.025)  # three runs are enough for an honest interval, if a wide one
    for bad in ([0.1], [], [[1, 2]]):
        with pytest.raises(ValueError, match="needs two runs or more"):
            t_interval(bad)


def test_seeds_table():
    runs = {
        "light": [made_up([v], ["a_1"], weights=str(v)) for v in (0.160, 0.164, 0.168)],
        "plain": [made_up([v], ["a_1"]) for v in (0.2, 0.2)],
    }
    text = seeds_table(runs, ("abs_rel",))
    lines = text.splitlines()
    assert (
        "AbsRel" in lines[0]
        and "light, 3 seeds" in lines[2]
        and "0.164 ± 0.010" in lines[2]
        and "0.200 ± 0.000" in lines[3]
    )
    runs["plain"][0].protocol["input_size"] = [
        96,
        128,
    ]  # the network's own affair: all are scored at the size of the truth
    assert seeds_table(runs, ("abs_rel",)) == text
    runs["plain"][0].protocol["split"] = "test"
    with pytest.raises(ValueError, match="were not measured alike"):
        seeds_table(runs)


# --- kinds of room


def test_by_kind():
    assert [kind_of(s) for s in ("living_room_0062a", "office_0003", "room_00012", None, "cafe")] == [
        "living_room",
        "office",
        "room",
        "unknown",
        "cafe",
    ]
    ev = made_up([0.3, 0.1, 0.2, 0.4, 0.5], ["office_0001a", "office_0001b", "office_0002", "kitchen_0001", None])
    got = by_kind(ev)
    assert list(got) == ["office", "kitchen", "unknown"]
    assert {k: (r["frames"], r["rooms"]) for k, r in got.items()} == dict(office=(3, 2), kitchen=(1, 1), unknown=(1, 0))
    assert got["office"]["abs_rel"] == pytest.approx(0.2)
    assert list(by_kind(ev, "delta1")) == ["unknown", "kitchen", "office"]  # there more is better
    with pytest.raises(ValueError, match="cannot tell best from worst by 'f_5cm': expected one of abs_rel"):
        by_kind(ev, "f_5cm")
    ev.images[3]["n"] = 0  # the only kitchen has no reading: last, whichever way is better
    assert list(by_kind(ev)) == ["office", "unknown", "kitchen"] and list(by_kind(ev, "delta1")) == [
        "unknown",
        "office",
        "kitchen",
    ]


# --- sharpness and points


def test_shape_scores_are_the_metrics():
    (it,) = items(1, seed=3)
    it["depth"][:] = np.where(np.arange(64) < 30, 2, 3) * np.where(np.arange(48) < 20, 1, 1.4)[:, None]
    it["depth"][::7, ::5] = 0
    p = Prediction(wrong(np.maximum(it["depth"], 1)).astype(np.float32) * 0.9, it["camera"], it["image"])
    got = shape_scores(it, p)
    assert list(got) == ["boundary_f1", "boundary_f1_4", "boundary_f1_8", "f_5cm", "f_10cm", "f_20cm"]
    for k, name in ((1, "boundary_f1"), (4, "boundary_f1_4"), (8, "boundary_f1_8")):
        assert got[name] == boundary_f1(p.depth_m[::k, ::k], it["depth"][::k, ::k])["f1"]
    far = cloud_distances(*depth_clouds(p.depth_m, it["depth"], it["camera"]))
    assert (
        got["f_10cm"] == pytest.approx(fscore(*far, 0.1)["fscore"])
        and 0 < got["f_5cm"] < got["f_10cm"] < got["f_20cm"] < 1
    )
    ev = evaluate(Noisy([it]), [it], each=shape_scores, progress=False)
    best = {
        k: boundary_f1(it["depth"][::s, ::s], it["depth"][::s, ::s])["f1"]
        for k, s in (("boundary_f1", 1), ("boundary_f1_4", 4), ("boundary_f1_8", 8))
    }
    assert (
        mean_of(ev, got) == pytest.approx(dict.fromkeys(got, 1.0) | best) and best["boundary_f1"] == 0.5
    )  # the truth: here edges lie in two directions of four
    near = shape_scores(it, p, cap=(1e-3, 3.5))
    m = valid_mask(it["depth"], (1e-3, 3.5))
    assert near["boundary_f1"] == boundary_f1(p.depth_m, it["depth"], m)["f1"] != got["boundary_f1"]
    assert (
        near["f_10cm"]
        == pytest.approx(
            fscore(*cloud_distances(*depth_clouds(p.depth_m, it["depth"], it["camera"], m)), 0.1)["fscore"]
        )
        != got["f_10cm"]
    )
    with pytest.raises(ValueError, match="cap should be"):
        shape_scores(it, p, cap=(5, 1))
    big = dict(depth=np.full((480, 640), 2.0, np.float32), camera=NYU_CAMERA)
    big["depth"][:, 20:] = 4  # an edge outside the Eigen crop
    assert math.isnan(shape_scores(big, Prediction(big["depth"], NYU_CAMERA, None))["boundary_f1"])
    assert shape_scores(big, Prediction(big["depth"], NYU_CAMERA, None), crop=None)["boundary_f1"] == pytest.approx(
        1 / 4
    )  # one direction of four


# --- claimed spreads


class Spread(Noisy):
    "Errors of a law it knows; claims their spread divided by `lie`, in shares of the depth that differ from room to room by nothing."

    def __init__(self, frames, lie=1.0):
        super().__init__(frames)
        self.lie, self.rng = lie, np.random.default_rng(0)

    def predict(self, img, camera=None):
        (it,) = (i for i in self.frames if i["image"] is img)
        t = np.where(it["depth"] > 0, it["depth"], 3)
        std = 0.01 * t * np.exp(0.7 * np.random.default_rng(len(it["name"])).standard_normal(t.shape))
        p = t + self.rng.laplace(0, std / 2**0.5)
        return Prediction(p.astype(np.float32), camera, img, (std / self.lie).astype(np.float32))


def test_std_report_of_a_known_law():
    ds = items(16)
    for lie in (0.5, 1.0, 3.0):
        sample = StdSample(per_frame=1500)
        evaluate(Spread(ds, lie), ds, each=sample, progress=False)
        rep = std_report(sample)
        mine, mended, one, share = rep.values()
        assert mended["coverage"] == pytest.approx(0.9, abs=0.01) and all(abs(c - 0.9) < 0.02 for c in mended["halves"])
        assert mended["factor"] == pytest.approx((lie, lie), rel=0.05)
        assert mine["coverage"] == pytest.approx(
            1 - 0.1 ** (1 / lie), abs=0.01
        )  # a Laplace law, with an interval too narrow by `lie`
        assert mended["nll"] < min(one["nll"], share["nll"]) and mended["nll"] <= mine["nll"] + 1e-3
        assert mine["ause"] == mended["ause"] < share["ause"] < one["ause"]  # a factor does not change the order
        assert mine["factor"] == (1.0, 1.0)


def test_each_half_is_judged_by_what_the_other_fitted():
    "Errors of exactly 0.1 m in one room and 0.4 m in the other, std 1 claimed: the factors are known, and so is what they cover."
    sample = StdSample(per_frame=100)
    for scene, err in (("den_0001", 0.1), ("den_0002", 0.4)):
        t = np.full((20, 20), 3.0)
        sample(dict(depth=t, scene=scene, name=scene), Prediction(t + err, None, None, np.ones_like(t)))
    first = sample.halves()[0]
    e = [0.1, 0.4] if np.isclose(first[0] - first[2], 0.1).all() else [0.4, 0.1]  # of the first half and of the second
    rep = std_report(sample)
    width = np.log(10) / 2**0.5
    assert rep["calibrated on the other half"]["factor"] == pytest.approx(
        (e[1] / width, e[0] / width)
    )  # applied to the first half, and to the second
    assert rep["calibrated on the other half"]["halves"] == tuple(float(e[1 - k] >= e[k]) for k in (0, 1))
    assert rep["one std for all"]["factor"] == pytest.approx((2**0.5 * e[1], 2**0.5 * e[0]))
    b = [e[1 - k] / (3 + e[1 - k]) * (3 + e[k]) for k in (0, 1)]  # a share of the prediction, not of the truth
    assert rep["a share of the depth"]["nll"] == pytest.approx(
        np.mean([np.log(2 * b[k]) + e[k] / b[k] for k in (0, 1)])
    )


def test_halves_share_no_room_and_hold_everything():
    ds = items(8)
    for k, i in enumerate(ds):
        i["scene"] = f"den_000{k // 2}{'ab'[k % 2]}"  # two parts of one room
    sample = StdSample(per_frame=50)
    for k, i in enumerate(ds):
        sample(i, Prediction(np.full((48, 64), 1.0 + k), i["camera"], i["image"], np.ones((48, 64))))
    a, b = sample.halves()
    sides = [set(np.unique(x[0]).astype(int) - 1) for x in (a, b)]
    assert sides[0] | sides[1] == set(range(8)) and not sides[0] & sides[1] and len(sides[0]) == 4
    assert not {k // 2 for k in sides[0]} & {k // 2 for k in sides[1]}
    assert a.shape[1] + b.shape[1] == 8 * 50
    assert [k for k, side in enumerate(sample.sides()) if side == 0] == sorted(
        sides[0]
    )  # frame by frame the same halves
    uneven = StdSample()
    uneven.rooms = ["den_1", "den_2", "den_2"]
    assert uneven.sides() in ([0, 1, 1], [1, 0, 0])
    truths = np.concatenate([a, b], 1)[2]
    assert valid_mask(truths).all()  # holes are not sampled
    again = StdSample(per_frame=50)
    for k, i in enumerate(ds):
        again(i, Prediction(np.full((48, 64), 1.0 + k), i["camera"], i["image"], np.ones((48, 64))))
    assert all((x == y).all() for x, y in zip(again.halves(), (a, b)))


def test_std_errors():
    ds = items(2)
    with pytest.raises(ValueError, match="has no std_m"):
        evaluate(Noisy(ds), ds, each=StdSample(), progress=False)
    sample = StdSample()
    evaluate(Spread(ds), ds, each=sample, progress=False)  # both frames are of room_0
    with pytest.raises(ValueError, match="at least two rooms, got 1"):
        std_report(sample)


# --- other cameras


class Ruler:
    "Knows a room's depth if it is told the lens; else it assumes NYU's and is wrong by the ratio of the two."

    def __init__(self):
        from dogdepth.depth import Camera
        from dogdepth.rooms import render_room

        self.rooms = [render_room(s, camera=Camera.from_fov(f, 48, 64)) for s in (1, 2, 3) for f in (45, 90)]

    def predict(self, img, camera=None):
        (r,) = (r for r in self.rooms if (r["image"] == img).all())
        used = (camera or NYU_CAMERA.resize(48, 64)).focal
        return Prediction(0.8 * r["depth"] * used / r["camera"].focal, camera, img)


def test_fov_scale():
    rows = fov_scale(Ruler(), fovs=(45, 90), seeds=(1, 2, 3), size=(48, 64))
    assert [r["fov_deg"] for r in rows] == [45, 90]
    for r in rows:
        focal = 32 / math.tan(math.radians(r["fov_deg"] / 2))
        assert r["scales"] == pytest.approx([0.8] * 3) and r["scale"] == pytest.approx(0.8)
        assert r["untold"] == pytest.approx(0.8 * NYU_CAMERA.resize(48, 64).focal / focal, rel=1e-4)
        assert r["untolds"] == pytest.approx([r["untold"]] * 3)
        assert r["abs_rel"] == pytest.approx(0.2)
    assert (
        scale_spread([r["scale"] for r in rows]) == pytest.approx(0, abs=1e-6)
        and scale_spread([r["untold"] for r in rows]) > 0.5
    )
    assert scale_spread([1.0, 1.21]) == pytest.approx(0.1) == scale_spread([2.0, 2.42])


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


def test_the_twin_does_what_the_card_says(data):
    "All 105 validation frames: the row of the model card, to the last printed digit, and README's three numbers with it."
    import re

    from dogdepth.weights import WEIGHTS
    from dogdepth.nyu import NYUDepth
    from dogdepth.predict import Predictor

    s = evaluate(Predictor("twin"), NYUDepth(data / "nyu", split="val"), progress=False).summary
    card = (WEIGHTS / "default" / "README.md").read_text(encoding="utf-8")
    row = [float(v) for v in re.search(r"\| as it is \| (.*) \|", card)[1].split("|")]
    ours = [s[k] for k in ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3")]
    assert ours == pytest.approx(row, rel=2e-3, abs=6e-4)
    assert s["abs_rel"] < 0.162 and s["rmse"] < 0.565 and s["delta1"] > 0.77
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [
        float(v)
        for v in re.search(r"\| twin of the default weights \| ([\d.]+) \| ([\d.]+) m \| ([\d.]+) \|", readme).groups()
    ] == [row[0], row[1], row[4]]


def test_an_evaluation_read_again_is_the_same(tmp_path):
    from dogdepth.evaluate import Evaluation
    from dogdepth.metrics import depth_metrics

    ev = Evaluation(
        [
            {"name": "a", "scene": "kitchen_0001", "abs_rel": 0.1, "n": 5},
            {"name": "b", "scene": "", "abs_rel": float("nan"), "n": 0},
        ],
        depth_metrics(np.full((8, 8), 1.1), np.ones((8, 8)), crop=None),
        dict(
            split="val",
            cap=(0.001, 10.0),
            input_size=(240, 320),
            weights="twin",
            crop=None,
            average="image",
            align=None,
            flip=False,
            data="x",
            frames=2,
        ),
        {"shape": {"f": 1.0}},
    )
    ev.write(tmp_path / "a.json")
    got = Evaluation.read(tmp_path / "a.json")
    assert got.protocol == ev.protocol and got.summary == ev.summary and got.more == ev.more
    assert got.images[0] == ev.images[0] and np.isnan(got.images[1]["abs_rel"]) and str(got) == str(ev)
    for text in ("", "[]", "{}", '{"protocol": {}, "summary": {}}', '{"protocol": {}, "summary": {}, "images": 3}'):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match="was not written by `Evaluation.write`"):
            Evaluation.read(tmp_path / "b.json")
    with pytest.raises(FileNotFoundError):
        Evaluation.read(tmp_path / "none.json")


def test_shape_scores_reach_as_far_as_their_cap():
    it = render_room(1, 120, 160)
    far = it | dict(depth=it["depth"] + 10)
    score = lambda i, **kw: shape_scores(i, Prediction(i["depth"], i["camera"], i["image"]), crop=None, **kw)
    assert np.isnan(list(score(far).values())).all()
    assert all(v == 1 for k, v in score(far, cap=(1e-3, 80.0)).items() if k.startswith("f_"))


@pytest.mark.parametrize("name", ["published.csv", "judged.csv"])
def test_rows_of_other_networks_and_other_judges_are_well_formed(name):
    "Every row has a name and a source; errors and shares lie where errors and shares can lie."
    import csv
    from dogdepth.dog import results_file

    rows = list(csv.DictReader(results_file(name).read_text(encoding="utf-8").splitlines()))
    assert len(rows) >= 6 and all(
        None not in r and None not in r.values() for r in rows
    )  # no row longer or shorter than the header
    for r in rows:
        for key, low, high in (("abs_rel", 0.01, 1), ("rmse", 0.1, 3), ("delta1", 0, 1)):
            assert r[key] == "" or low < float(r[key]) < high, r
        assert (
            r["rmse"]
            and (r.get("source") or r.get("by"))
            and (r.get("league") in (None, "NYU only", "distilled on millions"))
        )


def test_13_shows_what_the_files_say():
    "The stored tables of the chapter hold every number of both files."
    import csv
    from pathlib import Path
    from dogdepth.dog import results_file

    nb = json.loads((Path(__file__).parents[1] / "nbs" / "13_evaluate.ipynb").read_text(encoding="utf-8"))
    shown = {
        c["id"]: "".join(
            "".join(o["data"]["text/markdown"]) for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})
        )
        for c in nb["cells"]
    }
    for name, cell in (("judged.csv", "c056e"), ("published.csv", "c056g")):
        for r in csv.DictReader(results_file(name).read_text(encoding="utf-8").splitlines()):
            assert f"| {' | '.join(r[k] or '-' for k in ('abs_rel', 'rmse', 'delta1'))} |" in shown[cell], r


def test_13_shows_what_other_cameras_scored():
    "Three scores for each place, and the stored table of the chapter holds them."
    import csv
    from dogdepth.dog import results_file

    rows = list(csv.DictReader(results_file("other-cameras.csv").read_text(encoding="utf-8").splitlines()))
    places = {}
    for r in rows:
        assert 0.05 < float(r["abs_rel"]) < 1 and 0 < float(r["delta1"]) < 1 and 0.5 < float(r["factor"]) < 2, r
        key = "fitted" if r["align"] == "median" else r["lens"]
        places.setdefault(r["place"], {})[key] = f"{float(r['abs_rel']):.3f}"
    nb = json.loads((Path(__file__).parents[1] / "nbs" / "13_evaluate.ipynb").read_text(encoding="utf-8"))
    (cell,) = (c for c in nb["cells"] if c["id"] == "n013")
    shown = "".join("".join(o.get("data", {}).get("text/markdown", "")) for o in cell["outputs"])
    for place, v in places.items():
        assert set(v) == {"known", "assumed", "fitted"}
        assert f"| {place} |" in shown and f"| {v['known']} | {v['assumed']} | {v['fitted']} |" in shown


def test_star_rows_are_those_of_others():
    "A row of another network says whether it comes from a page that is not the authors' own."
    import csv
    from dogdepth.dog import results_file

    rows = list(csv.DictReader(results_file("published.csv").read_text(encoding="utf-8").splitlines()))
    assert {r["secondary"] for r in rows} == {"yes", "no"} and all(r["source"] for r in rows)


def test_every_learned_room_is_listed_once():
    import csv
    from dogdepth.dog import results_file

    rows = list(csv.DictReader(results_file("rooms-learned.csv").read_text(encoding="utf-8").splitlines()))
    assert len({r["room"] for r in rows}) == len(rows) == 249
    assert sum(r["learned_by"] == "default" for r in rows) == 32
    assert learned_rooms("twin") == learned_rooms("scratch") < learned_rooms() and not learned_rooms("x")
