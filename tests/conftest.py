"Fixtures shared by all tests, and the rule about skips: where there is real data, only the skips named in allowed_skips.txt may happen."

import os
from pathlib import Path

import pytest
from hypothesis import settings

from dogdepth.files import data_root
from sites import site, whole_site  # noqa: F401 fixtures: the built site

# a busy machine is no defect: no deadline. "fixed": the same examples every time, for make test; make test-all looks for new ones
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
settings.register_profile("fixed", derandomize=True, deadline=None)


@pytest.fixture(scope="session")
def data():
    "The folder of real data, or a skip that says how to get one."
    root = data_root()
    if root is None:
        pytest.skip("needs real data: set DOGDEPTH_DATA to the folder that holds nyu/")
    return root


def pytest_collection_modifyitems(items):
    "Tests that ask for real data carry the mark `data`: they are what `make test-data` runs."
    for item in items:
        if "data" in getattr(item, "fixturenames", ()) and "data" not in getattr(
            getattr(item, "callspec", None), "params", ()
        ):
            item.add_marker(pytest.mark.data)


def allowed_skips():
    "The tests (node ids without parameters) that may be skipped even where there is data; `#` starts the reason."
    lines = Path(__file__).with_name("allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    return {s for line in lines if (s := line.partition("#")[0].strip())}


def _refuse(report):
    "Turn a skip into a failure where `DOGDEPTH_DATA` is set and the list does not name it. An expected failure (xfail) is no skip."
    if not (report.skipped and os.environ.get("DOGDEPTH_DATA")) or hasattr(report, "wasxfail"):
        return report
    if report.nodeid.partition("[")[0] not in allowed_skips():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped although DOGDEPTH_DATA is set ({reason}).\nMake it run, or name it in tests/allowed_skips.txt with the reason."
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _refuse((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _refuse((yield))
