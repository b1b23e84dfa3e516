"The Dockerfile and the service of systemd: what they copy exists, and what they run is what the command takes."

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ROOT / "tools" / "dogdepth.service"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def instructions(text):
    "A Dockerfile's instructions, continued lines joined."
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_copies_what_setup_reads_and_runs_as_nobody():
    steps = instructions(read("Dockerfile"))
    last = steps[max(i for i, (k, _) in enumerate(steps) if k == "FROM") :]
    copied = [p for k, v in steps if k == "COPY" and "--from" not in v for p in v.split()[:-1]]
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "dogdepth", "constraints.txt"} <= set(copied)
    assert all((ROOT / p).exists() for p in copied)
    sent = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert sent == set(copied), "the builder is sent exactly what the Dockerfile copies"
    users = [v for k, v in last if k == "USER"]
    assert users and users[-1].isdigit() and int(users[-1]) > 0
    assert "HEALTHCHECK" in dict(last) and not [v for k, v in steps if k == "FROM" and ":latest" in v]


def serve_flags(words):
    "The flags, as the command's own parser reads them."
    from dogdepth.cli import make_parser

    return make_parser(words).parse_args(words)


def test_what_container_and_service_run_is_understood():
    steps = dict(instructions(read("Dockerfile")))
    assert json.loads(steps["ENTRYPOINT"]) == ["dogdepth"]
    a = serve_flags(json.loads(steps["CMD"]))
    assert (a.host, a.port) == ("0.0.0.0", 8000)
    check = steps["HEALTHCHECK"]
    assert f"http://127.0.0.1:{a.port}/api/items" in check and steps["EXPOSE"] == str(a.port)
    starts = re.findall(r"^#?\s*ExecStart=(\S.*)", SERVICE.read_text(), re.M)
    assert len(starts) == 2
    for line in starts:
        program, *words = shlex.split(line)
        assert program == "/opt/dogdepth/bin/dogdepth" and serve_flags(words).host == "127.0.0.1"


def test_the_health_check_is_answered(tmp_path):
    "What the container asks itself: 200 from a server that runs, without a cookie or a key."
    from app_fakes import Slope
    from dogdepth.app import create_app

    app = create_app(Slope(), tmp_path, decoders=1)
    r = app.test_client().get("/api/items", headers={"Host": "127.0.0.1:8000"})
    app.extensions["dogdepth"].close()
    assert r.status_code == 200 and "Set-Cookie" not in r.headers


def test_the_service_is_shut_in_and_systemd_reads_it(tmp_path):
    text = SERVICE.read_text()
    settings = re.findall(r"^(\w+)=(.*)", text.partition("[Service]")[2], re.M)
    shut = dict(
        DynamicUser="yes",
        NoNewPrivileges="yes",
        ProtectSystem="strict",
        ProtectHome="yes",
        PrivateTmp="yes",
        PrivateDevices="yes",
        CapabilityBoundingSet="",
        RestrictNamespaces="yes",
    )
    assert not [k for k, v in shut.items() if (k, v) not in settings]
    if shutil.which("systemd-analyze"):  # elsewhere its own reader is missing
        unit = tmp_path / "dogdepth.service"
        unit.write_text(text.replace("/opt/dogdepth/bin/dogdepth", "/bin/true"))
        r = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        assert r.returncode == 0 and not r.stderr.strip(), r.stderr
