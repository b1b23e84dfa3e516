"SECURITY.md and CONTRIBUTING.md: every test, file, target and link that they name exists."

import ast
import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def defined_in(path):
    "The names of the tests in a file."
    names = {n.name for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)}
    return {n for n in names if n.startswith("test_")}


def promises(text):
    "Sections of a promise (a paragraph that begins in bold, before the last heading) -> the tests they name."
    body = text.partition("## What is promised")[2].partition("## What is not promised")[0]
    parts = re.split(r"^\*\*(.+?)\*\*", body, flags=re.M)[1:]
    return {title: re.findall(r"`(tests/\w+\.py)::(test_\w+)`", rest) for title, rest in zip(parts[::2], parts[1::2])}


def test_every_promise_names_a_test_and_every_test_exists():
    found = promises(read("SECURITY.md"))
    assert len(found) >= 5
    for title, named in found.items():
        assert named, f"'{title}' names no test that holds it"
        for file, test in named:
            there = (ROOT / file).is_file() and test in defined_in(ROOT / file)
            assert there, f"'{title}' names {file}::{test}, which does not exist"


def test_every_row_of_a_promise_names_a_test():
    heading = re.compile(r"\|(---|\s*(where|what)\s*\|)")
    rows = [line for line in read("SECURITY.md").splitlines() if line.startswith("|") and not heading.match(line)]
    assert len(rows) > 20 and not [r for r in rows if "::test_" not in r]


def test_promises_reads_what_is_there():
    "The reader that the first test trusts."
    text = (
        "**No.** x\n## What is promised\n**A.** b\n| `tests/a.py::test_b`, `tests/c.py::test_d` |\n**E.** f\n"
        "## What is not promised\n**G.** `tests/h.py::test_i`"
    )
    assert promises(text) == {"A.": [("tests/a.py", "test_b"), ("tests/c.py", "test_d")], "E.": []}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_and_paths_lead_somewhere(document):
    text = read(document)
    links = [m for m in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in m]
    paths = re.findall(r"(?<![\w/.:])(?:nbs|tests|tools|dogdepth|results)/[\w./]*\w", text)
    assert links and not [p for p in links + paths if p != "nbs/workshop" and not (ROOT / p).exists()]


def test_contributing_names_targets_and_tests_that_exist():
    text = read("CONTRIBUTING.md")
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert {"setup", "lab", "test", "test-all", "test-data"} <= named <= targets
    for file, words in re.findall(r"pytest (tests/\w+\.py)(?: -k (\w+))?", text):
        assert defined_in(ROOT / file) and any(words in t for t in defined_in(ROOT / file)), (file, words)
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    assert ini["DEFAULT"]["git_url"] in text and ini["DEFAULT"]["author_email"] in read("SECURITY.md")
