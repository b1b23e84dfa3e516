"The command line: exit codes, one line on stderr, nothing left behind, and each verb's files."

import dataclasses
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image
from hypothesis import given, settings
from hypothesis import strategies as st

import dogdepth
from dogdepth.cli import VERBS, main
from dogdepth.console import Parser, guarded, shown
from dogdepth.depth import Camera, read_depth
from dogdepth.flags import add_fields, field_notes
from dogdepth.layout import write_nyu
from dogdepth.outputs import depth_picture, depth_range, photo_files, photo_names, staged, write_prediction
from dogdepth.predict import Prediction
from dogdepth.rooms import Rooms, render_room

EXE = Path(sys.executable).with_name("dogdepth")
VERB_WORDS = [
    [n] if not isinstance(v[1], dict) else [n, m]
    for n, v in VERBS.items()
    for m in (v[1] if isinstance(v[1], dict) else [""])
]


def dogdepth_(*words, cwd=None, **kw):
    return subprocess.run([EXE, *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=120, **kw)


def left(folder):
    "Every file and folder below `folder`, hidden ones too."
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*"))


class Refused:
    "Run the command on bad input: exit code, one line, and nothing new on disk."

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys

    def __call__(self, *words, match, code=2):
        before = left(self.folder)
        self.capsys.readouterr()
        assert main([str(w) for w in words]) == code
        err = self.capsys.readouterr().err
        assert err.count("\n") == 1 and err.endswith("\n"), f"not one line: {err!r}"
        assert err.startswith("dogdepth"), err
        assert "Traceback" not in err and re.search(match, err), err
        assert left(self.folder) == before
        return err


@pytest.fixture
def refused(tmp_path, capsys):
    return Refused(tmp_path, capsys)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    p = tmp_path_factory.mktemp("photo") / "room.jpg"
    cv2.imwrite(str(p), render_room(3, 60, 80)["image"][..., ::-1])
    return p


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A small network that knows nothing: these tests are about files and exit codes."
    import torch

    from dogdepth.attention import DepthUNet

    folder = tmp_path_factory.mktemp("weights") / "w"
    torch.manual_seed(0)
    DepthUNet("report", width=4, height=48, width_px=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    "Three rooms in the Kaggle layout."
    root = tmp_path_factory.mktemp("data") / "rooms"
    write_nyu(Rooms(3, 48, 64), root)
    return root


# --- help, version, usage


@pytest.mark.parametrize("verb", VERB_WORDS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert main([*verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"usage: dogdepth {' '.join(verb)}" in out and f"example:\n  dogdepth {' '.join(verb)}" in out and not err


def test_the_example_of_each_verb_is_accepted():
    from dogdepth.cli import make_parser

    for words in VERB_WORDS:
        v = VERBS[words[0]] if len(words) == 1 else VERBS[words[0]][1][words[1]]
        argv = v[1].split()[1:]
        assert callable(make_parser(argv).parse_args(argv).run)


def test_help_names_each_verb_and_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {v} " in out for v in VERBS) and re.search(
        "exit codes: .*130 stopped with Ctrl-C, 143 asked to stop", out
    )


def test_help_loads_nothing_heavy():
    code = "import sys; from dogdepth.cli import main; main(['--help']); print(*({'torch','numpy','cv2','matplotlib','plotly','skimage','h5py'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1] == ""


def test_help_is_quick():
    ts = []
    for _ in range(3):
        t = time.perf_counter()
        assert dogdepth_("--help").returncode == 0
        ts.append(time.perf_counter() - t)
    assert min(ts) < 1


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dogdepth {dogdepth.__version__}\n"


@pytest.mark.parametrize(
    "words, match",
    [
        ([], "VERB"),
        (["fly"], "fly"),
        (["predict"], "PHOTO"),
        (["predict", "x.jpg"], "--out"),
        (["predict", "x.jpg", "--out", "o", "--nope"], "--nope"),
        (["predict", "x.jpg", "--out", "o", "--gl"], "--gl"),
        (["predict", "x.jpg", "--out", "o", "--fov", "wide"], "wide"),
        (["predict", "x.jpg", "--out", "o", "--fov", "60", "--fx", "500"], "not allowed with"),
        (["evaluate", "r", "--crop", "mine"], "mine"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--colou", ".1"], "--colou"),
        (["data"], "VERB"),
        (["data", "mend"], "mend"),
        (["data", "rooms", "o"], "--n"),
        (["data", "get", "everything"], "everything"),
        (["bench", "film"], "film"),
    ],
)
def test_bad_usage_is_one_line_and_2(words, match, refused):
    line = refused(*words, match=match)
    verb = " ".join(
        ["dogdepth", *(w for w in words[:2] if w in ("predict", "evaluate", "train", "data", "rooms", "get", "bench"))]
    )
    assert line.startswith(f"{verb}: ") and line.endswith(f"See: {verb} --help\n")


# --- exit codes


@pytest.mark.parametrize(
    "error, code, line",
    [
        (ValueError("two\nlines."), 2, "x: two lines"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "x: No such file or directory: a.png"),
        (PermissionError(13, "Permission denied", "b"), 2, "x: Permission denied: b"),
        (RuntimeError("out of memory"), 1, "x: out of memory"),
        (RuntimeError(), 1, "x: RuntimeError"),
        (OSError(28, "No space left on device"), 1, "x: No space left on device"),
        (MemoryError(), 1, "x: not enough memory"),
        (KeyError("k"), 1, "x: 'k'"),
        (ImportError("libGL.so.1: cannot open shared object file"), 1, "libgl1"),
        (KeyboardInterrupt(), 130, "x: stopped"),
    ],
)
def test_what_is_raised_becomes_a_code_and_one_line(error, code, line, capsys):
    def run():
        raise error

    assert guarded(run, "x") == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err and err.startswith("x: ")


def test_exit_codes_of_what_is_returned():
    assert [guarded(lambda: r, "x") for r in (None, 0, 3)] == [0, 0, 3]
    assert guarded(lambda: sys.exit(143), "x") == 143


@pytest.mark.parametrize(
    "words, env, shown",
    [
        ([], {}, False),
        (["--debug"], {}, True),
        ([], {"DOGDEPTH_DEBUG": "1"}, True),
        ([], {"DOGDEPTH_DEBUG": "0"}, False),
    ],
)
def test_debug_shows_where_it_came_from(words, env, shown, monkeypatch, capsys):
    monkeypatch.delenv("DOGDEPTH_DEBUG", raising=False)
    for k, v in env.items():
        monkeypatch.setenv(k, v)
    assert main(["data", "check", "no/such/folder", *words]) == 2
    assert ("Traceback" in capsys.readouterr().err) is shown


# --- all or nothing


@pytest.mark.parametrize("inside", ["", "a/b/c"])
def test_staged_moves_everything_or_nothing(tmp_path, inside):
    out = tmp_path / inside
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), staged(out) as s:
            (s / "x.txt").write_text("half")
            raise error
        assert left(tmp_path) == []
    with staged(out) as s:
        (s / "sub").mkdir()
        (s / "sub" / "x.txt").write_text("1")
        (s / "y.txt").write_text("2")
        assert not (out / "y.txt").exists()
    assert left(out) == ["sub", "sub/x.txt", "y.txt"]


def test_staged_keeps_what_is_there_and_replaces_its_own(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for text in "ab":
        with staged(tmp_path) as s:
            (s / "x.txt").write_text(text)
    assert left(tmp_path) == ["mine.txt", "x.txt"] and (tmp_path / "x.txt").read_text() == "b"


def test_staged_moves_pages_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    with staged(tmp_path) as s:
        for n in ("a.html", "b.png", "z.js"):
            (s / n).write_text("")
    assert moved == ["b.png", "z.js", "a.html"]


def test_staged_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/out"):
        with pytest.raises(ValueError, match="is a file"), staged(tmp_path / out):
            pass


# --- predict


def test_predict_writes_what_it_says(photo, weights, tmp_path, capsys):
    assert (
        main(
            [
                "predict",
                str(photo),
                "--out",
                str(tmp_path / "o"),
                "--weights",
                str(weights),
                "--fov",
                "70",
                "--ply",
                "--glb",
                "--html",
                "--video",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert left(tmp_path / "o") == [
        "room.glb",
        "room.html",
        "room.mp4",
        "room.ply",
        "room_camera.json",
        "room_depth.png",
        "room_depth_color.png",
    ]
    raw = cv2.imread(str(tmp_path / "o/room_depth.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16 and raw.shape == (60, 80) and raw.min() > 0
    assert cv2.imread(str(tmp_path / "o/room_depth_color.png")).shape[2] == 3
    camera = json.loads((tmp_path / "o/room_camera.json").read_text())
    assert (
        camera["fov_deg"] == 70 and camera["width"] == 80 and camera["fx"] == pytest.approx(40 / np.tan(np.radians(35)))
    )
    assert "80x60" in out and "70 degrees wide (as given)" in out and "room_depth.png" in out
    assert (tmp_path / "o/room.mp4").read_bytes()[
        4:8
    ] == b"ftyp" and ", .mp4" in out  # tests/test_video.py decodes such films
    page = (tmp_path / "o/room.html").read_text()
    assert len(page) > 4e6 and not re.search(r'<(script|link|img)\b[^>]*(src|href)="https?:', page)


def test_predict_is_what_the_library_says(photo, weights, tmp_path):
    from dogdepth.predict import Predictor, load_photo

    assert main(["predict", str(photo), "--out", str(tmp_path), "--weights", str(weights), "--fx", "90"]) == 0
    want = Predictor(weights).predict(*load_photo(photo, fx=90)).depth_m
    assert np.abs(read_depth(tmp_path / "room_depth.png") - want).max() < 6e-4


def test_known_distance_sets_the_scale(photo, weights, tmp_path):
    assert (
        main(["predict", str(photo), "--out", str(tmp_path), "--weights", str(weights), "--known", "40", "30", "2.5"])
        == 0
    )
    assert read_depth(tmp_path / "room_depth.png")[30, 40] == pytest.approx(
        2.5, abs=2e-3
    )  # near the middle, the ray is the axis


def test_several_photos(photo, weights, tmp_path, capsys):
    (tmp_path / "b.PNG").write_bytes(cv2.imencode(".png", render_room(4, 40, 60)["image"])[1].tobytes())
    assert (
        main(["predict", str(photo), str(tmp_path / "b.PNG"), "--out", str(tmp_path / "o"), "--weights", str(weights)])
        == 0
    )
    assert [p for p in left(tmp_path / "o") if p.endswith("_depth.png")] == ["b_depth.png", "room_depth.png"]
    assert capsys.readouterr().out.count("\n") == 2


def huge_png(width, height):
    "A PNG of a few bytes that claims to be huge."

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


BAD_PHOTOS = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"hello, I am a letter\n", "not an image"),
    "cut.jpg": (None, "cut short|damaged"),
    "dot.png": (cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes(), "at least 8"),
    "huge.png": (huge_png(20000, 20000), "million"),
    "large.png": (huge_png(10001, 10000), "million"),
    "depth.png": (cv2.imencode(".png", np.full((48, 64), 2000, np.uint16))[1].tobytes(), "16 bits"),
    "none.jpg": (False, "no such file"),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_bad_photo_is_refused_before_any_work(name, photo, weights, tmp_path, refused):
    "Alone, and with --strict among others."
    data, match = BAD_PHOTOS[name]
    data = photo.read_bytes()[:700] if data is None else data
    if data is not False:
        (tmp_path / name).write_bytes(data)
    for words in ([tmp_path / name], ["--strict", photo, tmp_path / name]):
        line = refused("predict", *words, "--out", tmp_path / "o", "--weights", weights, match=match)
        assert name in line


def test_bad_photo_in_a_process_of_its_own(photo, tmp_path):
    "What the shell sees: warnings and native libraries included."
    (tmp_path / "large.png").write_bytes(huge_png(9500, 9500))  # Pillow warns about this size
    r = dogdepth_("predict", "large.png", "--out", "o", cwd=tmp_path)
    assert (r.returncode, r.stdout) == (2, "") and r.stderr.count("\n") == 1 and left(tmp_path) == ["large.png"]


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--fov", "0"], "field of view"),
        (["--fov", "180"], "field of view"),
        (["--fx", "-5"], "fx"),
        (["--known", "900", "3", "2"], "outside"),
        (["--known", "1", "1", "-2"], "positive"),
        (["--device", "abacus"], "abacus"),
        (["--weights", "nowhere"], "nowhere"),
    ],
)
def test_bad_flags_of_predict(flags, match, photo, weights, tmp_path, refused):
    refused(
        "predict",
        photo,
        "--out",
        tmp_path / "o",
        *([] if "--weights" in flags else ["--weights", weights]),
        *flags,
        match=match,
    )


def test_folder_instead_of_a_photo_and_file_instead_of_a_folder(photo, weights, tmp_path, refused):
    refused("predict", tmp_path, "--out", tmp_path / "o", match="is a folder without a photo")
    (tmp_path / "file").write_text("")
    refused("predict", photo, "--out", tmp_path / "file", "--weights", weights, match="is a file")
    refused("predict", photo, tmp_path / "file", "--out", tmp_path / "o", "--known", "1", "1", "1", match="one photo")


def test_two_photos_of_one_name_never_overwrite(photo, tmp_path, refused):
    (tmp_path / "ROOM.png").write_bytes(photo.read_bytes())
    refused("predict", photo, tmp_path / "ROOM.png", "--out", tmp_path / "o", match="both become")
    refused("predict", photo, photo, "--out", tmp_path / "o", match="given twice")


def test_a_result_never_replaces_a_photo(photo, tmp_path, refused):
    for n in ("a.jpg", "a_depth.png"):
        (tmp_path / n).write_bytes(photo.read_bytes())
    refused("predict", tmp_path / "a.jpg", tmp_path / "a_depth.png", "--out", tmp_path, match="replace a photo")
    assert photo_names([tmp_path / "a.jpg", tmp_path / "a_depth.png"], tmp_path / "o") == ["a", "a_depth"]


def bad_weights(tmp_path, weights, kind):
    w = tmp_path / "w"
    if kind == "text file":
        w.write_text("I am a poem")
    elif kind == "no config":
        w.mkdir()
    else:
        w.mkdir()
        (w / "config.json").write_bytes((weights / "config.json").read_bytes() if kind != "config" else b"{not json")
        good = (weights / "model.safetensors").read_bytes()
        (w / "model.safetensors").write_bytes(
            {"cut": good[: len(good) // 2], "empty": b"", "noise": b"\x07" * 5000, "config": good}[kind]
        )
    return w


@pytest.mark.parametrize(
    "kind, match",
    [
        ("text file", "weight file"),
        ("no config", "config.json"),
        ("cut", "weight file"),
        ("empty", "weight file"),
        ("noise", "weight file"),
        ("config", "configuration"),
    ],
)
def test_weights_that_are_none(kind, match, photo, rooms, weights, tmp_path, refused):
    w = bad_weights(tmp_path, weights, kind)
    refused("predict", photo, "--out", tmp_path / "o", "--weights", w, match=match)
    refused("evaluate", rooms, "--split", "all", "--json", tmp_path / "e.json", "--weights", w, match=match)


@pytest.mark.parametrize("sig, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_nothing_half_written(photo, weights, tmp_path, sig, code):
    "Stop it while the second photo's files are written: the first one's are whole, of the second there is none."
    (tmp_path / "b.jpg").write_bytes(photo.read_bytes())
    script = (
        "import sys, time, dogdepth.cli_predict as c; from dogdepth.cli import main; w = c.write_prediction\n"
        "def slow(folder, name, *a):\n    f = w(folder, name, *a)\n    if name=='b': print('now', flush=True); "
        "time.sleep(60)\n    return f\n"
        "c.write_prediction = slow; sys.exit(main())"
    )
    p = subprocess.Popen(
        [sys.executable, "-c", script, "predict", photo, "b.jpg", "--out", "o", "--weights", weights],
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # where the tests run in the background it is off
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(line == "now\n" for line in p.stdout)
    assert any(q.startswith("o/.dogdepth-") for q in left(tmp_path))
    p.send_signal(sig)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == code and err.count("\n") <= 1
    assert left(tmp_path) == ["b.jpg", "o", "o/room_camera.json", "o/room_depth.png", "o/room_depth_color.png"]


def test_depth_picture_shows_near_far_holes_and_a_scale():
    depth = np.full((240, 320), 2.0, np.float32)
    depth[:, :100], depth[:, 220:], depth[100:140, 140:180] = 1, 4, 0
    x = np.asarray(depth_picture(depth))
    assert x.shape == (240, 320 + 6 * 12, 3)
    assert (x[120, 160] == 153).all()  # a hole is grey
    near, middle, far = (tuple(x[10, c]) for c in (50, 160, 300))
    assert len({near, middle, far}) == 3 and near[2] > near[0] and far[0] > far[2]  # blue and red
    bar = x[:, 320 + 18]  # far above, near below
    assert tuple(bar[12]) == far and tuple(bar[227]) == near
    assert (x[:, 320 + 30 :] < 128).any(), "the scale has no numbers"
    for odd in (np.zeros((8, 8), np.float32), np.full((9, 300), 3, np.float32)):
        assert depth_picture(odd).size[1] == len(odd)


def test_write_prediction_returns_the_files_it_wrote(tmp_path):
    room = render_room(5, 48, 64)
    files = write_prediction(tmp_path, "r", Prediction(room["depth"], room["camera"], room["image"]), ply=True)
    assert sorted(files) == left(tmp_path)
    assert np.abs(read_depth(tmp_path / "r_depth.png") - room["depth"]).max() <= 6e-4


# --- evaluate


def test_evaluate_prints_and_writes_what_the_library_computes(rooms, weights, tmp_path, capsys):
    from dogdepth.evaluate import evaluate
    from dogdepth.nyu import NYUDepth
    from dogdepth.predict import Predictor

    assert (
        main(
            [
                "evaluate",
                str(rooms),
                "--split",
                "all",
                "--weights",
                str(weights),
                "--json",
                str(tmp_path / "e.json"),
                "--average",
                "pixel",
                "--cap",
                "0.5",
                "6",
                "--align",
                "median",
                "--flip",
            ]
        )
        == 0
    )
    want = evaluate(
        Predictor(weights),
        NYUDepth(rooms, "all"),
        average="pixel",
        cap=(0.5, 6),
        align="median",
        flip=True,
        progress=False,
    )
    got = json.loads((tmp_path / "e.json").read_text())
    assert set(got) == {"protocol", "summary", "images"} and [i["name"] for i in got["images"]] == [
        i["name"] for i in want.images
    ]
    assert {
        k: got["protocol"][k] for k in ("split", "crop", "cap", "average", "align", "flip", "input_size", "weights")
    } == dict(
        split="all",
        crop=None,
        cap=[0.5, 6],
        average="pixel",
        align="median",
        flip=True,
        input_size=[48, 64],
        weights=str(weights),
    )
    assert (
        got["summary"]["abs_rel"] == pytest.approx(want.summary["abs_rel"]) and got["summary"]["n"] == want.summary["n"]
    )
    assert "AbsRel" in capsys.readouterr().out


def test_evaluate_further(rooms, weights, tmp_path, capsys):
    "All protocols, shape and intervals in one run: what the library computes, printed and in the file."
    from dogdepth.evaluate import PROTOCOLS, bootstrap_interval, evaluate, evaluate_protocols
    from dogdepth.tables import mean_of, shape_scores
    from dogdepth.nyu import NYUDepth
    from dogdepth.predict import Predictor

    assert (
        main(
            [
                "evaluate",
                str(rooms),
                "--split",
                "all",
                "--weights",
                str(weights),
                "--protocols",
                "--shape",
                "--interval",
                "--json",
                str(tmp_path / "e.json"),
            ]
        )
        == 0
    )
    out, got = capsys.readouterr().out, json.loads((tmp_path / "e.json").read_text())
    ds = NYUDepth(rooms, "all")
    want = evaluate_protocols(Predictor(weights), ds, progress=False)
    assert list(got["protocols"]) == list(PROTOCOLS) and all(k in out for k in PROTOCOLS)
    for k, e in want.items():
        assert got["protocols"][k]["summary"] == pytest.approx(e.summary, nan_ok=True)
    assert got["summary"] == got["protocols"]["as usual"]["summary"]
    ev = evaluate(Predictor(weights), ds, each=shape_scores, progress=False)
    keys = ["boundary_f1", "boundary_f1_4", "boundary_f1_8", "f_5cm", "f_10cm", "f_20cm"]
    assert list(got["shape"]) == keys
    for k, v in mean_of(ev, keys).items():
        assert got["shape"][k] == pytest.approx(v, nan_ok=True) or got["shape"][k] is None
    lo, hi = bootstrap_interval(ev)
    assert got["interval"]["abs_rel"] == pytest.approx([lo, hi]) and f"abs_rel {lo:.3f} to {hi:.3f}" in out


def test_shape_scores_keep_to_the_crop_and_cap_that_were_asked_for(rooms, weights, monkeypatch, capsys):
    import dogdepth.tables as T

    seen, real = [], T.shape_scores
    monkeypatch.setattr(T, "shape_scores", lambda *a, **kw: seen.append(kw) or real(*a, **kw))
    assert (
        main(
            [
                "evaluate",
                str(rooms),
                "--split",
                "all",
                "--weights",
                str(weights),
                "--shape",
                "--cap",
                "0.5",
                "3",
                "--crop",
                "none",
            ]
        )
        == 0
    )
    assert seen and all(tuple(k["cap"]) == (0.5, 3.0) and k["crop"] is None for k in seen)


def test_evaluate_takes_test_where_there_is_one_else_val(rooms, weights, tmp_path, capsys):
    assert main(["evaluate", str(rooms), "--weights", str(weights)]) == 0
    assert "split val" in capsys.readouterr().out
    both = tmp_path / "both"
    write_nyu(Rooms(2, 48, 64), both)
    write_nyu(Rooms(1, 48, 64, seed=9), both, "test")
    assert main(["evaluate", str(both), "--weights", str(weights)]) == 0
    assert "1 frames of NYUDepth, split test" in capsys.readouterr().out


def test_evaluate_says_when_the_weights_know_the_frames(rooms, weights, tmp_path, capsys):
    """By the names of the rooms: rendered rooms are nobody's, two of these four are NYU's validation rooms, one a
    training room."""

    def said(root, *words):
        capsys.readouterr()
        assert main(["evaluate", str(root), *words]) == 0
        return capsys.readouterr().err

    nyu = tmp_path / "nyu"
    write_nyu(
        [
            r | dict(scene=s)
            for r, s in zip(Rooms(4, 48, 64), ("bedroom_0014", "bedroom_0004", "kitchen_0052", "den_0001"))
        ],
        nyu,
    )
    (nyu / "val_scenes.txt").write_text("bedroom_0014\nkitchen_0052\n")
    note = "note: by their names, {} of these {} frames show rooms of NYU Depth V2 that the {} weights learned from, so this row is no test of them{}\n"
    twin = "; `--weights twin`, the same recipe, learned from {} of them"
    assert said(nyu, "--split", "val") == note.format(2, 2, "default", twin.format("none"))
    assert said(nyu, "--split", "all") == note.format(3, 4, "default", twin.format(1))
    assert said(nyu, "--split", "train", "--weights", "twin") == note.format(1, 2, "twin", "")
    assert (
        said(nyu, "--split", "val", "--weights", "twin")
        == said(rooms, "--split", "all")
        == said(nyu, "--split", "all", "--weights", str(weights))
        == ""
    )
    assert main(["data", "pack", str(nyu), str(tmp_path / "n.h5")]) == 0
    assert said(tmp_path / "n.h5") == note.format(3, 4, "default", twin.format(1))


def test_an_interval_needs_two_rooms_and_says_so_before_the_work(weights, tmp_path, refused, monkeypatch):
    import dogdepth.evaluate as E

    write_nyu(
        [r | dict(scene=s) for r, s in zip(Rooms(3, 48, 64), ("den_0001a", "den_0001b", "den_0002"))], tmp_path / "ds"
    )
    (tmp_path / "ds/val_scenes.txt").write_text("den_0001\n")
    assert main(["data", "pack", str(tmp_path / "ds"), str(tmp_path / "v.h5"), "--split", "val"]) == 0
    monkeypatch.setattr(E, "evaluate_protocols", lambda *a, **kw: pytest.fail("the frames were predicted first"))
    for words in ((tmp_path / "ds", "--split", "val"), (tmp_path / "ds", "--split", "train"), (tmp_path / "v.h5",)):
        refused(
            "evaluate",
            *words,
            "--weights",
            weights,
            "--interval",
            "--json",
            tmp_path / "s.json",
            match="--interval draws rooms again and needs two or more, .* has 1 in this split",
        )


def write_mat(path, n=3):
    "A file of the structure of nyu_depth_v2_labeled.mat."
    with h5py.File(path, "w") as f:
        f["images"] = np.stack([r["image"].transpose(2, 1, 0) for r in Rooms(n, 48, 64)])
        f["depths"] = f["rawDepths"] = np.stack([r["depth"].T for r in Rooms(n, 48, 64)])


def test_evaluate_reads_mat_and_packed_files(rooms, weights, tmp_path, capsys):
    write_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    for root in (tmp_path, tmp_path / "nyu_depth_v2_labeled.mat"):
        assert main(["evaluate", str(root), "--split", "all", "--weights", str(weights)]) == 0
        assert "3 frames of NYULabeled" in capsys.readouterr().out
    assert main(["data", "pack", str(rooms), str(tmp_path / "r.h5")]) == 0
    assert "3 frames" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "r.h5"), "--weights", str(weights)]) == 0
    assert "3 frames of PackedDepth" in capsys.readouterr().out


def broken_rows(rooms, tmp_path, row):
    import shutil

    root = tmp_path / "bad"
    shutil.copytree(rooms, root)
    with open(root / "data/nyu2_train.csv", "a") as f:
        f.write(row + "\n")
    return root


@pytest.mark.parametrize(
    "row, match",
    [
        ("only_a_photo.jpg", r"nyu2_train.csv:4 .*1 field"),
        ("a.jpg,b.png,c.png", r":4 .*3 fields"),
        ("/etc/a.jpg,/etc/b.png", r":4 leaves"),
        ("no/a.jpg,no/a.png", r"no such file.*a\.jpg.*nyu2_train.csv:4"),
    ],
)
def test_wrong_row_of_a_list(row, match, rooms, weights, tmp_path, refused):
    root = broken_rows(rooms, tmp_path, row)
    refused("evaluate", root, "--split", "all", "--weights", weights, "--json", tmp_path / "e.json", match=match)
    refused("data", "pack", root, tmp_path / "o.h5", match=match)
    refused("data", "check", root, match="[12] defects? in .*(1 bad-row|2 missing-file)")


def test_wrong_row_stops_training_before_anything_is_written(rooms, tmp_path, refused):
    refused("train", "--data", broken_rows(rooms, tmp_path, "x"), "--out", tmp_path / "run", match=":4 ")


@pytest.mark.parametrize(
    "words", [["evaluate"], ["data", "check"], ["data", "pack"], ["train", "--data"]], ids=" ".join
)
def test_missing_folder(words, tmp_path, refused):
    more = {"pack": [tmp_path / "o.h5"], "--data": ["--out", tmp_path / "run"]}.get(words[-1], [])
    refused(*words, tmp_path / "nowhere", *more, match="nowhere.*not there")


@pytest.mark.parametrize(
    "words, match",
    [
        (["--cap", "5", "1"], "cap"),
        (["--json", "no/such/folder/e.json"], "no such folder"),
        (["--json", "."], "is a folder"),
        (["--split", "test"], "nyu2_test.csv"),
        (["--crop", "eigen"], "480x640.*--crop none"),
        (["--split", "all", "--cap", "100", "200"], r"no pixel of the truth lies between 100 and 200 m.*--cap"),
        (["--split", "all", "--cap", "0.001", "0.002", "--interval", "--shape"], "between 0.001 and 0.002 m"),
        (["--protocols", "--flip"], "leave --flip, --crop"),
        (["--protocols", "--cap", "1", "5"], "leave --flip"),
        (["--average", "pixel", "--protocols"], "leave --flip"),
    ],
)
def test_bad_flags_of_evaluate(words, match, rooms, weights, refused):
    refused("evaluate", rooms, "--weights", weights, *words, match=match)


def test_files_that_are_no_data_set(tmp_path, refused):
    for name in ("x.mat", "x.h5"):
        (tmp_path / name).write_text("text")
        refused("evaluate", tmp_path / name, match="HDF5")
        refused("evaluate", tmp_path / f"no{name}", match="no such file")
    refused("evaluate", tmp_path / "x.h5", "--split", "val", match="leave --split out")


# --- data


def test_rooms_then_check(tmp_path, capsys):
    from dogdepth.nyu import NYUDepth

    out = tmp_path / "new" / "rooms"
    assert main(["data", "rooms", str(out), "--n", "3", "--size", "48", "64", "--seed", "5"]) == 0
    ds = NYUDepth(out, "all")
    assert len(ds) == 3 and ds[0]["depth"].shape == (48, 64) and ds[0]["scene"] == "room_00005"
    assert (
        np.abs(ds[0]["depth"] - render_room(5, 48, 64)["depth"]).max() < 0.03
        or render_room(5, 48, 64)["depth"].max() > 9.9
    )
    assert not [p for p in left(tmp_path) if ".dogdepth" in p]
    assert main(["data", "check", str(out)]) == 0
    assert "no defect" in capsys.readouterr().out


def test_check_names_the_defect_and_answers_2(rooms, tmp_path, capsys):
    root = broken_rows(rooms, tmp_path, "x.jpg")
    assert main(["data", "check", str(root)]) == 2
    out, err = capsys.readouterr()
    assert "bad-row" in out and err.count("\n") == 1


@pytest.mark.parametrize(
    "words, match", [(["--n", "0"], "1 or more"), (["--n", "2", "--size", "4", "4"], "at least 32")]
)
def test_bad_flags_of_rooms(words, match, tmp_path, refused):
    refused("data", "rooms", tmp_path / "o", *words, match=match)


def test_rooms_never_mixes_with_what_is_there(tmp_path, refused):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/diary.txt").write_text("mine")
    refused("data", "rooms", tmp_path / "o", "--n", "1", match="not empty")


def test_pack_wants_h5(rooms, tmp_path, refused):
    refused("data", "pack", rooms, tmp_path / "o.zip", match=r"\.h5")
    refused("data", "pack", rooms, tmp_path / "no/o.h5", match="no such folder")
    for size in (("0", "0"), ("24", "0"), ("-24", "32")):
        refused(
            "data",
            "pack",
            rooms,
            tmp_path / "o.h5",
            "--size",
            *size,
            match=rf"size should be \(H,W\) in pixels, 1 or more each, got \({size[0]}, {size[1]}\)",
        )


def test_get_hands_over_the_folder(tmp_path, monkeypatch, capsys):
    import dogdepth.download

    asked = []
    monkeypatch.setattr(dogdepth.download, "fetch_labeled", lambda to: (asked.append(to), Path(to) / "f.mat")[1])
    assert main(["data", "get", "labeled", "--to", str(tmp_path)]) == 0 and asked == [str(tmp_path)]
    monkeypatch.setattr(
        dogdepth.download, "fetch_labeled", lambda to: (_ for _ in ()).throw(OSError("the server is away"))
    )
    assert main(["data", "get", "labeled"]) == 1
    assert capsys.readouterr().err == "dogdepth data get: the server is away\n"


# --- train


def test_flags_are_the_fields_of_trainconfig():
    from dogdepth.train import TrainConfig

    p = Parser("t")
    add_fields(p, TrainConfig)
    assert vars(p.parse_args([])) == {}
    notes = field_notes(TrainConfig)
    for f in dataclasses.fields(TrainConfig):
        flag = "--" + f.name.replace("_", "-")
        assert notes.get(f.name), f"{f.name} has no comment"
        if isinstance(f.default, bool):
            assert vars(p.parse_args([flag])) == {f.name: True} and vars(p.parse_args(["--no" + flag[1:]])) == {
                f.name: False
            }
        else:
            value = f.default if f.default is not None else "x"
            got = vars(p.parse_args([f"{flag}={value}"]))
            assert got == {f.name: value} and type(got[f.name]) is type(value)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6),
    st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)
def test_any_value_survives_its_flag(i, x, b, s):
    p = Parser("t")
    add_fields(p, Toy)
    got = vars(p.parse_args([f"--count={i}", f"--rate-ms={x!r}", "--warm" if b else "--no-warm", f"--label={s}"]))
    assert got == dict(count=i, rate_ms=x, warm=b, label=s)


@dataclasses.dataclass
class Toy:
    count: int = 3  # how many
    rate_ms: float = 1.5  # 50 % of it, ms
    warm: bool = True  # or cold
    label: str = ""  # a "name"


def test_fields_of_a_class_without_source():
    Made = dataclasses.make_dataclass("Made", [("n", int, 3)])
    p = Parser("t")
    add_fields(p, Made)
    assert field_notes(Made) == {} and vars(p.parse_args(["--n", "4"])) == {"n": 4}


def test_help_shows_comment_and_default():
    p = Parser("t")
    add_fields(p, Toy)
    text = re.sub(r"\s+", " ", p.format_help())
    assert (
        "--count INT how many (default 3)" in text
        and "--warm, --no-warm or cold (default yes)" in text
        and "50 % of it, ms (default 1.5)" in text
    )


TINY = [
    "--arch",
    "report",
    "--width",
    "4",
    "--height",
    "48",
    "--width_px",
    "64",
    "--bs",
    "2",
    "--no-pretrained",
    "--amp",
    "off",
    "--split-by",
    "frame",
]


def test_train_then_resume(rooms, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", "--data", str(rooms), "--out", str(run), "--epochs", "1", *TINY]
    assert main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert {"best", "config.json", "last.safetensors", "log.csv"} <= set(left(run)) and str(run / "best") in out
    cfg = json.loads((run / "config.json").read_text())
    assert (cfg["epochs"], cfg["bs"], cfg["width_px"], cfg["pretrained"]) == (1, 2, 64, False)
    assert main(["train", "--out", str(run), "--resume"]) == 0  # its own settings; nothing left to do
    capsys.readouterr()
    assert main(words) == 2 and "already holds a run" in capsys.readouterr().err
    assert main(["train", "--out", str(run), "--resume", "--lr", "0.5"]) == 2
    err = capsys.readouterr().err
    assert "lr was" in err and err.count("\n") == 1
    assert (
        main(["predict", str(next(rooms.rglob("*.jpg"))), "--out", str(tmp_path / "o"), "--weights", str(run / "best")])
        == 0
    )


def test_a_bad_setting_is_refused_before_anything_is_said(rooms, tmp_path, capsys):
    for words in (["--epochs", "0"], ["--lr", "-1"]):
        assert main(["train", "--data", str(rooms), "--out", str(tmp_path / "run"), *TINY, *words]) == 2
        out, err = capsys.readouterr()
        assert out == "" and words[0][2:] in err and err.count("\n") == 1 and not left(tmp_path)


@pytest.mark.parametrize(
    "words, match",
    [
        (["--resume"], "nothing to resume"),
        (["--resume", "--recipe", "report"], "--recipe"),
        (["--arch", "huge", "--no-pretrained", "--bs", "2"], "arch"),
        (["--loss", "none"], "loss"),
        (["--optimizer", "sgd"], "optimizer"),
        (["--bs", "50"], "batch"),
        (["--epochs", "1", "--out", "a/b/run", "--bs", "50"], "batch"),
    ],
)
def test_bad_settings(words, match, rooms, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("train", "--data", rooms, "--out", tmp_path / "run", *TINY, *words, match=match)  # what is said last counts


def test_resume_from_a_broken_config(tmp_path, refused):
    for text in ("{", '{"speed": 3}'):
        (tmp_path / "config.json").write_text(text)
        refused("train", "--out", tmp_path, "--resume", match="not the settings of a run")


def test_recipe_report():
    from dogdepth.cli import make_parser
    from dogdepth.cli_train import train_config
    from dogdepth.train import TrainConfig

    words = ["train", "--recipe", "report", "--bs", "4"]
    assert train_config(make_parser(words).parse_args(words)) == TrainConfig.report(bs=4)
    assert train_config(make_parser(["train"]).parse_args(["train"])) == TrainConfig()


@pytest.mark.parametrize("words", [["train", "--small"], ["train", "--recipe", "small"]], ids=" ".join)
def test_recipe_small(words):
    from dogdepth.cli import make_parser
    from dogdepth.cli_train import train_config
    from dogdepth.train import TrainConfig

    words = [*words, "--epochs", "2"]
    assert train_config(make_parser(words).parse_args(words)) == TrainConfig.small(epochs=2)


# --- bench


def test_bench_dog(capsys, monkeypatch):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    assert main(["bench", "dog", "--repeat", "1"]) == 0
    out = capsys.readouterr().out
    assert "480x640" in out and "modified_dog" in out and re.search(r"\| filter \|.*\| warm \| [\d.]+ \|", out)


def test_bench_refuses_no_photos(refused):
    refused("bench", "dog", "--repeat", "0", match="1 or more")
    refused("bench", "video", "--repeat", "0", match="1 or more")
    refused("bench", "video", "--clock", "cpu", match="several threads")


def test_bench_video(capsys, monkeypatch, tmp_path):
    import dogdepth.film as film

    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    monkeypatch.setattr(film, "_scatter_s", lambda it: 5.0)
    assert main(["bench", "video", "--repeat", "1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "orbit_video, sway, 120 frames" in out and "about 120 s" in out and list(tmp_path.glob("timing-*.csv"))


# --- export, bench model


def test_export_writes_what_predict_can_use(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    f = tmp_path / "light.onnx"
    assert main(["export", "--onnx", str(f), "--half", "--size", "96", "128"]) == 0
    assert str(f) in capsys.readouterr().out and f.stat().st_size <= 8_050_000
    Image.fromarray(np.full((96, 128, 3), 128, np.uint8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--weights", str(f), "--out", str(tmp_path / "o")]) == 0


def test_export_int8(tmp_path, monkeypatch, refused, capsys):
    import dogdepth.export as export
    from dogdepth.attention import DepthUNet

    seen, real = [], export.export_onnx
    nets = [DepthUNet("light", dog=False, width=6).eval(), DepthUNet("published", width=2).eval()]
    monkeypatch.setattr(export, "export_onnx", lambda path, *a: (seen.append(a), real(path, nets.pop(0), (64, 96)))[1])
    assert main(["export", "--onnx", str(tmp_path / "a.onnx"), "--int8"]) == 0
    assert (
        seen == [("default", None, False, True, False)]
        and "x (1,3,64,96) in [0,1] -> depth, metres for the canonical camera" in capsys.readouterr().out
    )
    assert (
        main(["export", "--onnx", str(tmp_path / "b.onnx")]) == 0
        and "x (1,6,64,96) in [0,1] -> depth, 8-bit levels" in capsys.readouterr().out
    )
    refused("export", "--onnx", str(tmp_path / "a.onnx"), "--int8", "--half", match="not allowed with")


def test_export_refuses_with_one_line_and_leaves_nothing(tmp_path, refused):
    refused("export", "--onnx", str(tmp_path / "a.pt"), match="should end in .onnx")
    refused("export", "--onnx", str(tmp_path / "no" / "a.onnx"), match="no such folder")
    refused("export", "--onnx", str(tmp_path / "a.onnx"), "--size", "8", "8", match="at least 32")
    refused("export", "--onnx", str(tmp_path / "a.onnx"), "--weights", str(tmp_path / "none"), match="no weights at")
    assert not list(tmp_path.iterdir())


def test_bench_model(capsys, monkeypatch, tmp_path):
    "The verb prints the table and hands the rounds and the folder on; the clock itself is tested with `bench_model`."
    import dogdepth.bench as bench
    from dogdepth.timing import Timing, environment

    seen = []

    def timed(n, out):
        seen.append((n, out))
        return [
            dict(table="photo to depth", state="", size="480x640", peak_mb=300)
            | Timing(k, (t,) * 3).row()
            | environment()
            for k, t in (("light, torch", 20.0), ("published (untrained), 480x640", 900.0))
        ]

    monkeypatch.setattr(bench, "bench_model", timed)
    trained = [
        dict(
            table="training",
            bs=4,
            clock="wall",
            **Timing("light", (90.0,) * 3).row(),
            images_per_s=44.4,
            ceiling_ms=45,
            peak_mb=210,
            predicted_mb=205,
            gflops=100,
            half_gflops=200,
            gb_per_s=10,
        )
        | environment()
    ]
    monkeypatch.setattr(
        "dogdepth.v100.bench_training", lambda out, rounds: seen.append(("training", rounds, out)) or trained
    )
    assert main(["bench", "model", "--repeat", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| light, torch | 20 | 20 to 20 | 20 | 45.0 | 300 |" in out and "photo to depth" in out
    assert "| light | 90 | 44.4 | 0.50 | 210 | 205 |" in out
    assert main(["bench", "model"]) == 0 and seen == [
        (2, str(tmp_path)),
        ("training", 2, str(tmp_path)),
        (9, None),
        ("training", 9, None),
    ]


@pytest.mark.parametrize(
    "rank,more,says",
    [
        ("0", [], "on 9 frames, 0 to validate"),
        ("0", ["--limit", "4", "--extra", "lenses"], "on 4 of 9 frames and lenses, 0 to validate"),
        ("0", ["--limit", "9"], "on 9 frames, 0"),
        ("1", [], ""),
    ],
)
def test_train_says_on_what_and_with_one_voice(capsys, monkeypatch, tmp_path, rank, more, says):
    from types import SimpleNamespace

    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    monkeypatch.setenv("RANK", rank)
    got = []
    monkeypatch.setattr(
        "dogdepth.train.fit",
        lambda cfg, train, valid, **kw: got.append((len(train), valid)) or SimpleNamespace(history=[], path="there"),
    )
    assert (
        main(
            [
                "train",
                "--split-by",
                "none",
                "--rooms",
                "8",
                "--height",
                "48",
                "--width-px",
                "64",
                "--out",
                str(tmp_path / "run"),
                *more,
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert got == [(9, None)] and says in out and bool(out) == (rank == "0")


def test_a_folder_in_the_way_is_found_before_anything_moves(photo, weights, tmp_path, refused):
    out = tmp_path / "o"
    (out / "room_depth_color.png").mkdir(parents=True)
    (out / "room_camera.json").write_text("old")
    refused("predict", photo, "--out", out, "--weights", weights, match="room_depth_color.png is a folder")
    assert (out / "room_camera.json").read_text() == "old" and left(out) == ["room_camera.json", "room_depth_color.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_the_scores_are_kept_when_nobody_can_hear_them(rooms, weights, tmp_path):
    with open("/dev/full", "w") as full:
        r = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from dogdepth.cli import main; sys.exit(main())",
                "evaluate",
                rooms,
                "--split",
                "all",
                "--weights",
                weights,
                "--json",
                tmp_path / "a.json",
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (
        r.returncode == 1
        and "Exception ignored" not in r.stderr
        and json.loads((tmp_path / "a.json").read_text())["summary"]["n"]
    )


def test_a_kill_that_falls_into_a_callback_is_not_lost():
    script = (
        "import sys, time, os, signal, weakref, dogdepth.cli as c\n"
        "class A: pass\n"
        "def run():\n"
        "    a = A(); w = weakref.ref(a, lambda _: os.kill(os.getpid(), signal.SIGTERM)); del a\n"
        "    time.sleep(30); return 0\n"
        "c.make_parser = lambda argv: type('P', (), dict(parse_args=lambda s, a: type('R', (), dict(run=lambda s, b: "
        "run()))()))()\n"
        "sys.argv = ['dogdepth']; sys.exit(c.main())"
    )
    t = time.monotonic()
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 143
        and time.monotonic() - t < 20
    )


def test_depth_beyond_the_png_is_said_and_kept_elsewhere(photo, tmp_path, capsys, weights):
    assert (
        main(
            [
                "predict",
                str(photo),
                "--out",
                str(tmp_path / "o"),
                "--weights",
                str(weights),
                "--known",
                "40",
                "30",
                "500",
                "--ply",
            ]
        )
        == 0
    )
    assert "lie beyond 65.534 m" in capsys.readouterr().err and (tmp_path / "o" / "room.ply").is_file()


# --- consoles


@pytest.mark.parametrize(
    "text, encoding, want",
    [
        ("caf\udce9.jpg", None, r"caf\udce9.jpg"),
        ("caf\udce9.jpg", "utf-8", r"caf\udce9.jpg"),
        ("사진.jpg", "utf-8", "사진.jpg"),
        ("사진.jpg", "cp1252", r"\uc0ac\uc9c4.jpg"),
        ("café.jpg", "cp1252", "café.jpg"),
        ("café.jpg", "ascii", r"caf\xe9.jpg"),
        ("a\nb\x1b[31m.jpg", None, r"a\x0ab\x1b[31m.jpg"),
        ("a\u2028b\x85\x7f", "utf-8", r"a\u2028b\x85\x7f"),
        ("😀", "cp949", r"\U0001f600"),
        ("사진", "no-such-encoding", r"\uc0ac\uc9c4"),
        (Path("a b.jpg"), None, "a b.jpg"),
    ],
)
def test_what_a_console_lacks_is_escaped(text, encoding, want):
    got = shown(text, encoding)
    assert got == want and got.isprintable()


NAMES = ["caf\udce9.jpg", "사진.jpg", "new\nline.jpg", "plain.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_all_photos_are_done_whatever_the_console_can_write(encoding, photo, weights, tmp_path, monkeypatch):
    for n in NAMES:
        (tmp_path / n).write_bytes(photo.read_bytes())
    (tmp_path / "bad\udce9.jpg").write_bytes(b"no photo")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    flags = ["--ply", "--glb", "--html"] if encoding == "utf-8" else []
    assert (
        main(
            [
                "predict",
                *(str(tmp_path / n) for n in ["bad\udce9.jpg", *NAMES]),
                "--out",
                str(tmp_path / "o\udcff"),
                "--weights",
                str(weights),
                *flags,
            ]
        )
        == 1
    )
    assert out.errors == err.errors == "strict"  # as they were
    lines = out.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) == 4 and r"caf\udce9.jpg: 80x60" in lines[0] and r"new\x0aline.jpg" in lines[2]
    assert ("사진.jpg" if encoding == "utf-8" else r"\uc0ac\uc9c4.jpg") in lines[1]
    assert err.buffer.getvalue().decode(encoding).count(r"bad\udce9.jpg") >= 2
    assert sorted(p.name for p in (tmp_path / "o\udcff").glob("*_depth.png")) == sorted(
        n[:-4] + "_depth.png" for n in NAMES
    )
    if flags:
        page = (tmp_path / "o\udcff" / "caf\udce9.html").read_bytes().decode()
        assert r"<title>caf\udce9</title>" in page


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "caf\udce9"],
        ["data", "check", "사진"],
        ["predict", "--fov", "사진\udce9"],
        ["사진\udce9"],
        ["train", "--data", "사진\udce9", "--out", "x"],
    ],
)
def test_errors_reach_a_console_that_cannot_write_them(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    err = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", err)
    assert main(words) == 2
    err.flush()
    assert err.buffer.getvalue().startswith(b"dogdepth") and err.buffer.getvalue().count(b"\n") == 1


def test_reports_reach_a_console_that_cannot_write_them(tmp_path, monkeypatch):
    "What other functions print with a name in it, too."
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["data", "rooms", str(tmp_path / "사진"), "--n", "1", "--size", "32", "32"]) == 0
    assert main(["data", "check", str(tmp_path / "사진")]) == 0
    assert out.buffer.getvalue().count(rb"\uc0ac\uc9c4") >= 2


def test_photos_are_done_where_nobody_listens(photo, weights, tmp_path, monkeypatch):
    "stdout is a pipe whose reader has gone: everything is written, and the code says that not all was heard."
    (tmp_path / "b.jpg").write_bytes(photo.read_bytes())
    r, w = os.pipe()
    os.close(r)
    with monkeypatch.context() as m, open(w, "w") as gone:
        m.setattr(sys, "stdout", gone)
        code = main(
            ["predict", str(photo), str(tmp_path / "b.jpg"), "--out", str(tmp_path / "o"), "--weights", str(weights)]
        )
    assert code == 1 and [p.name for p in sorted((tmp_path / "o").glob("*_depth.png"))] == [
        "b_depth.png",
        "room_depth.png",
    ]


@pytest.mark.parametrize("gone", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_streams_that_are_not_there(gone, photo, weights, tmp_path, monkeypatch):
    "As under pythonw, or after `>&-`: sys.stdout is None."
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with monkeypatch.context() as m:
        for name in gone:
            m.setattr(sys, name, None)
        codes = [
            main(["predict", *map(str, ps), "--out", str(tmp_path / "o"), "--weights", str(weights)])
            for ps in ([photo], [tmp_path / "bad.jpg"], [photo, tmp_path / "bad.jpg"])
        ]
    assert codes == [0, 2, 1] and (tmp_path / "o/room_depth.png").is_file()


def test_a_closed_stdout_in_a_process_of_its_own(rooms):
    "The number of a closed stream is not given to the next file that is opened."
    code = "import sys; sys.argv = ['dogdepth', *sys.argv[1:]]; from dogdepth.cli import main; sys.exit(main())"
    r = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" data check "$2" >&-', sys.executable, code, rooms],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (r.returncode, r.stderr) == (0, "")


# --- a batch


@pytest.fixture
def trip(tmp_path, photo):
    "Five photos; the fourth is cut short."
    folder = tmp_path / "trip"
    folder.mkdir()
    for k in range(1, 6):
        (folder / f"{k}.jpg").write_bytes(photo.read_bytes())
    (folder / "4.jpg").write_bytes(photo.read_bytes()[:700])
    return folder


def done(out):
    return sorted(p.name[0] for p in Path(out).glob("*_depth.png"))


def test_one_bad_photo_does_not_end_the_batch(trip, weights, tmp_path, capsys):
    assert (
        main(["predict", *map(str, sorted(trip.iterdir())), "--out", str(tmp_path / "o"), "--weights", str(weights)])
        == 1
    )
    said = capsys.readouterr()
    assert done(tmp_path / "o") == ["1", "2", "3", "5"] and len(left(tmp_path / "o")) == 4 * 3
    first, last = said.err.splitlines()
    assert first.startswith("dogdepth predict: ") and "4.jpg" in first and "cut short" in first
    assert last == f"dogdepth predict: left out 1 of 5 photos: {trip / '4.jpg'}"
    assert said.out.count("\n") == 4 and "4.jpg" not in said.out


def test_strict_stops_before_any_work(trip, weights, tmp_path, refused):
    refused(
        "predict", *sorted(trip.iterdir()), "--out", tmp_path / "o", "--weights", weights, "--strict", match="4.jpg"
    )


def test_all_bad_is_bad_input(trip, weights, tmp_path, capsys):
    for p in trip.iterdir():
        p.write_bytes(b"no photo")
    assert main(["predict", str(trip), "--out", str(tmp_path / "o"), "--weights", str(weights)]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("dogdepth predict: left out all of 5 photos: ")
        and not (tmp_path / "o").exists()
    )


@pytest.mark.parametrize("error, code", [(RuntimeError("out of memory"), 1), (MemoryError(), 1), (ValueError("no"), 2)])
def test_whatever_one_photo_meets_the_others_are_done(error, code, trip, weights, tmp_path, monkeypatch, capsys):
    import dogdepth.predict as predict

    real, n = predict.Predictor.predict, []

    def sometimes(self, *a, **kw):
        n.append(1)
        if len(n) == 2 or always:
            raise error
        return real(self, *a, **kw)

    monkeypatch.setattr(predict.Predictor, "predict", sometimes)
    always = False
    assert main(["predict", str(trip), "--out", str(tmp_path / "o"), "--weights", str(weights)]) == 1 and done(
        tmp_path / "o"
    ) == ["1", "3", "5"]
    always = True
    assert (
        main(["predict", str(trip), "--out", str(tmp_path / "p"), "--weights", str(weights)]) == code
        and not (tmp_path / "p").exists()
    )


def test_a_full_disk_ends_the_batch(trip, weights, tmp_path, monkeypatch, capsys):
    "The next photo would meet it too."
    seen = []

    def full(*a):
        seen.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dogdepth.cli_predict.write_prediction", full)
    assert main(["predict", str(trip), "--out", str(tmp_path / "o"), "--weights", str(weights)]) == 1
    assert (
        len(seen) == 1
        and capsys.readouterr().err == "dogdepth predict: No space left on device\n"
        and not (tmp_path / "o").exists()
    )


def test_names_as_long_as_the_results_allow_and_longer(photo, weights, tmp_path, capsys):
    "NAME_depth_color.png is legal up to 255 bytes; a photo whose name is longer is named, and the other done."
    longest, longer = "사" * 79 + "a" * 2, "사" * 80 + "a" * 9  # 239 and 249 bytes
    for n in (longer, longest):
        (tmp_path / f"{n}.jpg").write_bytes(photo.read_bytes())
    assert (
        main(
            [
                "predict",
                str(tmp_path / f"{longest}.jpg"),
                "--out",
                str(tmp_path / "o"),
                "--weights",
                str(weights),
                "--ply",
                "--glb",
                "--html",
            ]
        )
        == 0
    )
    assert len(left(tmp_path / "o")) == 6
    assert (
        main(
            [
                "predict",
                *(str(tmp_path / f"{n}.jpg") for n in (longer, longest)),
                "--out",
                str(tmp_path / "p"),
                "--weights",
                str(weights),
            ]
        )
        == 1
    )
    assert len(left(tmp_path / "p")) == 3 and "File name too long" in capsys.readouterr().err


def test_a_folder_stands_for_its_photos(trip, photo, weights, tmp_path, capsys):
    "Not for hidden files, other files, or what an earlier run wrote there."
    (trip / "4.jpg").write_bytes(photo.read_bytes())
    (trip / "notes.txt").write_text("")
    (trip / ".hidden.jpg").write_bytes(b"")
    (trip / "my_depth.png").write_bytes(
        cv2.imencode(".png", render_room(4, 40, 60)["image"])[1].tobytes()
    )  # a photo of the user's that is called so
    for _ in range(2):
        assert main(["predict", str(trip), "--out", str(trip), "--weights", str(weights)]) == 0
        assert capsys.readouterr().out.count("\n") == 6
    assert [p.name for p in photo_files([trip, photo])] == [
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "4.jpg",
        "5.jpg",
        "my_depth.png",
        "room.jpg",
    ]


# --- the lens, and known distances


def test_known_is_along_the_ray_and_known_z_is_not(photo, weights, tmp_path):
    for flag, k in (("--known", "ray"), ("--known-z", "z")):
        assert (
            main(
                [
                    "predict",
                    str(photo),
                    "--out",
                    str(tmp_path / k),
                    "--weights",
                    str(weights),
                    "--fov",
                    "90",
                    flag,
                    "2",
                    "3",
                    "2.5",
                ]
            )
            == 0
        )
    camera = Camera.from_fov(90, 60, 80)
    z = {k: read_depth(tmp_path / k / "room_depth.png")[3, 2] for k in ("ray", "z")}
    assert z["z"] == pytest.approx(2.5, abs=6e-4)
    assert np.linalg.norm(camera.rays()[3, 2] * z["ray"]) == pytest.approx(2.5, abs=2e-3) and z["ray"] < 2


def test_known_and_known_z_exclude_each_other(photo, tmp_path, refused):
    refused(
        "predict",
        photo,
        "--out",
        tmp_path / "o",
        "--known",
        "1",
        "1",
        "2",
        "--known-z",
        "1",
        "1",
        "2",
        match="not allowed with",
    )


@pytest.mark.parametrize(
    "flags, exif, want",
    [(["--fov", "50"], None, "50 degrees wide (as given)"), ([], 28, "(from EXIF)"), ([], None, "(assumed)")],
)
def test_the_line_says_where_the_lens_comes_from(flags, exif, want, weights, tmp_path, capsys):
    im = Image.fromarray(render_room(3, 60, 80)["image"])
    tags = im.getexif()
    if exif:
        tags.get_ifd(0x8769)[0xA405] = exif
    im.save(tmp_path / "x.jpg", exif=tags)
    assert (
        main(["predict", str(tmp_path / "x.jpg"), "--out", str(tmp_path / "o"), "--weights", str(weights), *flags]) == 0
    )
    assert want in capsys.readouterr().out


def test_a_warning_of_the_library_is_one_plain_line(photo, weights, tmp_path, monkeypatch, capsys):
    import warnings

    import dogdepth.photos as photos

    real = photos.load_photo

    def load(path, *a, **kw):
        exec(
            compile("import warnings; warnings.warn('its lens does not fit\\nthe picture')", "x", "exec"),
            {"__name__": "dogdepth.photos"},
        )
        warnings.warn("matplotlib has thoughts")  # from a module that is not ours
        return real(path, *a, **kw)

    monkeypatch.setattr(photos, "load_photo", load)
    (tmp_path / "b.jpg").write_bytes(photo.read_bytes())
    assert (
        main(["predict", str(photo), str(tmp_path / "b.jpg"), "--out", str(tmp_path / "o"), "--weights", str(weights)])
        == 0
    )
    assert capsys.readouterr().err.splitlines() == [
        f"dogdepth predict: {p}: its lens does not fit the picture" for p in (photo, tmp_path / "b.jpg")
    ]


# --- files that stand upright


@pytest.mark.parametrize("flags, axes", [([], "z_up"), (["--axes", "y_up"], "y_up"), (["--axes", "camera"], "camera")])
def test_ply_stands_upright_in_blender_by_default(flags, axes, photo, weights, tmp_path):
    assert main(["predict", str(photo), "--out", str(tmp_path), "--weights", str(weights), "--ply", *flags]) == 0
    assert f"comment dogdepth: metres, {axes}\n".encode() in (tmp_path / "room.ply").read_bytes()[:200]


def test_the_axes_are_those_of_the_library(capsys):
    from dogdepth.files3d import AXES
    from dogdepth.cli import make_parser

    for a in AXES:
        assert make_parser(["predict"]).parse_args(["predict", "x", "--out", "o", "--axes", a]).axes == a


def test_depth_range_leaves_out_two_percent_at_each_end():
    d = np.r_[np.zeros(50), np.linspace(1, 101, 1001)].astype(np.float32)
    assert depth_range(d) == pytest.approx((3, 99)) and depth_range(np.zeros(4)) == (0, 0)
