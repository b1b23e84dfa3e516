"""Run every notebook and every test, whatever fails on the way, and say at the end what failed and how to run just that.

python tools/check.py            # notebooks, then the tests that are quick
python tools/check.py --data     # with DOGDEPTH_DATA: the notebooks, and the tests that real data changes
python tools/check.py --all      # slow cells and slow tests too
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TAIL = 40  # lines of a failing notebook's output that are shown
PIPED = dict(
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
)


def notebooks():
    "Every notebook of the course, in order."
    return sorted(
        p for p in (TOP / "nbs").rglob("*.ipynb") if not any(s.startswith((".", "_")) for s in p.relative_to(TOP).parts)
    )


def how(notebook, slow):
    "The command that runs one notebook."
    return f".venv/bin/nbdev_test --n_workers 0 --path {notebook.relative_to(TOP)}" + (
        ' --flags "slow"' if slow else ""
    )


def run_notebook(notebook, slow):
    "Run it in a process of its own (nbdev_test reuses its workers, and what a notebook sets leaks into the next)."
    start = time.time()
    cmd = [BIN / "nbdev_test", "--n_workers", "0", "--flags", "slow" if slow else "", "--path", notebook]
    done = subprocess.run(cmd, cwd=TOP, **PIPED)
    ok = done.returncode == 0
    seconds = time.time() - start
    print(f"  {notebook.relative_to(TOP)} {'passed' if ok else 'FAILED'} in {seconds:.0f} s", flush=True)
    if not ok:
        print("\n".join("    " + line for line in done.stdout.splitlines()[-TAIL:]), flush=True)
    return ok


def run_notebooks(jobs, slow):
    "All of them, `jobs` at a time; returns those that failed."
    start = time.time()
    books = notebooks()
    print(f"notebooks, {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        passed = list(pool.map(lambda n: run_notebook(n, slow), books))
    print(f"notebooks: {sum(passed)} of {len(books)} passed in {time.time() - start:.0f} s", flush=True)
    return [n for n, ok in zip(books, passed) if not ok]


def run_tests(jobs, args):
    "Run pytest, showing what it says; returns its exit status and the ids of the tests that failed."
    cmd = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), *args]
    child = subprocess.Popen(cmd, cwd=TOP, **PIPED)
    failed = []
    for line in child.stdout:
        print(line, end="", flush=True)
        if m := re.match(r"(?:FAILED|ERROR) (tests/\S+)", line):
            failed.append(m[1])
    return child.wait(), failed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jobs", type=int, default=2, help="processes side by side (2)")
    p.add_argument("--data", action="store_true", help="the notebooks, and of the tests those that real data changes")
    p.add_argument("--all", action="store_true", help="slow cells and slow tests too")
    a = p.parse_args()
    if a.data and not os.environ.get("DOGDEPTH_DATA"):
        p.error("--data needs DOGDEPTH_DATA: the folder that holds nyu/")
    bad = run_notebooks(a.jobs, a.all)
    marks = " and ".join(["data"] * a.data + ["not slow"] * (not a.all))
    args = (["-m", marks] if marks else []) + ([] if a.all else ["--hypothesis-profile=fixed"])
    status, failed = run_tests(a.jobs, args)
    if bad or status:
        print("\nFAILED. To run just what failed:", flush=True)
        for n in bad:
            print(f"  {how(n, a.all)}")
        if failed:
            print("  .venv/bin/python -m pytest " + " ".join(f"'{t}'" for t in failed))
        elif status:
            print(f"  .venv/bin/python -m pytest   # ended with exit status {status}")
    return 1 if bad or status else 0


if __name__ == "__main__":
    sys.exit(main())
