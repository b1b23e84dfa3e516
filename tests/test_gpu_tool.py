"tools/gpu.sh: a rehearsal of the whole run; a part that fails, hangs or dies stops nothing and says why in its CSV."

import csv
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("gpu", ROOT / "tools" / "gpu.py")
gpu = sys.modules["gpu"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu)

WHO = dict(card="a card", cores=2, torch="2", cuda="13.0", date="2026-01-01", commit="abc", slug="a-card")
BROKEN = """
import os, sys, time
sys.path[:0] = [{tools!r}, {top!r}]
import gpu
def raises(table, scale, who, work):
    "A row, then a failure."
    table.add("before it", images_per_s=1.0)
    raise RuntimeError("the cable is out")
def hangs(table, scale, who, work):
    "A row, then nothing."
    table.add("before it", images_per_s=2.0)
    time.sleep(600)
def dies(table, scale, who, work):
    "Dies."
    os.kill(os.getpid(), 9)
def works(table, scale, who, work):
    "Two rows, one of which fails."
    table.measure("bad", lambda: 1 / 0)
    table.measure("good", lambda: dict(images_per_s=3.0))
gpu.machine = lambda: {who!r}
gpu.ask_machine = lambda tiny: gpu.machine()
gpu.PARTS = {{p.name: p for p in (gpu.Part("raises", "rates", 60, raises), gpu.Part("hangs", "rates", 60, hangs),
    gpu.Part("dies", "steps", 60, dies, "processor"), gpu.Part("works", "rates", 60, works, needs=("dies",)))}}
if __name__ == "__main__":
    sys.exit(gpu.main(command=(sys.executable, __file__)))
"""


def rows_of(out, kind):
    (path,) = Path(out).glob(f"gpu-{kind}-*.csv")
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_a_part_that_fails_says_why_and_stops_nothing(tmp_path):
    script, out = tmp_path / "broken.py", tmp_path / "out"
    script.write_text(BROKEN.format(tools=str(ROOT / "tools"), top=str(ROOT), who=WHO))
    start = time.monotonic()
    r = subprocess.run([sys.executable, script, out, "--tiny", "--limit", "hangs=8"], capture_output=True, text=True)
    assert r.returncode == 1, r.stdout + r.stderr
    assert time.monotonic() - start < 120
    rates, steps = rows_of(out, "rates"), rows_of(out, "steps")
    said = {(row["part"], row["name"]): row["reason"] for row in rates + steps}
    assert said == {
        ("raises", "before it"): "",
        ("raises", "raises"): "exit status 1: RuntimeError: the cable is out",
        ("hangs", "before it"): "",
        ("hangs", "hangs"): "took longer than its 8 s",
        ("dies", "dies"): "ended by signal SIGKILL (out of memory?)",
        ("works", "bad"): "ZeroDivisionError: division by zero",
        ("works", "good"): "",
    }
    assert all(
        (row["card"], row["torch"], row["cuda"], row["date"], row["commit"])
        == ("a card", "2", "13.0", "2026-01-01", "abc")
        for row in rates + steps
    )
    assert {row["images_per_s"] for row in rates} == {"1.0", "2.0", "3.0", ""}
    assert "failed in hangs: hangs" in r.stdout and "the cable is out" in (out / "summary.md").read_text()
    assert "the cable is out" in (out / "log.txt").read_text()
    assert len(list(out.iterdir())) <= 8  # few enough to copy by hand


def test_past_its_time_a_part_is_killed_with_what_it_started(tmp_path):
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
    assert gpu.watch([sys.executable, "-c", code], 3, tmp_path / "log") == "took longer than its 3 s"
    pid = int((tmp_path / "log").read_text())
    for _ in range(50):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or re.search(r"State:\s+Z", status.read_text()):
            return
        time.sleep(0.1)
    raise AssertionError("the grandchild lives on")


def test_when_the_minutes_are_up_the_rest_is_left_out(tmp_path):
    runner = gpu.Runner(tmp_path, WHO, False, 0.0, {}, [sys.executable, "-c", "raise SystemExit('should not run')"])
    assert runner.all([gpu.PARTS["answers"]]) == {"answers": ["answers"]}
    assert [r["reason"] for r in rows_of(tmp_path, "answers")] == ["left out: the 0 minutes were up"]


def test_a_row_is_on_disk_at_once_and_another_run_replaces_its_own_part(tmp_path):
    first = gpu.Table(tmp_path, gpu.PARTS["published"], WHO)
    first.add("a", images_per_s=1 / 3)
    assert [r["images_per_s"] for r in rows_of(tmp_path, "steps")] == ["0.333333"]
    first.add("b", "no memory")
    gpu.Table(tmp_path, gpu.PARTS["light"], WHO).add("c", report_minutes=2.0)
    gpu.Table(tmp_path, gpu.PARTS["published"], WHO).add("d")
    assert [(r["part"], r["name"]) for r in rows_of(tmp_path, "steps")] == [("light", "c"), ("published", "d")]


def test_the_report_on_paper(tmp_path):
    "The goal, 50 epochs of 16,000 frames below 45 minutes: on a current card in 16 bits, not in fp32, not on a V100."
    from dataclasses import replace

    gpu.part_paper(gpu.Table(tmp_path, gpu.PARTS["paper"], WHO), replace(gpu.TINY, recipes=2), WHO, tmp_path)
    rows = {(r["name"], r["on"]): r for r in rows_of(tmp_path, "paper")}
    assert not any(r["reason"] for r in rows.values())
    below = {k for k, r in rows.items() if r["below_goal"] == "True"}
    assert below == {("16 bits, channels_last", "H100"), ("16 bits, channels_last", "H200")}
    r = rows["16 bits, channels_last", "H100"]
    assert float(r["minutes_at_ceiling"]) == pytest.approx(800_000 / float(r["images_per_s"]) / 60, rel=1e-3)
    assert float(r["minutes_at_share"]) == pytest.approx(float(r["minutes_at_ceiling"]) / 0.6, rel=1e-3)
    assert float(r["share_for_goal"]) == pytest.approx(float(r["minutes_at_ceiling"]) / 45, rel=1e-3)


def test_a_known_card_is_taken_from_its_data_sheet():
    from dogdepth.v100 import CARDS

    assert gpu.ceiling("NVIDIA H100 80GB HBM3", False, False) == CARDS["H100"]
    assert gpu.ceiling("NVIDIA H100 80GB HBM3", True, False).fp32 == 494.7e12
    assert gpu.ceiling("NVIDIA H200", False, False).bytes == 4.8e12
    assert gpu.ceiling("Tesla V100-SXM2-32GB", True, False) == CARDS["V100"]  # it has no TF32


def test_steps_are_the_recipes_that_the_course_names():
    cfg = gpu.config("published", gpu.Scale(), **gpu.RECIPES["fp32"][0])
    from dogdepth.train import TrainConfig

    report = TrainConfig.report()
    for field in (
        "arch",
        "bs",
        "height",
        "width_px",
        "width",
        "amp",
        "loss",
        "optimizer",
        "channels_last",
        "checkpointing",
        "ema",
    ):
        assert getattr(cfg, field) == getattr(report, field), field
    light = gpu.config("light", gpu.Scale(), amp="bf16")
    assert (light.arch, light.bs, light.height, light.width_px, light.loss) == ("light", 30, 480, 640, "log")
    assert gpu.report_minutes(800_000 / 3600 / 28) == pytest.approx(28 * 60)


@pytest.mark.parametrize(
    "args,says",
    [
        (["--only", "nothing"], "no part nothing"),
        (["--limit", "rates"], "NAME=SECONDS"),
        (["--limit", "rates=x"], "NAME=SECONDS"),
    ],
)
def test_bad_arguments_are_told(args, says, capsys):
    with pytest.raises(SystemExit) as e:
        gpu.main(args)
    assert e.value.code == 2 and says in capsys.readouterr().err


def test_a_part_brings_what_it_needs():
    assert [p.name for p in gpu.chosen("train")] == ["rooms", "train"]
    assert [p.name for p in gpu.chosen(None)] == list(gpu.PARTS)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_without_a_card_the_script_says_so():
    r = subprocess.run(
        [ROOT / "tools/gpu.sh"],
        capture_output=True,
        text=True,
        env=os.environ | dict(CUDA_VISIBLE_DEVICES="", PYTHON=sys.executable),
    )
    assert r.returncode == 2 and "sees a CUDA card" in r.stderr and "--tiny" in r.stderr


@pytest.mark.slow
def test_rehearsal_of_everything(tmp_path):
    r = subprocess.run(
        [ROOT / "tools/gpu.sh", tmp_path, "--tiny", "--minutes", "30"],
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHON=sys.executable),
    )
    assert r.returncode == 0, r.stdout + r.stderr
    rows = [row for kind in ("steps", "rates", "answers", "curve", "paper") for row in rows_of(tmp_path, kind)]
    assert {row["part"] for row in rows} == set(gpu.PARTS) and not any(row["reason"] for row in rows)
    steps = [row for row in rows if row["part"] in ("published", "light", "compiled")]
    assert {(row["network"], row["name"].partition(", ")[2]) for row in steps} >= {
        (n, k)
        for n in ("published", "light")
        for k in gpu.RECIPES
        if k not in ("fp32", "bf16, channels_last, cudnn.benchmark")
    }
    for row in steps:
        assert float(row["images_per_s"]) == pytest.approx(1e3 * int(row["bs"]) / float(row["median_ms"]), rel=1e-3)
        assert float(row["peak_gb"]) == pytest.approx(float(row["predicted_gb"]), rel=0.5, abs=0.02)
    near = {row["name"]: float(row["largest"]) for row in rows if row["part"] == "answers"}
    assert near["fp32 again"] == 0 < near["fp16, autocast"] < near["bf16, autocast"] < 0.2
    curve = [row for row in rows if row["part"] == "train" and row["name"] == "light"]
    assert [row["epoch"] for row in curve] == ["1", "2"] and all(float(row["valid_abs_rel"]) > 0 for row in curve)
    assert "A rehearsal" in (tmp_path / "summary.md").read_text()
    assert len(list(tmp_path.iterdir())) <= 8
