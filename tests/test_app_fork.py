"An app made before a server forks (gunicorn --preload), or used before it: photos are done in the process that took them, and nobody waits for ever."

import io
import json
import os
import re
import select
import signal
import time

import pytest
from app_fakes import Slope
from test_app import PHOTO, post

from dogdepth import store
from dogdepth.app import Limits, create_app


def in_fork(work, seconds=60):
    "What `work()` gives in a forked process, as JSON; the process is killed where it takes too long."
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            got = work()
        except BaseException as e:
            got = repr(e)
        os.write(w, json.dumps(got).encode())
        os._exit(0)
    os.close(w)
    ready, _, _ = select.select([r], [], [], seconds)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    got = b""
    while part := os.read(r, 65536):
        got += part
    os.close(r)
    os.waitpid(pid, 0)
    assert ready, "the forked process hangs"
    return json.loads(got)


@pytest.fixture
def app(tmp_path):
    app = create_app(Slope(), tmp_path, Limits(), decoders=1)
    yield app
    app.extensions["dogdepth"].close()


def send(app):
    "Post a photo and wait for its depth; then leave as a server's process does."
    r = post(app.test_client()).json
    app.extensions["dogdepth"].close()
    return [r["state"], r["id"], r["key"]]


def test_an_app_starts_nothing_before_the_first_request(app):
    bench = app.extensions["dogdepth"].bench
    assert bench.thread is None and bench.helper.process is None
    app.test_client().get("/")
    assert bench.thread.is_alive()


@pytest.mark.parametrize("used", ["before", "not before"])
def test_predict_after_a_fork(app, used, tmp_path):
    if used == "before":
        assert post(app.test_client()).json["state"] == "done"
    assert in_fork(lambda: send(app))[0] == "done"
    assert in_fork(lambda: in_fork(lambda: send(app)))[0] == "done"  # a fork of a fork
    assert post(app.test_client()).json["state"] == "done"  # the first process goes on; its folder is still there
    assert app.extensions["dogdepth"].shelf.root.is_dir()


def test_a_fork_while_the_page_is_busy(app):
    "Whatever lock another thread held just then, the new process is free of it."
    desk = app.extensions["dogdepth"]
    post(app.test_client())
    with desk.lock, desk.shelf.lock, desk.bench.news, desk.bench.helper.lock, desk.decoders.mutex:
        assert in_fork(lambda: send(app))[0] == "done"


def test_a_predictor_that_cannot_travel_works_after_a_fork(tmp_path):
    class Local(Slope):
        pass

    app = create_app(Local(), tmp_path, decoders=1)
    assert post(app.test_client()).json["state"] == "done"
    assert in_fork(lambda: send(app))[0] == "done"
    app.extensions["dogdepth"].close()


def test_a_photo_of_another_process_is_one_clear_error(app):
    "Each process knows only its photos. Their owner hears so from the others; nobody else learns that they exist."
    r, w = os.pipe()
    hold, go = os.pipe()

    def child():
        it = post(app.test_client()).json
        os.write(w, json.dumps([it["id"], it["key"]]).encode())
        os.read(hold, 1)
        app.test_client().delete(f"/api/items/{it['id']}", headers={"Authorization": "Bearer " + it["key"]})
        os.write(w, b"gone")
        os.read(hold, 1)

    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    try:
        assert select.select([r], [], [], 60)[0]
        id, key = json.loads(os.read(r, 4096))
        c, mine = app.test_client(), {"Authorization": "Bearer " + key}
        got = c.get(f"/api/items/{id}", headers=mine)
        assert (got.status_code, got.json["error"]) == (503, "other_process") and "one process" in got.json["message"]
        other = {"Authorization": "Bearer " + post(c).json["key"]}
        assert c.get(f"/api/items/{id}", headers=other).status_code == c.get(f"/api/items/{id}").status_code == 404
        os.write(go, b"x")
        assert os.read(r, 4) == b"gone"
        assert c.get(f"/api/items/{id}", headers=mine).status_code == 404
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_page_and_its_key_hold_in_every_process(app):
    "The cookie and the token that one process gave are good in another that was forked from the same app."
    c = app.test_client()
    token = re.search(r'csrf-token" content="(\w+)"', c.get("/").text)[1]

    def child():
        r = c.post(
            "/api/predict?wait=20", data={"photo": (io.BytesIO(PHOTO), "a.jpg")}, headers={"X-CSRF-Token": token}
        )
        app.extensions["dogdepth"].close()
        return r.json["state"]

    assert in_fork(child) == "done"


def test_what_a_fork_leaves_is_swept(tmp_path):
    app = create_app(Slope(), tmp_path, decoders=1)
    in_fork(lambda: post(app.test_client()).json["state"])  # goes without closing
    app.extensions["dogdepth"].close()
    end = time.monotonic() + 10
    while list(tmp_path.glob("serve-*")) and time.monotonic() < end:
        store.sweep(tmp_path)
        time.sleep(0.1)
    assert not list(tmp_path.glob("serve-*"))
