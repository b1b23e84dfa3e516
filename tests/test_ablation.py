"10_ablation: arms differ in their settings alone, a study survives a kill, the statistics agree with independent ones."

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dogdepth import ablation as A, arms, intervals, study
from dogdepth.depth import Camera
from dogdepth.metrics import METRICS
from dogdepth.augment import Frames
from dogdepth.train import TrainConfig
from dogdepth.learning import make_loss
from dogdepth.runs import write_log

TINY = dict(limit=8, epochs=1, height=32, width_px=48, pretrained=False)
ROOMS = ("pinhole", "pinhole, no DoG")  # arms on rendered rooms: no data needed
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def changed(name):
    mine, its = asdict(arms.study_config(name)), asdict(arms.study_config(arms.ARMS[name].control))
    return {k: v for k, v in mine.items() if v != its[k]}


# --- arms


@pytest.mark.parametrize("name", arms.ARMS)
def test_an_arm_differs_from_its_control_in_its_settings_and_in_nothing_else(name):
    arm = arms.ARMS[name]
    if arm.control:
        assert arm.change and changed(name) == arm.change
        assert arms.ARMS[arm.control].control in ("", "base"), "a control of a control of a control"
    else:
        assert name in ("base", "report", "f/2.8", "f/8", "open lens", "pinhole", "walks")
    assert set(arm.change) <= {f.name for f in fields(arms.StudyConfig)}
    assert arms.study_config(name, 7).seed == 7 and arms.study_config(name) == arms.study_config(name, 0)


def test_no_two_arms_are_the_same_and_budgets_are_equal():
    cfgs = {a: asdict(arms.study_config(a)) for a in arms.ARMS}
    assert len({str(c) for c in cfgs.values()}) == len(cfgs)
    for a, arm in arms.ARMS.items():
        if arm.control:
            for k in ("bs", "height", "width_px", "flip", "colour", "zoom", "ema"):
                assert cfgs[a][k] == cfgs[arm.control][k], f"{a} has another {k}"
            looks = [cfgs[n]["epochs"] * cfgs[n]["share"] for n in (a, arm.control)]
            assert looks[0] == looks[1], f"{a} takes another number of steps"
    assert (
        arms.study_config("base").dog
        and arms.study_config("base").arch == "light"
        and arms.study_config("base").pretrained
    )
    assert (
        set(arms.MAIN) | set(arms.REPORT) | set(arms.LENSES)
        == set(arms.ARMS)
        == {a for f in arms.FAMILIES.values() for a in f}
    )


def test_unknown_arms_and_frames_are_refused():
    with pytest.raises(ValueError, match="no arm 'no dog': expected one of base, no DoG"):
        arms.study_config("no dog")
    with pytest.raises(ValueError, match="frames should be nyu, walks"):
        study.study_frames(arms.study_config("base", frames="kitti"))


def test_the_losses_of_the_ladder():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 1, 16, 16, generator=g) * 4 + 1, torch.rand(2, 1, 16, 16, generator=g) * 4 + 1
    m = target > 2
    total, parts = arms.study_loss(arms.study_config("four terms"))(pred, target, m)
    assert total == make_loss(TrainConfig(loss="report"))(pred, target, m)[0]
    weights = dict(depth=1, grad_global=1, grad_grid=0.3, ssim=1)
    for name, terms in (
        ("L1 alone", ["depth"]),
        ("L1, global", ["depth", "grad_global"]),
        ("L1, global, grid", ["depth", "grad_global", "grad_grid"]),
    ):
        assert torch.isclose(
            arms.study_loss(arms.study_config(name))(pred, target, m)[0], sum(weights[t] * parts[t] for t in terms)
        )
    wrong, wparts = arms.study_loss(arms.study_config("SSIM upside down"))(pred, target, m)
    assert torch.isclose(wrong, total - parts["ssim"] + 1 - parts["ssim"]) and torch.isclose(
        wparts["ssim"], 1 - parts["ssim"]
    )
    p = pred.clone().requires_grad_()
    slope = lambda name: torch.autograd.grad(arms.study_loss(arms.study_config(name))(p, target, m)[0], p)[0]  # noqa: E731
    rest = slope("L1, global, grid")
    assert torch.allclose(slope("SSIM upside down") - rest, -(slope("four terms") - rest), atol=1e-7), (
        "the wrong sign descends on the match"
    )
    assert type(arms.study_loss(arms.study_config("base"))) is type(make_loss(TrainConfig()))


# --- frames


def test_shuffled_dog_keeps_the_photo_and_takes_another_photos_dog():
    rng = np.random.default_rng(0)
    items = [
        dict(
            name=str(i),
            image=np.kron(rng.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8),
            depth=np.full((64, 96), 2, np.float32),
            camera=Camera.from_fov(60, 64, 96),
        )
        for i in range(6)
    ]
    for epoch in (None, 0, 1):  # when it is scored, and in training
        own, mixed = (
            Frames(items, arms.study_config(a, height=64, width_px=96), epoch) for a in ("base", "shuffled DoG")
        )
        dogs = [own[i][0][3:] for i in range(6)]
        assert not any(torch.equal(dogs[i], dogs[j]) for i in range(6) for j in range(i))
        for i in range(6):
            (x, depth, *_), (y, same, *_) = own[i], mixed[i]
            assert torch.equal(x[:3], y[:3]) and torch.equal(depth, same)
            assert [torch.equal(y[3:], d) for j, d in enumerate(dogs) if j != i].count(True) == 1, (
                "not the DoG of one other photo"
            )


def test_shared_rooms_change_no_size_and_score_nothing_they_trained_on():
    toy = lambda kind, rooms, n: [
        dict(scene=f"{kind}_{r:04d}", name=f"{kind}_{r:04d}/{i}") for r in range(rooms) for i in range(n)
    ]  # noqa: E731
    train, valid = toy("hall", 10, 3), toy("kitchen", 4, 5) + toy("attic", 2, 1)
    for seed in range(5):
        new, scored = study.share_rooms(train, valid, seed)
        names, kept = [f["name"] for f in new], {v["name"] for v, s in zip(valid, scored) if s}
        assert len(new) == len(train) and len(set(names)) == len(names) and not kept & set(names)
        for r in range(4):
            assert sum(n.startswith(f"kitchen_{r:04d}") for n in names) == 2  # half of five, rounded down
        assert not any(n.startswith("attic") for n in names), "a room with one frame has nothing to share"
    assert study.share_rooms(train, valid, 0)[1] != study.share_rooms(train, valid, 1)[1]


def test_rendered_frames_differ_in_the_lens_alone():
    sharp, blurred = (study.study_frames(arms.study_config(a), limit=3) for a in ("pinhole", "open lens"))
    for s, b in zip(sharp[0] + sharp[1], blurred[0] + blurred[1]):
        assert np.array_equal(s["depth"], b["depth"]) and not np.array_equal(s["image"], b["image"])
    assert not {f["name"] for f in sharp[0]} & {f["name"] for f in sharp[1]}


def test_three_seeds_score_every_room_of_the_lenses_once(data):
    if not (data / "defocus_indoor").is_dir():
        pytest.skip("needs defocus_indoor")
    masks = []
    for seed in range(3):
        train, valid, scored = study.study_frames(arms.study_config("f/2.8", seed, height=32, width_px=48))
        masks.append(scored)
        assert len(train) + sum(scored) == len(valid) and not {f["name"] for f in train} & {
            v["name"] for v, s in zip(valid, scored) if s
        }
    assert np.array(masks).sum(0).tolist() == [1] * len(masks[0])


# --- runs


@pytest.fixture(scope="module")
def run():
    return study.run_arm("pinhole", 0, **TINY)


def test_same_seed_same_budget_same_numbers(run):
    again, other = study.run_arm("pinhole", 0, **TINY), study.run_arm("pinhole", 1, **TINY)
    assert [again[k] for k in ("abs_rel", "images", "loss", "curve")] == [
        run[k] for k in ("abs_rel", "images", "loss", "curve")
    ]
    assert other["images"] != run["images"]


def test_the_mean_of_a_row_is_that_of_its_frames(run):
    scores = [float(v) / 1e4 for v in run["images"].split()]
    assert math.isclose(np.mean(scores), run["abs_rel"], abs_tol=1e-4) and len(scores) == run["scored_frames"]


def test_a_run_that_diverges_is_noted_and_kept(tmp_path, monkeypatch):
    step = study.train_step

    def bursts(run, *batch):
        if run.step == 1 and run.cfg.dog:
            raise FloatingPointError("the loss is nan at step 1")
        return step(run, *batch)

    monkeypatch.setattr(study, "train_step", bursts)
    rows = study.run_study(tmp_path / "s.csv", ROOMS, (0, 1), progress=lambda s: None, **TINY | dict(epochs=2))
    for r in study.read_study(tmp_path / "s.csv"):
        bad = r["arm"] == "pinhole"
        assert r["note"].startswith("diverged: the loss is nan") == bad == math.isnan(r["abs_rel"])
    assert set(rows[0]["images"].split()) == {"nan"}
    assert (
        A.judge(
            study.read_study(tmp_path / "s.csv"), [dict(frames="pinhole", room="a"), dict(frames="pinhole", room="b")]
        )
        == {}
    )
    again = []
    study.run_study(tmp_path / "s.csv", ROOMS, (0, 1), progress=again.append, **TINY | dict(epochs=2))
    assert not again, "a diverged run is a result, not a gap"


def test_a_mistake_before_the_first_step_is_no_divergence():
    with pytest.raises(ValueError, match="cannot fill one batch"):
        study.run_arm("pinhole", 0, **TINY | dict(limit=4))


def test_jobs_tell_the_main_story_first():
    jobs = study.study_jobs()
    assert len(jobs) == len(set(jobs)) == 3 * len(arms.ARMS)
    assert jobs[:3] == [("base", 0), ("no DoG", 0), ("shuffled DoG", 0)]
    assert {a for a, _ in jobs[: 3 * len(arms.MAIN)]} == set(arms.MAIN)


def test_a_study_of_another_size_is_not_continued(tmp_path, run, monkeypatch):
    write_log(tmp_path / "s.csv", [run])
    monkeypatch.setattr(study, "run_arm", lambda *a, **k: pytest.fail("it went on"))
    with pytest.raises(ValueError, match="holds runs at 32x48, this study is at 96x128"):
        study.run_study(tmp_path / "s.csv", ROOMS)


def test_a_half_written_row_is_impossible(tmp_path, run, monkeypatch):
    "Whatever happens while the file is written, the old one stays whole."
    out = tmp_path / "s.csv"
    write_log(out, [run])
    before = out.read_bytes()
    monkeypatch.setattr(study, "run_arm", lambda a, s, **kw: run | dict(arm=a, seed=s))
    for name in ("fsync", "replace"):
        with monkeypatch.context() as m:
            m.setattr(os, name, lambda *a: (_ for _ in ()).throw(OSError(28, "no space left")))
            with pytest.raises(OSError, match="no space"):
                study.run_study(out, ROOMS, (0,), **TINY)
        assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s.csv"]
    study.run_study(out, ROOMS, (0,), progress=lambda s: None, **TINY)
    assert [(r["arm"], r["seed"]) for r in study.read_study(out)] == [("pinhole", 0), ("pinhole, no DoG", 0)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_study_killed_with_its_workers_at_work_goes_on(tmp_path):
    out, todo = tmp_path / "s.csv", TINY | dict(arms=("pinhole",), seeds=tuple(range(40)), workers=2)
    code = f"from dogdepth.study import run_study; run_study({str(out)!r}, **{todo!r})"
    p = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | dict(OMP_NUM_THREADS="1"), stdout=subprocess.DEVNULL
    )
    end = time.time() + 120
    while not out.exists() and time.time() < end and p.poll() is None:
        time.sleep(0.02)
    children = [int(c) for c in Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()]
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert len(children) >= 2, "no workers"
    while any(map(alive, children)) and time.time() < end:
        time.sleep(0.02)
    assert not any(map(alive, children)), "workers lived on"
    rows = study.read_study(out)
    assert 0 < len(rows) < 40 and all(r["images"] and r["date"] for r in rows)
    have, again = {r["seed"] for r in rows}, []
    few = tuple(sorted(have)) + tuple(s for s in range(40) if s not in have)[:1]
    rows = study.run_study(out, **todo | dict(seeds=few, workers=0), progress=again.append)
    assert len(again) == 1 and sorted(r["seed"] for r in rows) == sorted(few)
    worker, here = rows[0], study.run_arm("pinhole", rows[0]["seed"], **TINY)
    assert worker["images"] == here["images"], "a worker's run is the same run"


# --- the statistics


def fake(x, frames=6, arms=None, seeds=None, rng=None):
    "Rows with these scores; frames scatter around them."
    arms, rng = arms or list(A.FAMILIES["light"])[: len(x)], rng or np.random.default_rng(0)
    rows = []
    for a, vs in zip(arms, x):
        for s, v in zip(seeds or range(len(vs)), vs):
            e = rng.normal(0, 0.001, frames)
            im = v + e - e.mean()
            rows.append(
                dict(
                    arm=a,
                    seed=s,
                    control=A.ARMS[a].control,
                    frames="nyu",
                    abs_rel=v,
                    note="",
                    images=" ".join(f"{1e4 * i:.6f}" for i in im),
                )
            )
    return rows


FRAMES = [dict(frames="nyu", room=f"r{i // 2}") for i in range(6)]


def test_the_common_spread_is_that_of_a_two_way_analysis():
    x = np.random.default_rng(1).normal(0.2, 0.01, (5, 3)) + np.array([0.0, 0.03, -0.02])
    rows = fake(x)
    left = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    sd, df = intervals.chance(rows, arms.FAMILIES["light"], "base")
    assert df == 8 and math.isclose(sd, ((left**2).sum() / 8) ** 0.5, rel_tol=1e-6)
    two = intervals.chance(rows[:6], arms.FAMILIES["light"], "base")  # two arms: the paired t test's spread
    assert math.isclose(two[0], np.std(x[1] - x[0], ddof=1) / 2**0.5, rel_tol=1e-6) and two[1] == 2
    more = rows + fake([[0.9]], arms=["no gates"])  # a lonely run says nothing about chance
    assert np.allclose(intervals.chance(more, arms.FAMILIES["light"], "base"), (sd, df))
    gone = [dict(r, images=" ".join(["nan"] * 6)) if (r["arm"], r["seed"]) == ("no DoG", 1) else r for r in rows]
    assert (
        math.isfinite(intervals.chance(gone, arms.FAMILIES["light"], "base")[0])
        and intervals.chance(gone, arms.FAMILIES["light"], "base")[1] == 7
    )
    with pytest.raises(ValueError, match="two arms that share two seeds, got 1 runs"):
        intervals.chance(rows[:1], ["base"], "base")


def test_chance_is_measured_on_the_frames_that_an_arm_is_scored_on():
    rows = fake(np.random.default_rng(2).normal(0.2, 0.01, (3, 3)))
    part = fake([[0.1, 0.1, 0.1]], arms=["rooms shared"])
    masked = [r | dict(images=" ".join(v if i < 3 else "-" for i, v in enumerate(r["images"].split()))) for r in part]
    cut = [r | dict(images=" ".join(r["images"].split()[:3])) for r in rows + part]
    assert np.allclose(
        intervals.chance(rows + masked, arms.FAMILIES["light"], "rooms shared"),
        intervals.chance(cut, arms.FAMILIES["light"], "rooms shared"),
    )
    assert intervals.chance(rows + masked, arms.FAMILIES["light"], "base") == intervals.chance(
        rows, arms.FAMILIES["light"], "base"
    )


def test_judge_against_scipy():
    x = np.random.default_rng(3).normal(0.2, 0.01, (2, 3))
    o = A.judge(fake(x), FRAMES)["no DoG"]  # with two arms the common spread is the pair's own
    want = stats.ttest_rel(x[1], x[0])
    assert math.isclose(o["p"], want.pvalue, rel_tol=1e-6) and np.allclose(o["per_seed"], x[1] - x[0])
    for h in (o["half"], o["own"]):
        assert np.allclose((o["mean"] - h, o["mean"] + h), want.confidence_interval(), rtol=1e-5)
    x = np.random.default_rng(4).normal(0.2, 0.01, (6, 3))
    for name, o in A.judge(fake(x), FRAMES).items():
        i = list(arms.FAMILIES["light"]).index(name)
        assert np.allclose(o["own"], np.diff(stats.ttest_1samp(x[i] - x[0], 0).confidence_interval())[0] / 2, rtol=1e-5)


def test_paired_interval_is_students():
    x = np.random.default_rng(10).normal(0.004, 0.01, 7)
    want = stats.ttest_1samp(x, 0)
    mean, half, p = A.paired_interval(x, 0.9)
    assert np.allclose((mean - half, mean + half), want.confidence_interval(0.9)) and math.isclose(p, want.pvalue)
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        A.paired_interval([0.1])


def test_equal_spreads_are_bartletts_and_levenes():
    x = np.random.default_rng(11).normal(0.2, 0.01, (4, 6)) * np.array([1, 1, 1, 1.5])[:, None]
    rows, family = fake(x), list(arms.FAMILIES["light"])
    want = min(stats.bartlett(*x).pvalue, stats.levene(*x).pvalue)
    assert math.isclose(intervals.equal_spreads(rows, family, "base"), want, rel_tol=1e-6)
    assert intervals.equal_spreads(rows[:6], family, "base") == 1, "one arm has nothing to differ from"
    flat = [r | dict(images="2000 2000") if r["arm"] == "no DoG" else r | dict(images="2000 2100") for r in rows]
    assert intervals.equal_spreads(flat, family, "base") == 0
    lonely = rows + fake([[0.9]], arms=["no gates"])  # one run has no spread
    assert math.isclose(intervals.equal_spreads(lonely, family, "base"), want, rel_tol=1e-6)


@pytest.mark.parametrize("noise, own", [(1, False), (12, True)])
def test_each_arm_is_judged_by_its_own_spread_where_the_spreads_differ(noise, own):
    x = np.random.default_rng(12).normal(0.2, 0.004, (5, 12))
    x[4] = 0.2 + noise * (x[4] - 0.2)
    judged = A.judge(fake(x), FRAMES)
    assert len(judged) == 4
    for o in judged.values():
        assert (o["p_equal"] < 0.05) == own and o["df"] == (11 if own else 44)
        assert math.isclose(o["half"], o["own"], rel_tol=1e-9) == own
        assert math.isclose(o["p"], A.paired_interval(o["per_seed"])[2], rel_tol=1e-9) == own
        assert math.isclose(o["half"], stats.t.ppf(0.975, o["df"]) * o["sd"] * (2 / 12) ** 0.5, rel_tol=1e-9)


def test_own_interval_is_that_of_the_evaluation_chapter():
    from dogdepth.evaluate import t_interval

    x = np.random.default_rng(5).normal(0.2, 0.01, (2, 3))
    o = A.judge(fake(x), FRAMES)["no DoG"]
    assert np.allclose((o["mean"], o["own"]), t_interval(x[1] - x[0]), rtol=1e-5)


def test_rooms_interval_is_that_of_the_evaluation_chapter():
    from dogdepth.evaluate import Evaluation, bootstrap_interval

    rng = np.random.default_rng(6)
    d, rooms = rng.normal(0.01, 0.02, 40), [f"room_{i:04d}" for i in rng.integers(0, 12, 40)]
    ev = Evaluation(
        protocol=dict(average="image"),
        summary={},
        images=[
            dict.fromkeys((*METRICS, "log_bias"), float(v)) | dict(name=str(i), scene=r, n=1)
            for i, (r, v) in enumerate(zip(rooms, d))
        ],
    )
    assert np.allclose(intervals.over_rooms(d, rooms, n=20_000), bootstrap_interval(ev, n=20_000), atol=4e-4)
    holes = np.concatenate([d, [np.nan, np.nan]])
    assert intervals.over_rooms(holes, rooms + ["room_0001", "room_9999"]) == intervals.over_rooms(d, rooms)
    with pytest.raises(ValueError, match="at least two rooms"):
        intervals.over_rooms([0.1, 0.2], ["a", "a"])


def test_rooms_interval_is_about_the_mean_that_is_reported():
    "Seeds that score different frames: the mean over seeds of their means, room by room, as a plain loop has it."
    rng = np.random.default_rng(7)
    d, rooms = rng.normal(0.01, 0.02, (3, 24)), np.array([f"r{i % 8}" for i in range(24)])
    d[:, 0] = [0.3, np.nan, np.nan]  # a frame that one seed alone has scored
    d[1:, 1::2], d[0, 2::2] = np.nan, np.nan
    names, draw, means = np.unique(rooms), np.random.default_rng(0), []
    for times in draw.multinomial(8, np.full(8, 1 / 8), 500):
        w = times[np.searchsorted(names, rooms)]
        with np.errstate(invalid="ignore"):
            means.append(np.nanmean([(w[ok] * x[ok]).sum() / w[ok].sum() for x in d for ok in [~np.isnan(x)]]))
    assert np.allclose(intervals.over_rooms(d, rooms, n=500), np.percentile(means, (2.5, 97.5)))
    full = rng.normal(0.01, 0.02, (3, 24))
    assert np.allclose(intervals.over_rooms(full, rooms), intervals.over_rooms(full.mean(0), rooms)), (
        "all frames scored: the mean over seeds may come first"
    )


@pytest.mark.parametrize("n, df", [(3, 26), (3, 4), (10, 117)])
def test_smallest_effect_against_made_up_studies(n, df):
    sd, rng = 0.01, np.random.default_rng(7)
    se = sd * (2 / n) ** 0.5
    for true, rate in (
        (intervals.smallest_effect(sd, n, df), 0.8),
        (intervals.smallest_effect(sd, n, df, power=0.5), 0.5),
    ):
        t = rng.normal(true, se, 40_000) / (se * (rng.chisquare(df, 40_000) / df) ** 0.5)
        assert abs((abs(t) > stats.t.ppf(0.975, df)).mean() - rate) < 0.01
    assert intervals.smallest_effect(sd, n, df, level=0.99) > intervals.smallest_effect(sd, n, df)


def test_holm_by_hand_and_never_less_than_the_raw_value():
    assert np.allclose(intervals.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    assert np.allclose(intervals.holm([0.01, 0.01, 0.9, 0.9]), [0.04, 0.04, 1, 1]) and intervals.holm([]).size == 0
    p = np.random.default_rng(8).random(20)
    h = intervals.holm(p)
    assert (h >= p).all() and (h <= 1).all() and (np.diff(h[np.argsort(p)]) >= 0).all()


def test_verdicts():
    base, rng = np.array([0.2, 0.21, 0.19]), np.random.default_rng(9)
    x = [base, base + 0.05, base - 0.05, base + rng.normal(0, 0.001, 3), base + rng.normal(0, 0.001, 3)]
    rows = fake(x)
    v = {a: o["verdict"] for a, o in A.judge(rows, FRAMES).items()}
    assert v == {
        "no DoG": "worse",
        "shuffled DoG": "better",
        "no channel gate": "not told from chance",
        "no spatial gate": "not told from chance",
    }
    one_room = [
        r | dict(images=" ".join(["2000"] * 5 + [str(1e4 * (6 * r["abs_rel"] - 1))])) for r in rows
    ]  # the whole difference lies in one frame of one room
    assert A.judge(one_room, FRAMES)["no DoG"]["verdict"] == "not told from chance"
    lost = [
        r
        | (
            dict(note="diverged: x", images=" ".join(["nan"] * 6), abs_rel=math.nan)
            if (r["arm"], r["seed"]) == ("no DoG", 2)
            else {}
        )
        for r in rows
    ]
    o = A.judge(lost, FRAMES)["no DoG"]
    assert o["n"] == 2 and o["verdict"] == "diverged in 1 run"
    assert "no DoG" not in A.judge([r for r in rows if r["arm"] != "no DoG" or r["seed"] == 0], FRAMES), (
        "one seed is no comparison"
    )


def test_verdicts_are_rarely_wrong_where_nothing_is():
    alarms = [
        bool(
            {
                o["verdict"]
                for o in A.judge(
                    fake(np.random.default_rng(s).normal(0.2, 0.005, (14, 3)), rng=np.random.default_rng(s)), FRAMES
                ).values()
            }
            - {"not told from chance"}
        )
        for s in range(60)
    ]
    assert np.mean(alarms) < 0.1


# --- the command and the stored study


def test_command(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        study.main(["--out", str(tmp_path / "nowhere" / "s.csv")])
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.main(["--arms", "DoG"])
    assert "invalid choice: 'DoG'" in capsys.readouterr().err
    monkeypatch.setattr(study, "run_arm", lambda a, s, **kw: dict(arm=a, seed=s, abs_rel=0.2, cpu_s=1.0, size="96x128"))
    monkeypatch.setattr(study, "frame_rows", lambda: [dict(frames="pinhole", number=0, name="x", room="x")])
    study.main(["--out", str(tmp_path / "s.csv"), "--arms", "pinhole", "--seeds", "0", "1", "--workers", "0"])
    assert [r["seed"] for r in study.read_study(tmp_path / "s.csv")] == [
        0,
        1,
    ] and "AbsRel 0.2000" in capsys.readouterr().out
    assert study.read_study(tmp_path / "ablation-frames.csv")[0]["number"] == 0
    assert study.read_study(tmp_path / "not there.csv") == []


def test_costs_say_which_network_is_larger():
    costs = {c["arm"]: c for c in study.arm_costs(("base", "no DoG", "report, no DoG"), size=(64, 96), n=1)}
    weights = lambda a: sum(p.numel() for p in arms.study_config(a).make(pretrained=False).parameters())  # noqa: E731
    assert all(c["params"] == weights(a) and c["q25_ms"] <= c["ms"] <= c["q75_ms"] for a, c in costs.items())
    assert (
        costs["base"]["dog_ms"] > 0 == costs["no DoG"]["dog_ms"] and costs["base"]["params"] > costs["no DoG"]["params"]
    )


@pytest.mark.parametrize("name", ["ablation-runs.csv", "ablation-twelve.csv"])
def test_the_stored_study_is_the_study_of_the_code(name):
    rows, frames = study.read_study(RESULTS / name), study.read_study(RESULTS / "ablation-frames.csv")
    assert rows and len({(r["arm"], r["seed"]) for r in rows}) == len(rows)
    kinds = {k: sum(f["frames"] == k for f in frames) for k in {f["frames"] for f in frames}}
    params = {}
    for r in rows:
        cfg = arms.study_config(r["arm"], r["seed"])
        assert (r["control"], r["frames"], r["size"]) == (
            arms.ARMS[r["arm"]].control,
            cfg.frames,
            f"{cfg.height}x{cfg.width_px}",
        )
        assert len(r["images"].split()) == kinds[cfg.frames.partition(",")[0]]
        shape = (cfg.arch, cfg.width, cfg.dog, cfg.climb, cfg.channel_attention, cfg.spatial_attention)
        params[shape] = params.get(shape) or sum(p.numel() for p in cfg.make(pretrained=False).parameters())
        assert r["params"] == params[shape]
        if not r["note"]:
            assert r["steps"] == r["train_frames"] // cfg.bs * cfg.epochs
            assert math.isclose(
                np.mean([float(v) for v in r["images"].split() if v != "-"]) / 1e4, r["abs_rel"], abs_tol=1e-4
            )
            assert len(r["curve"].split()) == (0 if r["control"] else cfg.epochs)


def test_twelve_seeds_of_eight_arms():
    "Whole seeds only, so that the page's sentences stand on the same runs in every arm."
    rows = study.read_study(RESULTS / "ablation-twelve.csv")
    eight = {"base", "no DoG", "shuffled DoG", "DoG from noise", "no gates", "four terms", "constant rate"}
    eight |= {"half the photos"}
    seeds = {r["seed"] for r in rows}
    assert {(r["arm"], r["seed"]) for r in rows} == {(a, s) for a in eight for s in seeds}
    assert seeds == set(range(12))
    judged = A.judge(rows, study.read_study(RESULTS / "ablation-frames.csv"))
    assert set(judged) == eight - {"base"} and all(o["n"] == 12 for o in judged.values())


def test_numbers_that_the_page_tells_of_the_first_study():
    rows, frames = study.read_study(RESULTS / "ablation-runs.csv"), study.read_study(RESULTS / "ablation-frames.csv")
    by, text = A.judge(rows, frames), (ROOT / "nbs" / "10_ablation.ipynb").read_text(encoding="utf-8")
    own = {a: stats.ttest_1samp(by[a]["per_seed"], 0).pvalue for a in ("four terms", "constant rate", "no ImageNet")}
    assert [round(own[a], 3) for a in ("four terms", "constant rate")] == [0.015, 0.035]
    assert "p = 0.015 and 0.035" in text and own["no ImageNet"] * len(by) < 0.05
    assert f"cost {1e3 * by['no ImageNet']['mean']:.0f} thousandths" in text and len(by) == 22
    assert f"{-1e3 * by['walks, shared']['mean']:.0f} thousandths better" in text
    relu = by["ReLU"]
    assert f"ReLU for SELU, at {1e3 * relu['mean']:.1f} ± {1e3 * relu['half']:.1f}" in text
    spread = [1e3 * np.std([r["abs_rel"] for r in rows if r["arm"] == a], ddof=1) for a in arms.REPORT]
    low, high = min(spread[1:]), max(spread[1:])
    assert f"{spread[0]:.0f} thousandths for the control, {low:.1f} to {high:.1f} for the others" in text
    assert by["report, no DoG"]["p_equal"] < 0.05 < by["no DoG"]["p_equal"]


def test_the_answer_that_never_looks(data):
    "The answer that the page compares its first design with: the median depth of each pixel over every fifth training frame, on all validation frames and on every third."
    import cv2
    from dogdepth.metrics import image_metrics
    from dogdepth.nyu import NYUDepth, resize_item

    train, valid = NYUDepth(split="train"), NYUDepth(split="val")
    d = np.stack([resize_item(train[i], 96, 128)["depth"] for i in range(0, len(train), 5)])
    never = cv2.resize(np.nanmedian(np.where(d > 0, d, np.nan), 0).astype(np.float32), (640, 480))
    scores = [image_metrics(never, valid[i]["depth"])["abs_rel"] for i in range(len(valid))]
    assert abs(np.mean(scores) - 0.399) < 0.001 and abs(np.mean(scores[::3]) - 0.409) < 0.001


def test_a_study_that_cannot_be_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="no arm pinhol"):
        study.run_study(tmp_path / "s.csv", ("pinhol",))
    with pytest.raises(FileNotFoundError, match="no folder"):
        study.run_study(tmp_path / "none" / "s.csv", ROOMS)
