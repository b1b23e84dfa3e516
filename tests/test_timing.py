"The clock, the checks before it, the ladder's rungs and the results file."

import importlib.util
import json
import subprocess
import sys
import time
import types

import cv2
import numpy as np
import pytest

from dogdepth import jobs, timing
from dogdepth.dog import focus_scores, modified_dog, to_grey
from dogdepth.jobs import JOBS, STATES, bench_dog, format_rows, fresh
from dogdepth.timing import (
    LADDER,
    Timing,
    bench,
    environment,
    machine_slug,
    patch_scores,
    python_dog,
    python_scores,
    race,
    read_results,
    write_results,
)


def photo(h=160, w=200, seed=0):
    r = np.random.default_rng(seed)
    return cv2.resize(r.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)


# --- the clock


def test_bench_measures_a_known_length():
    t = bench(time.sleep, 0.02, repeats=(4, 4))
    assert len(t.ms) == 4 and 20 <= min(t.ms) < 40 and t.name == "sleep"
    assert bench(time.sleep, 0.02, repeats=(4, 4), clock="cpu").median < 5


def test_bench_warms_up_and_stops():
    calls = []
    t = bench(calls.append, 1, warmup=3, repeats=(5, 7), seconds=10)
    assert len(calls) == 3 + 7 and len(t.ms) == 7
    calls.clear()
    t = bench(lambda: (calls.append(1), time.sleep(0.01)), warmup=0, repeats=(2, 1000), seconds=0.05)
    assert 2 <= len(t.ms) < 8


def test_bench_synchronises_inside_the_timed_region(monkeypatch):
    "Work that is only queued must be waited for: once before the clock starts, once before it stops."
    log = []
    monkeypatch.setattr(timing, "synchronise", lambda: (log.append("sync"), time.sleep(0.01)))
    t = bench(lambda: log.append("run"), warmup=0, repeats=(3, 3))
    assert log == ["sync", "run", "sync"] * 3 and 10 <= min(t.ms) < 20
    log.clear()
    (t,) = race({"a": lambda x: log.append("run") or 0}, [0, 0], rounds=1)
    assert log == ["run"] * 2 + ["sync", "run", "sync"] * 2 and 10 <= min(t.ms) < 20


def test_timing_statistics():
    t = Timing("x", tuple(float(v) for v in range(101)))
    row = t.row()
    assert (t.median, t.at(25), t.at(75)) == (50, 25, 75)
    assert row == dict(
        name="x", runs=101, mean_ms=50, min_ms=0, q25_ms=25, median_ms=50, q75_ms=75, p99_ms=99, max_ms=100
    )
    assert "middle half 25 to 75 (101 runs)" in repr(t)


# --- equal first


def test_race_refuses_different_answers():
    with pytest.raises(ValueError, match="'off' differs from 'ref' by up to 2, more than 1: not timed"):
        race({"ref": lambda x: x, "off": lambda x: x + 2}, [np.zeros(3)], tol=1)
    with pytest.raises(ValueError, match="shape"):
        race({"ref": lambda x: x, "off": lambda x: x[:1]}, [np.zeros(3)])
    with pytest.raises(ValueError, match="nan"):
        race({"ref": lambda x: x, "off": lambda x: x * np.nan}, [np.zeros(3)], tol=1)
    with pytest.raises(ValueError, match="differs"):  # uint8 must not wrap around
        race({"ref": lambda x: np.uint8([0]), "off": lambda x: np.uint8([255])}, [0], tol=1)


def test_race_looks_at_every_input_before_it_times():
    calls = []

    def off(x):
        calls.append(x)
        return x if x < 3 else x + 1

    with pytest.raises(ValueError, match="differs"):
        race({"ref": lambda x: x, "off": off}, [1, 2, 3])
    assert calls == [1, 2, 3]


def test_race_takes_turns():
    log = []
    ts = race({n: (lambda x, n=n: log.append(n) or 0) for n in "abc"}, [0, 1], rounds=3)
    assert "".join(log) == "abc" * 2 + "abcbcacab" * 2
    assert [t.name for t in ts] == ["a", "b", "c"] and [len(t.ms) for t in ts] == [2, 2, 2]


def test_race_alone_checks_first_and_keeps_each_forms_runs_together():
    log = []
    ts = race({n: (lambda x, n=n: log.append(n) or 0) for n in "ab"}, [0, 1], rounds=2, alone=True)
    assert "".join(log) == "ab" * 2 + "a" * 6 + "b" * 6 and [t.name for t in ts] == ["a", "b"]
    with pytest.raises(ValueError, match="differs"):
        race({"ref": lambda x: x, "off": lambda x: x + 1}, [0.0], alone=True)


@pytest.mark.parametrize("rung", [python_scores, patch_scores])
def test_rungs_of_the_ladder(rung):
    for seed in range(3):
        img = photo(seed=seed)
        np.testing.assert_allclose(rung(img), focus_scores(img), rtol=1e-9)
    img = np.full((130, 128, 3), 77, np.uint8)
    np.testing.assert_allclose(rung(img), focus_scores(img), rtol=1e-9)


@pytest.mark.parametrize("size", [(1, 7), (2, 2), (20, 31), (48, 40)])
@pytest.mark.parametrize("sigma", [0.7, 3, 9.5])
def test_plain_python_filter(size, sigma):
    g = to_grey(photo(56, 64))[: size[0], : size[1]]
    off = abs(python_dog(g, sigma) - modified_dog(g, sigma=sigma, saturate=False))
    assert off.max() <= 1


def test_every_rung_of_the_ladder_is_the_filter():
    imgs = [photo(240, 320, s) for s in range(3)] + [np.full((240, 320, 3), 90, np.uint8)]
    race(LADDER, imgs, tol=6, rounds=1)
    race(dict(list(LADDER.items())[1:]), imgs, tol=2, rounds=1)
    with pytest.raises(ValueError, match="differs"):
        race(LADDER | {"another": lambda i: modified_dog(i, sigma=30.0)}, imgs, tol=6, rounds=1)


# --- the machine


def test_environment_and_slug():
    env = environment()
    assert env["cores"] >= 1 and env["numpy"] == np.__version__ and env["torch"]
    slug = machine_slug(env)
    assert (
        slug == machine_slug() and set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") and "cores-torch-" in slug
    )
    import platform

    assert not platform.node() or len(platform.node()) < 4 or platform.node().lower() not in slug
    assert (
        machine_slug(dict(cpu="AMD Ryzen 7 5800X 8-Core Processor", gpu="", cores=16, torch="2.4.1+cu121"))
        == "amd-ryzen-7-5800x-8-core-16-cores-torch-2.4.1"
    )
    assert (
        machine_slug(dict(cpu="Apple M1", gpu="Tesla V100", cores=8, torch="2.4"))
        == "apple-m1-tesla-v100-8-cores-torch-2.4"
    )


def test_import_is_light():
    code = "import sys, dogdepth.timing, dogdepth.jobs; print(*[m for m in ('torch','matplotlib','skimage','scipy','plotly','h5py') if m in sys.modules])"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


# --- jobs in fresh processes


def test_every_job_runs_in_both_states(tmp_path):
    rows = bench_dog(frames=[photo(seed=s) for s in range(2)], out=tmp_path, jobs=("scores", "filter"), clock="cpu")
    seen = {(r["table"], r["state"], r["name"]) for r in rows}
    assert {("filter", s, n) for s in STATES for n in ("literal", "modified_dog", "modified_dog, after it")} <= seen
    assert sum(t == "scores" for t, *_ in seen) == 4 * len(STATES)
    for r in rows:
        assert 0 <= r["min_ms"] <= r["q25_ms"] <= r["median_ms"] <= r["q75_ms"] <= r["max_ms"]
        assert r["size"] == "160x200" and r["cv2_threads"] == 1 and r["clock"] == "cpu" and r["photos"] == "your own"
    text = format_rows(rows)
    assert rows[0]["cpu"] in text and len(text.splitlines()) == 4 + len(rows)
    (path,) = tmp_path.glob("*.csv")
    assert path.name == f"timing-{machine_slug()}.csv" and len(read_results(path)) == len(rows)


def test_batch_and_peers_agree_and_are_timed():
    ((table, _, ts),) = jobs._batch_job([photo(48, 64, s) for s in range(3)], "cpu", bs=4)
    assert table == "batch" and ts[0].name == "batch of 4, cpu" and ts[0].median > 0
    tables = jobs._dog_job([photo(96, 128)], "cpu", sigmas=(2, 20))
    assert [s for _, s, _ in tables] == [2, 20]
    names = ["modified_dog", "SciPy, float64", "scikit-image, float64", "OpenCV, 8 bit"]
    assert [t.name for t in tables[0][2]] == names + ["kornia, float32"] * bool(importlib.util.find_spec("kornia"))


def test_kornia_joins_where_it_is_installed(monkeypatch):
    """A stand-in for kornia: it is looked for by name, called with its own signature, and its answer is checked like
    the others'."""
    import torch

    calls = []

    def gaussian_blur2d(x, kernel, sigma):
        calls.append((kernel, sigma))
        g = cv2.GaussianBlur(x[0, 0].numpy(), kernel[::-1], sigma[0], borderType=cv2.BORDER_REFLECT_101)
        return torch.from_numpy(g)[None, None]

    filters = types.SimpleNamespace(gaussian_blur2d=gaussian_blur2d)
    monkeypatch.setitem(sys.modules, "kornia.filters", filters)
    monkeypatch.setitem(sys.modules, "kornia", types.SimpleNamespace(filters=filters))
    monkeypatch.setattr(jobs, "find_spec", lambda name: name == "kornia")
    ((_, sigma, ts),) = jobs._dog_job([photo(96, 128)], "cpu", sigmas=(4,))
    assert ts[-1].name == "kornia, float32" and calls[0] == ((37, 37), (4, 4))


def test_ladder_and_floor_jobs():
    frames = [photo(160, 200, s) for s in range(2)]
    (crop, sigma, low), (name, _, rungs) = jobs._ladder_job(frames, "cpu")
    assert (crop, sigma, name) == ("crop of 60x80", 5, "ladder") and [t.name for t in rungs] == list(LADDER)
    assert low[0].median > 20 * low[1].median
    ((table, _, floor),) = jobs._floor_job(frames, "cpu")
    assert (
        table == "floor"
        and [t.name for t in floor] == ["grey conversion", "copy of the photo"]
        and all(len(t.ms) == 2 for t in floor)
    )


def test_photos_are_spread_over_the_set(data):
    frames, where = jobs._photos(3)
    assert len(frames) == 3 and where == "NYU Depth V2" and {f.shape for f in frames} == {(480, 640, 3)}
    assert all((a != b).any() for a, b in zip(frames, frames[1:]))


def test_photos_without_data(monkeypatch):
    monkeypatch.setattr(jobs, "data_root", lambda: None)
    frames, where = jobs._photos(2)
    assert where == "rendered rooms" and [f.shape for f in frames] == [(480, 640, 3)] * 2


def test_one_state_only(tmp_path):
    rows = bench_dog(frames=[photo()], jobs=("scores", "floor"), states=("cold",), clock="cpu")
    assert {(r["table"], r["state"]) for r in rows} == {("scores", "cold"), ("floor", "warm")}


def test_a_wrong_batch_is_not_timed(monkeypatch):
    from dogdepth import dog

    right = dog.modified_dog_batch
    monkeypatch.setattr(dog, "modified_dog_batch", lambda x: right(x) + 2 / 255)
    with pytest.raises(ValueError, match="differs from modified_dog by .* levels: not timed"):
        jobs._batch_job([photo(48, 64)], "cpu")


def test_a_job_that_fails_says_why():
    with pytest.raises(RuntimeError, match="timing job 'scores' failed"):
        fresh("scores", [photo(16, 16)])  # the rungs want larger frames


def test_wrong_arguments():
    with pytest.raises(ValueError, match="clock should be one of"):
        bench_dog(clock="sun")
    with pytest.raises(ValueError, match="jobs should be among"):
        bench_dog(jobs=("everything",))
    with pytest.raises(ValueError, match="1 or more"):
        bench_dog(n=0)


# --- the file


def test_results_replace_their_own_tables(tmp_path):
    row = lambda table, name, ms, state="warm": dict(table=table, sigma="", state=state, name=name, median_ms=ms)
    write_results([row("filter", "a", 1.0), row("filter", "a", 7.0, "cold"), row("scores", "b", 2.0)], tmp_path)
    path = write_results([row("filter", "c", 3.123456)], tmp_path)
    got = [(r["table"], r["name"], r["state"], r["median_ms"]) for r in read_results(path)]
    assert sorted(got) == [("filter", "a", "cold", 7.0), ("filter", "c", "warm", 3.1235), ("scores", "b", "warm", 2.0)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    write_results([row("video", "d", 4.0) | dict(photos="mine")], tmp_path)  # a column more: nobody's is lost
    write_results([row("video", "d", 5.0)], tmp_path)
    write_results([row("floor", "e", 6.0) | dict(photos="mine")], tmp_path)
    got = {r["table"]: r for r in read_results(path)}
    assert got["video"]["median_ms"] == 5 and (got["floor"]["photos"], got["video"]["photos"]) == ("mine", "")


def test_stored_results_name_no_computer():
    import platform
    from pathlib import Path

    for p in (Path(__file__).parents[1] / "results").glob("timing-*.csv"):
        rows = read_results(p)
        assert {"filter", "scores", "dog", "ladder", "floor", "batch"} <= {
            r["table"] for r in rows
        } and p.name == f"timing-{machine_slug(rows[0])}.csv"
        assert len(platform.node()) < 4 or platform.node() not in p.read_text()


def test_jobs_and_states_are_json(tmp_path):
    assert json.dumps(list(JOBS)) and all(isinstance(v, str) for s in STATES.values() for v in s.values())


def test_the_head_of_a_table_speaks_for_all_its_rows():
    e = dict(
        environment(),
        table="scores",
        sigma="",
        state="warm",
        clock="cpu",
        size="8x8",
        runs=1,
        median_ms=1.0,
        q25_ms=1.0,
        q75_ms=1.0,
    )
    head = format_rows(
        [
            e | dict(name="a", commit="abc", load=1.5, photos=""),
            e | dict(name="b", commit="def", load=4.0, photos="mine"),
        ]
    ).splitlines()[0]
    assert "commit abc, def" in head and "load 1.5 to 4" in head and "mine" in head
    with pytest.raises(ValueError, match="at least one row"):
        format_rows([])


def test_wrong_clocks_and_states():
    with pytest.raises(ValueError, match="clock should be"):
        bench(lambda: 0, clock="sun")
    with pytest.raises(ValueError, match="states should be among"):
        bench_dog(frames=[photo()], jobs=("scores",), states=("hot",))
