"The project as a whole: notebooks and modules agree, stored notebooks are tidy, imports stay light, the package holds what it should."

import ast
import configparser
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import distribution, distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb")) + sorted((ROOT / "nbs" / "workshop").glob("*.ipynb"))
NUMBERED = [p for p in NOTEBOOKS if re.match(r"\d\d_", p.name)]  # the course
WORKSHOP = [p for p in NOTEBOOKS if p.parent.name == "workshop"]
MODULES = sorted(p for p in (ROOT / "dogdepth").glob("*.py") if not p.name.startswith("_"))
NUMBER = {p.stem[3:]: int(p.name[:2]) for p in NUMBERED}  # module of a chapter -> number of its notebook


def stem(path):
    return path.stem


def settings():
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def python(code, cwd=ROOT):
    "Run `code` in a fresh process; its standard output."
    r = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert r.returncode == 0, f"{code}\n{r.stdout}\n{r.stderr}"
    return r.stdout.strip()


def tree():
    "Every file that belongs to the project: what git tracks or would track; without git, all but what .gitignore names."
    r = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True)
    if r.returncode == 0:
        return [p for f in r.stdout.split("\0") if f and (p := ROOT / f).is_file()]
    ignored = {".venv", ".git", "_docs", "out", "runs", "build", "dist", "__pycache__"}
    return [
        p
        for p in ROOT.rglob("*")
        if p.is_file()
        and not any(
            q in ignored or q.endswith(".egg-info") or q.startswith((".pytest", "_proc"))
            for q in p.relative_to(ROOT).parts
        )
    ]


# --- notebooks and modules agree


def test_export_and_clean_change_nothing(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    for folder in ("nbs", "dogdepth"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("__pycache__", "weights", "assets", ".ipynb_checkpoints", "_docs"),
        )
    python(
        "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()",
        tmp_path,
    )
    before, after = (
        {p.name: p.read_bytes() for g in ("dogdepth/*.py", "nbs/*.ipynb", "nbs/workshop/*.ipynb") for p in top.glob(g)}
        for top in (ROOT, tmp_path)
    )
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    assert not changed, f"run nbdev_export and nbdev_clean and commit what they change: {changed}"


@pytest.mark.parametrize("module", MODULES, ids=stem)
def test_module_header_names_its_notebook(module):
    header = re.search(
        r"File to edit: \.\./nbs/((?:\d\d_|workshop/)(\w+)\.ipynb)", module.read_text(encoding="utf-8")[:600]
    )
    assert header, f"{module.name} names no notebook in its header: it was not exported by nbdev"
    assert (ROOT / "nbs" / header[1]).is_file(), (
        f"{module.name} comes from {header[1]}, which does not exist: delete the module"
    )
    assert header[2] == module.stem, f"{module.name} comes from {header[1]}: one notebook, one module, one name"


@pytest.mark.parametrize(
    "notebook", [n for n in NUMBERED + WORKSHOP if "default_exp" in n.read_text(encoding="utf-8")], ids=stem
)
def test_every_notebook_has_its_module(notebook):
    assert (ROOT / "dogdepth" / f"{re.sub(r'^[0-9][0-9]_', '', notebook.stem)}.py").is_file()


def imported_modules(source):
    "Names of the `dogdepth` modules that `source` imports, at any level."
    source = "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dogdepth.")}
        elif isinstance(node, ast.ImportFrom):
            module = ("dogdepth." if node.level else "") + (
                node.module or ""
            )  # nbdev writes `from .depth import` in modules
            if module.split(".")[0] == "dogdepth":
                names |= {m for m in module.split(".")[1:2] if m} or {a.name for a in node.names}
    return names - {"__version__"}


def code_cells(notebook):
    return [
        "".join(c["source"])
        for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    ]


IMPORTS = {
    m.stem: imported_modules(m.read_text(encoding="utf-8")) for m in MODULES
}  # the graph: module -> modules it imports


def test_imported_modules_sees_every_form():
    "The reader of imports that the next two tests trust."
    source = "%matplotlib inline\nimport dogdepth.depth as d\ndef f():\n    from dogdepth.rooms import render_room\n    from dogdepth import nyu, __version__\nimport numpy"
    assert imported_modules(source) == {"depth", "rooms", "nyu"}
    assert imported_modules("from .depth import Camera\nfrom . import dog") == {"depth", "dog"}


@pytest.mark.parametrize("notebook", NUMBERED, ids=stem)
def test_a_chapter_imports_lower_chapters(notebook):
    """Of the course a chapter imports lower numbers, and itself to show its result first; the workshop is open to it.
    The first chapter shows the result of the whole course, in a cell that is not exported."""
    ahead = {"00_depth": {"predict"}}.get(notebook.stem, set())
    for source in code_cells(notebook):
        later = {m for m in imported_modules(source) if NUMBER.get(m, -1) > int(notebook.name[:2])}
        allowed = set() if re.match(r"#\|\s*export", source) else ahead
        wrong = [m for m in imported_modules(source) if m in later - allowed or m not in IMPORTS]
        assert not wrong, f"{notebook.name} imports {wrong}, which come after it (or do not exist):\n{source}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.stem in NUMBER], ids=stem)
def test_a_chapters_module_imports_lower_chapters(module):
    wrong = [m for m in IMPORTS[module.stem] if NUMBER.get(m, -1) >= NUMBER[module.stem] or m not in IMPORTS]
    assert not wrong, f"{module.name} imports {wrong}"


def cycle(graph):
    "The names along a cycle of `graph` (name -> names), or an empty list."
    done = set()

    def walk(name, path):
        if name in path:
            return path[path.index(name) :] + [name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, path + [name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_cycle_finds_one():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_module_imports_itself_by_a_detour():
    "At any level: an import inside a function counts too."
    assert not cycle(IMPORTS), f"modules import one another in a circle: {' -> '.join(cycle(IMPORTS))}"


# --- stored notebooks are tidy


def cannot_be_cut(source):
    "A single definition, or one long statement, of the library or of what a page hides."
    aside = re.match(r"#\|\s*(export|hide|echo)", source)
    return bool(aside) and len(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", source)).body) == 1


def test_what_cannot_be_cut():
    one = "def f():\n    return 1\n"
    assert cannot_be_cut("#| export\n" + one) and cannot_be_cut("#| hide\n" + one)
    assert not cannot_be_cut(one) and not cannot_be_cut("#| export\n" + one * 2)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=stem)
def test_stored_notebook_is_tidy(notebook):
    nb = json.loads(notebook.read_text(encoding="utf-8"))
    code = [c for c in nb["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    outputs = [o for c in code for o in c["outputs"]]
    assert notebook.stat().st_size < 2**20, f"{notebook.stat().st_size / 2**20:.1f} MB; keep it under 1 MB"
    assert not [o for o in outputs if o["output_type"] == "error"], "a stored error"
    assert "widgets" not in nb["metadata"], "saved widget state"
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})], (
        "a stored widget view"
    )
    for source in ("".join(c["source"]) for c in code):
        lines = len(source.splitlines())
        assert lines <= 35 or cannot_be_cut(source) and lines <= 70, f"a cell of {lines} lines:\n{source[:300]}"
    shown = sum(bool(c["outputs"]) for c in code)
    assert shown and shown >= len(code) / 5, f"only {shown} of {len(code)} code cells hold a stored output"
    assert nb["cells"][0]["cell_type"] == "markdown" and "".join(nb["cells"][0]["source"]).startswith("# "), (
        "the first cell should be the title"
    )


# --- imports


@pytest.mark.parametrize("module", MODULES, ids=stem)
def test_module_imports_in_a_fresh_process(module):
    python(f"import dogdepth.{module.stem}")


HEAVY = "torch numpy cv2 matplotlib plotly skimage scipy h5py safetensors PIL".split()


@pytest.mark.parametrize("module, allowed", [("dogdepth", []), ("dogdepth.dog", ["numpy", "cv2", "PIL"])])
def test_import_is_light(module, allowed):
    loaded = python(f"import sys, {module}; print(*({set(HEAVY)!r} & set(sys.modules)))").split()
    assert not set(loaded) - set(allowed), (
        f"`import {module}` loads {sorted(set(loaded) - set(allowed))}: import them where they are used"
    )


# --- package, settings, documents


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy of the tree."
    tmp = tmp_path_factory.mktemp("wheel")
    for p in tree():
        to = tmp / "src" / p.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, to)
    r = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            str(tmp),
            str(tmp / "src"),
        ],
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr
    with zipfile.ZipFile(next(tmp.glob("*.whl"))) as z:
        meta = next(n for n in z.namelist() if n.endswith("/METADATA"))
        entry = next(n for n in z.namelist() if n.endswith("/entry_points.txt"))
        yield {
            "names": set(z.namelist()),
            "meta": Parser().parsestr(z.read(meta).decode()),
            "entry": z.read(entry).decode(),
        }


def test_wheel_holds_the_library_and_nothing_else(wheel):
    lib = {p.relative_to(ROOT).as_posix() for p in tree() if p.relative_to(ROOT).parts[0] == "dogdepth"}
    lib |= {f"dogdepth/{p.relative_to(ROOT).as_posix()}" for p in tree() if p.relative_to(ROOT).parts[0] == "results"}
    packed = {n for n in wheel["names"] if ".dist-info/" not in n}
    assert packed == lib, f"missing {sorted(lib - packed)}, too many {sorted(packed - lib)}"
    need = [
        "py.typed",
        "cli.py",
        *(
            f"weights/{n}/{f}"
            for n in ("default", "twin", "scratch")
            for f in ("config.json", "model.safetensors", "README.md", "LICENSE.md")
        ),
    ]
    assert not [n for n in need if f"dogdepth/{n}" not in packed]


def test_weights_lie_as_model_hubs_take_them():
    "One licence, a copy beside each; a card whose front matter points at nothing outside its folder."
    folders = [p.parent for p in (ROOT / "dogdepth/weights").glob("*/config.json")]
    assert sorted(p.name for p in folders) == ["default", "scratch", "twin"]
    assert len({(p / "LICENSE.md").read_text() for p in folders}) == 1
    for p in folders:
        head = (p / "README.md").read_text().split("---")[1]
        assert "license: other" in head and "license_link: LICENSE.md" in head and "datasets" not in head, (
            p.name
        )  # a hub checks names of data sets; NYU's has no official one


def test_wheel_metadata(wheel):
    meta, cfg = wheel["meta"], settings()
    assert (meta["Name"], meta["Version"], meta["Requires-Python"]) == (
        "dogdepth",
        cfg["version"],
        f">={cfg['min_python']}",
    )
    assert meta["License-Expression"] == "Apache-2.0" or meta["License"] == "Apache-2.0"
    assert meta.get_payload().startswith("# dogdepth") or "# dogdepth" in (meta["Description"] or "")
    assert "dogdepth = dogdepth.cli:main" in wheel["entry"] or "dogdepth=dogdepth.cli:main" in wheel["entry"]
    assert {"train", "view", "web", "film", "heif", "onnx", "notebooks", "docs", "dev", "all"} <= set(
        meta.get_all("Provides-Extra")
    )


def closure(names):
    "Canonical names of everything that installing `names` (without extras) brings, as the installed packages say."
    todo, seen = list(names), set()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in seen:
            continue
        seen.add(name)
        for r in map(Requirement, distribution(name).requires or []):
            if r.marker is None or r.marker.evaluate({"extra": ""}):
                todo.append(r.name)
    return seen


def test_installing_the_library_brings_no_notebook_tools(wheel):
    core = [
        r.name
        for r in map(Requirement, wheel["meta"].get_all("Requires-Dist"))
        if r.marker is None or r.marker.evaluate({"extra": ""})
    ]
    assert "onnxruntime" in core and len(core) == len(settings()["requirements"].split())
    tools = {"nbdev", "fastcore", "execnb", "jupyterlab", "ipykernel", "ipywidgets", "pytest", "smalldocs"}
    tools |= {
        "torch",
        "scipy",
        "scikit-image",
        "matplotlib",
        "plotly",
        "h5py",
        "flask",
        "waitress",
        "av",
    }  # extras bring them
    assert not closure(core) & tools
    assert {"nbdev", "jupyterlab", "pytest"} <= closure(["nbdev", "jupyterlab", "pytest"])  # and the walk does see them


def constraints():
    return [s for line in read("constraints.txt").splitlines() if (s := line.partition("#")[0].strip())]


def test_constraints_pin_every_requirement():
    lines = constraints()
    wrong = [s for s in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", s)]
    assert not wrong, f"each line should be name==version: {wrong}"
    pins = {canonicalize_name(n): v for n, _, v in (s.partition("==") for s in lines)}
    assert len(pins) == len(lines), "a package is pinned twice"
    wanted = [Requirement(r) for k, v in settings().items() if k.endswith("requirements") for r in v.split()]
    wrong = [str(r) for r in wanted if pins.get(canonicalize_name(r.name), "0") not in r.specifier]
    assert not wrong, f"not pinned, or pinned outside its range in settings.ini: {wrong}"
    wrong = sorted(
        n for n in closure(r.name for r in wanted) - set(pins) if not n.startswith(("nvidia-", "cuda-", "triton"))
    )  # torch pins those
    assert not wrong, f"dependencies of dependencies that are not pinned: {wrong}. Freeze a fresh .venv."


def test_pins_admit_the_least_python():
    "What is pinned installs on the oldest Python that the README promises, its first patch release too (Debian 12 has 3.11.2)."
    least = f"{settings()['min_python']}.0"
    pins = {canonicalize_name(s.partition("==")[0]) for s in constraints()}
    pinned = [d for d in distributions() if canonicalize_name(d.name) in pins]
    wrong = {
        d.name: d.metadata["Requires-Python"]
        for d in pinned
        if least not in SpecifierSet(d.metadata["Requires-Python"] or "")
    }
    assert len(pinned) > 100 and not wrong, (
        f"these need a newer Python than {least}, pin an older version of them: {wrong}"
    )


def test_version_agrees_everywhere():
    version = settings()["version"]
    assert python("import dogdepth; print(dogdepth.__version__)") == version
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)[1] == version


def test_readme_commands_exist():
    readme = read("README.md")
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    asked = set(re.findall(r"(?:`|^)make ([a-z-]+)", readme, re.M))
    assert {"demo", "test"} <= asked <= targets, f"README names make targets that do not exist: {asked - targets}"
    lines = set(re.findall(r"`(dogdepth [^`]+)`", readme))
    assert len(lines) > 5
    for line in sorted(lines):  # `dogdepth VERB [VERB] ... --flag ...`: the help of that verb lists each flag
        verbs = re.match(r"dogdepth ((?:data )?[a-z]+)", line)[1].split()
        row = next(r for r in readme.splitlines() if f"`{line}`" in r)
        flags = set(re.findall(r"--[a-z-]+", row if row.startswith("|") else line))
        r = subprocess.run(
            [Path(sys.executable).with_name("dogdepth"), *verbs, "--help"], capture_output=True, text=True
        )
        assert r.returncode == 0, f"{line}: {r.stderr}"
        assert not (missing := [f for f in flags if not re.search(rf"{f}\b", r.stdout)]), f"`{line}` has no {missing}"


def test_readme_is_read_in_four_minutes():
    words = len(read("README.md").split())
    assert words <= 800, (
        f"README has {words} words; what only some readers need goes to a page of the course or to the model card"
    )


def verbs():
    "Every verb of the command, `data` with its own."
    from dogdepth import cli

    parser = cli.parser() if hasattr(cli, "parser") else None
    sub = lambda p: (
        next((a.choices for a in p._actions if isinstance(getattr(a, "choices", None), dict)), {}) if p else {}
    )
    named = [[v, *more] for v, q in sub(parser).items() for more in ([[w] for w in sub(q)] or [[]])]
    return named or [[v] for v in ("predict", "serve", "evaluate", "train", "export", "bench", "demo")] + [
        ["data", v] for v in ("check", "rooms", "pack", "get")
    ]


def test_every_flag_that_readme_names_exists():
    spans = re.findall(r"`[^`]+`", re.sub(r"^```.*?^```", "", read("README.md"), flags=re.S | re.M))
    flags = {f for s in spans for f in re.findall(r"(?<![\w-])--[a-z][a-z-]*", s)}
    assert {"--known", "--ply", "--flip"} <= flags
    command = Path(sys.executable).with_name("dogdepth")
    help_ = "\n".join(
        subprocess.run([command, *v, "--help"], capture_output=True, text=True, check=True).stdout for v in verbs()
    )
    missing = sorted(f for f in flags if not re.search(rf"(?<![\w-]){f}(?![\w-])", help_))
    assert not missing, f"README names {missing}, which no verb has"


def test_readme_says_what_the_pages_say():
    "What turned out and how good it is have one home each; README repeats it with links that hold from here."
    readme = read("README.md")
    for name in ("turned_out", "how_good"):
        text = re.sub(r"\]\((\d\d_)", r"](nbs/\1", read(f"nbs/included/{name}.md")).strip()
        assert text in readme, f"README differs from nbs/included/{name}.md"


def test_the_card_has_the_judged_rows():
    import csv

    card = read("dogdepth/weights/default/README.md")
    for r in csv.DictReader((ROOT / "results/judged.csv").open(encoding="utf-8")):
        assert f"| {r['abs_rel']} | {r['rmse']} | {r['delta1']} |" in card, r


def test_the_terms_of_the_weights_stand_beside_pip_install():
    (line,) = [s for s in read("README.md").splitlines() if "`pip install .`" in s]
    assert "research and teaching only" in line


def test_readme_snippets_run(tmp_path):
    import cv2
    from skimage import data

    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.cvtColor(data.coffee(), cv2.COLOR_RGB2BGR))
    snippets = re.findall(r"^```python\n(.*?)^```", read("README.md"), re.S | re.M)
    assert snippets
    python("\n".join(snippets), tmp_path)


def links(text):
    return [
        t
        for t in re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
        if "://" not in t and not t.startswith("mailto:")
    ]


def test_links_to_files_lead_somewhere():
    for doc in ("README.md", "CHANGELOG.md", "EXPERIMENTS.md"):
        assert not (dead := [t for t in links(read(doc)) if not (ROOT / t).exists()]), f"{doc}: {dead}"
    for p in NOTEBOOKS:
        text = "\n".join(
            "".join(c["source"])
            for c in json.loads(p.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "markdown"
        )
        assert not (
            dead := [t for t in links(text) if not t.startswith("attachment:") and not (p.parent / t).exists()]
        ), f"{p.name}: {dead}"


def test_every_notebook_is_in_the_sidebar_and_on_the_map():
    names = {p.name for p in NUMBERED}
    side = set(re.findall(r"\d\d_\w+\.ipynb", read("_quarto.yml")))
    assert side == names, f"_quarto.yml: missing {sorted(names - side)}, too many {sorted(side - names)}"
    assert set(re.findall(r"\((\d\d_\w+\.ipynb)\)", read("nbs/index.ipynb"))) == names
    assert set(re.findall(r"\(nbs/(\d\d_\w+\.ipynb)\)", read("README.md"))) == names
    assert (ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8") == read("_quarto.yml")


def test_allowed_skips_name_tests_that_exist():
    from conftest import allowed_skips

    for node in allowed_skips():
        path, _, name = node.partition("::")
        assert (ROOT / path).is_file() and (not name or re.search(rf"def {name.split('::')[-1]}\b", read(path))), (
            f"{node} is no test: take it off the list"
        )


MACHINE = re.compile(r"/(?:work|root|farm)/|/(?:home|Users)/\w")


def test_no_machine_paths():
    slash = "/"  # so that this file does not find itself
    for text, there in (
        (f"see {slash}work{slash}main", True),
        (f"{slash}home{slash}ann", True),
        ("homework/rooted", False),
    ):
        assert bool(MACHINE.search(text)) is there
    for p in tree():
        try:
            found = MACHINE.search(p.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        assert not found, f"{p.relative_to(ROOT)} holds a path of one machine: {found[0]}"


def test_no_data_files_and_no_giants():
    for p in tree():
        name = p.relative_to(ROOT).as_posix()
        assert p.stat().st_size <= 16 * 2**20, f"{name}: {p.stat().st_size / 2**20:.0f} MB"
        assert p.suffix not in {".mat", ".h5", ".hdf5", ".npy", ".npz", ".pth", ".pt", ".pkl", ".zip", ".tar", ".gz"}, (
            f"{name} is a data file"
        )
        assert p.suffix != ".safetensors" or name.startswith("dogdepth/weights/"), (
            f"{name}: weights live in dogdepth/weights/"
        )


def test_no_file_of_the_data_sets_is_in_the_tree(data):
    sizes = {}
    for p in data.rglob("*"):
        if p.is_file() and p.stat().st_size:
            sizes.setdefault(p.stat().st_size, []).append(p)
    for p in tree():
        for q in sizes.get(p.stat().st_size, []):
            assert hashlib.sha256(p.read_bytes()).digest() != hashlib.sha256(q.read_bytes()).digest(), (
                f"{p.relative_to(ROOT)} is {q.relative_to(data)}"
            )


@pytest.mark.parametrize("words", [["check", "-q"], ["format", "--check"]], ids=" ".join)
def test_ruff(words):
    "Cells, tests and tools; the modules are what the cells export."
    r = subprocess.run([sys.executable, "-m", "ruff", *words, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
