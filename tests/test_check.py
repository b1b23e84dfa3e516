"tools/check.py: a failing notebook stops nothing, and the last lines say what failed and how to run just that."

import importlib.util
import os
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture
def check(tmp_path, monkeypatch):
    "The tool, at work on a project of two notebooks and two tests, of each of which one fails."
    spec = importlib.util.spec_from_file_location("check", TOP / "tools" / "check.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (tmp_path / "nbs" / "workshop").mkdir(parents=True)
    for name in ("00_good", "workshop/files", "01_bad"):
        (tmp_path / "nbs" / f"{name}.ipynb").write_text("{}")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "nbdev_test"
    fake.write_text("#!/bin/sh\nfor last; do :; done\ncase $last in *bad*) echo 'cell 7: 1 is not 2'; exit 1;; esac\n")
    fake.chmod(0o755)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert 1 == 2\n")
    profile = "from hypothesis import settings\nsettings.register_profile('fixed', derandomize=True)\n"
    (tmp_path / "tests" / "conftest.py").write_text(profile)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow: x", "data: x"]\n')
    monkeypatch.setattr(tool, "TOP", tmp_path)
    monkeypatch.setattr(tool, "BIN", tmp_path / "bin")
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["check.py", "--jobs", "1"])
    for key in [k for k in os.environ if k.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(key)
    return tool


def test_all_run_and_the_end_says_what_failed(check, capfd):
    assert check.main() == 1
    said = capfd.readouterr().out
    assert "nbs/00_good.ipynb passed" in said and "nbs/workshop/files.ipynb passed" in said
    assert "nbs/01_bad.ipynb FAILED" in said and "cell 7: 1 is not 2" in said
    assert "1 failed, 1 passed" in said  # the tests ran although a notebook failed
    last = said.partition("To run just what failed:")[2]
    assert "nbdev_test --n_workers 0 --path nbs/01_bad.ipynb" in last and "pytest 'tests/test_it.py::test_bad'" in last
    assert "00_good" not in last


def test_green_ends_with_pytests_closing_line(check, capfd):
    (check.TOP / "nbs" / "01_bad.ipynb").unlink()
    (check.TOP / "tests" / "test_it.py").write_text("def test_good(): pass\n")
    assert check.main() == 0
    assert "1 passed" in capfd.readouterr().out.strip().splitlines()[-1]


def test_data_is_asked_for(check, monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["check.py", "--data"])
    with pytest.raises(SystemExit):
        check.main()
    assert "--data needs DOGDEPTH_DATA" in capfd.readouterr().err
