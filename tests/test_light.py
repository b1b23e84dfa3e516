"The base install: numpy, OpenCV, ONNX Runtime, Pillow and tqdm; everything else is an extra that is named where it is missing."

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dogdepth
from dogdepth.console import EXTRAS
from dogdepth.engine import load_network, onnx_file
from dogdepth.onnxnet import BUNDLED, OnnxNet
from dogdepth.predict import Predictor
from dogdepth.rooms import render_room

TOP = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in Path(dogdepth.__file__).parent.glob("*.py") if p.stem[0] != "_")
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in sys.argv[1].split(','):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in sys.argv[1].split(',') else found(name, package)
"""
ALL = ",".join(EXTRAS)


def without(modules, code, *argv, cwd=None):
    "Run code in a process that cannot import `modules`."
    cmd = [sys.executable, "-c", BLOCK + code, modules, *map(str, argv)]
    return subprocess.run(cmd, capture_output=True, text=True, cwd=cwd, timeout=300)


def dogdepth_(modules, *words, cwd):
    return without(modules, "from dogdepth.cli import main; sys.exit(main(sys.argv[2:]))", *words, cwd=cwd)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(render_room(8, 240, 320)["image"]).save(tmp_path / "room.jpg", quality=95)
    return tmp_path / "room.jpg"


def test_predict_needs_no_extra(photo, tmp_path):
    r = dogdepth_(ALL, "predict", "room.jpg", "--out", "o", "--ply", "--glb", cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    names = {p.name for p in (tmp_path / "o").iterdir()}
    assert names == {f"room{e}" for e in ("_depth.png", "_depth_color.png", "_camera.json", ".ply", ".glb")}
    mm = np.asarray(Image.open(tmp_path / "o" / "room_depth.png"))
    ours = Predictor(engine="torch").predict(np.asarray(Image.open(photo))).depth_m
    np.testing.assert_allclose(mm / 1000, ours, atol=2e-3)


def test_predict_loads_no_torch_where_it_is_installed(photo, tmp_path):
    code = (
        "import sys; from dogdepth.cli import main; code = main(sys.argv[1:])\n"
        "print([m for m in ('torch', 'matplotlib', 'scipy', 'skimage', 'plotly', 'h5py') if m in sys.modules]); sys.exit(code)"
    )
    cmd = [sys.executable, "-c", code, "predict", "room.jpg", "--out", "o"]
    r = subprocess.run(cmd, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert r.returncode == 0 and r.stdout.splitlines()[-1] == "[]", r.stdout + r.stderr


@pytest.mark.parametrize(
    "words, missing, extra",
    [
        ("train --small --out r", "torch", "train"),
        ("serve", "flask", "web"),
        ("demo --out d", "skimage", "view"),
        ("predict room.jpg --out o --html", "plotly", "view"),
        ("predict room.jpg --out o --video", "av", "film"),
        ("predict room.jpg --out o --weights twin", "PyTorch", "train"),
        ("predict room.jpg --out o --engine torch", "PyTorch", "train"),
        ("bench dog", "torch", "train"),
        ("export --onnx x.onnx", "torch", "train"),
    ],
)
def test_a_missing_extra_is_one_sentence_that_names_it(words, missing, extra, photo, tmp_path):
    r = dogdepth_(ALL, *words.split(), cwd=tmp_path)
    assert r.returncode == 1 and r.stderr.count("\n") == 1, r.stderr
    assert missing in r.stderr and f"pip install 'dogdepth[{extra}]'" in r.stderr, r.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["room.jpg"]


def test_every_module_imports_or_names_what_it_needs():
    code = (
        "import importlib, json\nout = {}\nfor m in sys.argv[2].split(','):\n"
        "    try: importlib.import_module('dogdepth.' + m)\n"
        "    except ModuleNotFoundError as e: out[m] = e.name.partition('.')[0]\nprint(json.dumps(out))"
    )
    r = without(ALL, code, ",".join(MODULES))
    assert r.returncode == 0, r.stderr
    needs = json.loads(r.stdout)
    assert set(needs.values()) <= set(EXTRAS), needs
    light = {
        "predict",
        "engine",
        "onnxnet",
        "photos",
        "batches",
        "depth",
        "files",
        "dog",
        "cloud",
        "files3d",
        "rooms",
        "cli",
    }
    assert not light & set(needs), needs
    assert needs["attention"] == "torch" and needs["app"] == "flask"  # and the walk does see them


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (300, 900), (37, 61)])
def test_the_bundled_file_answers_as_torch_does(size):
    "Equal within 1e-4 at shapes whose sixteenth is odd and even."
    img = render_room(5, *size)["image"]
    a, b = (Predictor(engine=e).predict(img) for e in ("torch", "onnx"))
    np.testing.assert_allclose(b.depth_m, a.depth_m, rtol=1e-4)
    np.testing.assert_allclose(b.std_m, a.std_m, rtol=1e-4)


def test_predictor_picks_the_engine_that_is_there():
    "Without torch the default weights answer by ONNX Runtime, and a call that wants tensors says what it needs."
    code = """
import numpy as np
from dogdepth.predict import Predictor
p = Predictor()
print(type(p.model).__name__, p.predict(np.zeros((48, 64, 3), np.uint8)).depth_m.shape)
try:
    p(np.zeros((48, 64, 3), np.uint8))
except ImportError as e:
    print(e)
"""
    r = without("torch", code)
    assert r.returncode == 0, r.stderr
    first, second = r.stdout.splitlines()
    assert first == "OnnxNet (48, 64)" and "pip install 'dogdepth[train]'" in second


def test_a_list_is_answered_as_its_photos_are():
    imgs = [render_room(k, 96 + 16 * k, 128)["image"] for k in range(3)]
    p = Predictor(engine="onnx")
    for one, many in zip(imgs, p.predict_batch(imgs)):
        assert np.array_equal(p.predict(one).depth_m, many.depth_m)


def test_engines():
    assert isinstance(Predictor(engine="onnx").model, OnnxNet) and not isinstance(Predictor().model, OnnxNet)
    assert [bool(onnx_file(w)) for w in BUNDLED] == [True, False, False]
    assert onnx_file(3) is None and onnx_file("nowhere") is None
    with pytest.raises(ValueError, match="engine should be one of"):
        Predictor(engine="tensorrt")
    with pytest.raises(ValueError, match="no model.onnx came with the weights twin"):
        Predictor("twin", engine="onnx")
    with pytest.raises(ValueError, match="is for ONNX Runtime"):
        Predictor(onnx_file("default"), engine="torch")
    with pytest.raises(ValueError, match="runs on the cpu"):
        Predictor(engine="onnx", device="cuda")


def test_a_file_for_any_size_takes_a_size_from_the_predictor():
    net, device = load_network("default", engine="onnx", size=(96, 128))
    assert net.fixed is None and device.type == "cpu"
    img = render_room(5, 480, 640)["image"]
    a, b = (Predictor(engine=e, size=(96, 128)).predict(img).depth_m for e in ("torch", "onnx"))
    np.testing.assert_allclose(b, a, rtol=1e-4)


def test_any_size_excludes_a_size_and_8_bits(tmp_path):
    from dogdepth.export import export_onnx

    for more in (dict(size=(96, 128)), dict(int8=True)):
        with pytest.raises(ValueError, match="any_size takes every size"):
            export_onnx(tmp_path / "x.onnx", any_size=True, **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_export_for_any_size(half, tmp_path):
    "What ships can be made again: the file's weights are the package's."
    from dogdepth.export import export_onnx

    path = export_onnx(tmp_path / "any.onnx", half=half, any_size=True)
    assert path.stat().st_size < (8.5e6 if half else 17e6)
    for size in ((240, 320), (336, 208)):
        img = render_room(6, *size)["image"]
        np.testing.assert_allclose(
            Predictor(path).predict(img).depth_m, Predictor(engine="torch").predict(img).depth_m, rtol=1e-4
        )


@pytest.mark.slow
def test_a_fresh_environment(tmp_path):
    "Nothing but the base: it installs, answers from another folder, and stays small."
    run = lambda *cmd, **kw: subprocess.run([*map(str, cmd)], check=True, capture_output=True, text=True, **kw)
    run(sys.executable, "-m", "venv", tmp_path / "v")
    pip, site = tmp_path / "v/bin/pip", tmp_path / "v/lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    before = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
    run(pip, "install", "-q", "--no-compile", "-c", TOP / "constraints.txt", TOP)
    size = sum(p.stat().st_size for p in site.rglob("*") if p.is_file()) - before
    assert size < 400e6, f"{size / 1e6:.0f} MB"
    assert not (site / "torch").exists() and not (site / "flask").exists()
    Image.fromarray(render_room(8, 240, 320)["image"]).save(tmp_path / "room.jpg")
    r = run(tmp_path / "v/bin/dogdepth", "predict", "room.jpg", "--out", "o", cwd=tmp_path)
    assert "room_depth.png" in r.stdout and (tmp_path / "o" / "room_depth.png").is_file()
