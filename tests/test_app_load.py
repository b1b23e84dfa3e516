"Twenty people at once, over real sockets: nobody gets an error, nobody waits long, and nothing is left behind."

import http.client
import json
import os
import threading
import time

import cv2
import numpy as np
import psutil
import pytest
from app_fakes import Slope

from dogdepth.app import create_app
from dogdepth.server import make_server

USERS = 20


def upload(seed, h=480, w=640):
    img = cv2.resize(np.random.default_rng(seed).integers(0, 255, (h // 16, w // 16, 3), np.uint8), (w, h))
    jpg = cv2.imencode(".jpg", img)[1].tobytes()
    head = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return head + jpg + b"\r\n--x--\r\n"


def visit(port, seed, rounds, times, errors):
    "One person: photos up, their depth down, a model taken along, all deleted again."
    try:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        key = {}

        def ask(method, path, body=None, **headers):
            c.request(method, path, body, {**key, **headers})
            r = c.getresponse()
            data = r.read()
            if r.status >= 400:
                errors.append((method, path, r.status, data[:200]))
            return r.status, data

        for k in range(rounds):
            t = time.monotonic()
            status, data = ask(
                "POST",
                "/api/predict?wait=20",
                upload(100 * seed + k),
                **{"Content-Type": "multipart/form-data; boundary=x"},
            )
            it = json.loads(data)
            key = key or {"Authorization": "Bearer " + it["key"]}
            while it["state"] != "done":
                time.sleep(0.05)
                it = json.loads(ask("GET", f"/api/items/{it['id']}?wait=10")[1])
            status, grid = ask("GET", it["files"]["grid"]["url"])
            times.append(time.monotonic() - t)  # photo sent until its depth is here
            if len(grid) != 2 * it["depth"]["width"] * it["depth"]["height"]:
                errors.append("short grid")
            if k == 0:
                ask("POST", f"/api/items/{it['id']}/files/glb?wait=20")
            ask("DELETE", f"/api/items/{it['id']}")
    except Exception as e:
        errors.append(repr(e))


def load(tmp_path, predictor, rounds, tell, p95):
    app = create_app(predictor, tmp_path)
    desk, server = app.extensions["dogdepth"], make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    desk.warm()
    visit(int(server.effective_port), 99, 1, [], [])  # all helpers are up
    me, times, errors = psutil.Process(os.getpid()), [], []
    before, start = me.memory_info().rss, time.monotonic()
    people = [
        threading.Thread(target=visit, args=(int(server.effective_port), u, rounds, times, errors))
        for u in range(USERS)
    ]
    [p.start() for p in people]
    [p.join(300) for p in people]
    q = np.percentile(times, [50, 95])
    tell(
        f"{USERS} users, {len(times)} photos in {time.monotonic() - start:.1f} s, {len(errors)} errors, photo to "
        f"depth: median {q[0]:.2f} s, p95 {q[1]:.2f} s; the server grew by {(me.memory_info().rss - before) / 1e6:.0f} "
        "MB"
    )
    assert not errors, errors[:5]
    assert len(times) == USERS * rounds and q[1] < p95
    assert me.memory_info().rss - before < 300e6
    assert not desk.shelf.items and desk.shelf.used() == 0 and not list((desk.shelf.root / "scratch").iterdir())
    server.task_dispatcher.shutdown()
    desk.close()


@pytest.fixture
def tell(capsys, record_property):
    def say(text):
        record_property("load", text)
        with capsys.disabled():
            print(f"\n  load: {text}", end="")

    return say


def test_twenty_users(tmp_path, tell):
    load(tmp_path, Slope(), 2, tell, p95=20)


@pytest.mark.slow
def test_twenty_users_with_the_real_network(tmp_path, tell):
    load(tmp_path, None, 5, tell, p95=30)
