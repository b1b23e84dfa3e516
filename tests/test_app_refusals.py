"Whatever is refused, and by whatever layer: JSON as openapi.json has it, one sentence, in the reader's language."

import http.client
import io
import json
import socket
import threading
import time

import pytest
from app_fakes import Slope
from test_app import PHOTO

from dogdepth import app as A
from dogdepth.app import Limits, create_app, words
from dogdepth.server import make_server


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    app = create_app(Slope(), tmp_path_factory.mktemp("app"), Limits(upload_mb=2.0), decoders=1)
    server = make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield "127.0.0.1", int(server.effective_port)
    server.task_dispatcher.shutdown()
    app.extensions["dogdepth"].close()


def ask(where, head, body=b"", seconds=20):
    "Send raw bytes, as a client that reads only when all is sent; status, headers, JSON."
    with socket.create_connection(where, timeout=seconds) as s:
        s.sendall(head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body)
        r = http.client.HTTPResponse(s)
        r.begin()
        return r.status, r.headers, json.loads(r.read())


CHUNKED = b"%x\r\n%s\r\n" % (1 << 20, bytes(1 << 20))
CASES = {
    "5 MB where 2 are read": (
        413,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Type: image/jpeg\nContent-Length: 5000000",
        bytes(5_000_000),
    ),
    "a little over": (
        413,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Type: image/jpeg\nContent-Length: 2030000",
        bytes(2_030_000),
    ),
    "in chunks": (
        413,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Type: image/jpeg\nTransfer-Encoding: chunked",
        CHUNKED * 5 + b"0\r\n\r\n",
    ),
    "chunks a little over": (
        413,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked",
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (1_000_000, bytes(1_000_000)),
    ),
    "a length of a billion, little sent": (
        413,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 1000000000",
        bytes(1000),
    ),
    "a negative length": (400, b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: -1", b""),
    "a length in words": (400, b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: many", b""),
    "two lengths": (
        400,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 5\nContent-Length: 6",
        b"hello",
    ),
    "torn chunks": (
        400,
        b"POST /api/predict HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked",
        b"zz\r\nhello\r\n",
    ),
    "an unknown encoding": (501, b"POST /api/predict HTTP/1.1\nHost: localhost\nTransfer-Encoding: gzip", b""),
    "headers too large": (
        431,
        b"GET /api/items HTTP/1.1\nAccept-Language: LANG\nHost: localhost\nX: " + b"x" * 300_000,
        b"",
    ),
    "no request at all": (400, b"GET /api/items", b""),
    "another host": (400, b"GET /api/items HTTP/1.1\nHost: evil.example", b""),
    "nothing there": (404, b"GET /api/nothing HTTP/1.1\nHost: localhost", b""),
    "not that way": (405, b"PUT /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 0", b""),
    "no photo": (400, b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 0", b""),
    "a false key": (401, b"GET /api/items HTTP/1.1\nHost: localhost\nAuthorization: Bearer x", b""),
}
SECURE = {k: v for k, v in A.HEADERS.items()}


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("case", CASES)
def test_refused_in_form(where, case, lang):
    status, head, body = CASES[case]
    language = b"ko-KR,ko;q=0.9,en;q=0.5" if lang == "ko" else b"en"
    head = (
        head.replace(b"LANG", language)
        if b"LANG" in head
        else head.replace(b"\nHost", b"\nAccept-Language: " + language + b"\nHost")
    )
    got, headers, said = ask(where, head, body)
    assert got == status and headers["Content-Type"] == "application/json"
    assert set(said) == {"error", "message"}
    if case != "no request at all":  # which has no headers to name a language
        assert headers["Content-Language"] == lang
        assert any("가" <= c <= "힣" for c in said["message"]) == (lang == "ko")
    assert (
        said["message"].endswith(".")
        and said["message"] in {*words(lang)["http"].values(), *words(lang)["refused"].values()}
        or "evil" in said["message"]
        or case == "no request at all"
    )
    assert {k: headers[k] for k in SECURE} == SECURE and "server" not in {k.lower() for k in headers}


def test_the_pages_language_counts_before_the_browsers(where):
    got, headers, said = ask(
        where,
        b"POST /api/predict?wait=1&lang=ko HTTP/1.1\nHost: localhost\nAccept-Language: en\nContent-Length: 99000000",
    )
    assert (got, said["message"]) == (413, words("ko")["http"]["413"])
    js = (A.ASSETS / "static/app.js").read_text(encoding="utf-8")
    assert "'Accept-Language': settings.lang" in js  # the page asks in its own language


def test_whoever_is_cut_off_while_sending_sees_why(where):
    "25 MB into a server that refuses: the connection must stay until the answer is read, and end soon after."
    for _ in range(3):
        got, _, said = ask(
            where, b"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 25000000", bytes(25_000_000)
        )
        assert got == 413 and said["message"] == words("en")["http"]["413"]
    with socket.create_connection(where, timeout=30) as s:  # who goes on and on is cut off all the same
        s.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        start = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < start + 20:
                s.sendall(bytes(1000))
                time.sleep(0.05)
        assert 2 < time.monotonic() - start < 15


def test_a_photo_after_refusals(where):
    c = http.client.HTTPConnection(*where, timeout=20)
    c.request("POST", "/api/predict?wait=20", PHOTO)
    r = c.getresponse()
    assert r.status == 200 and json.loads(r.read())["state"] == "done"


def test_an_error_in_front_of_the_app(tmp_path):
    "What breaks outside Flask is a 500 in the same form."
    app = create_app(Slope(), tmp_path, decoders=1)

    def broken(environ, start_response):
        raise RuntimeError("a secret")

    app.wsgi_app = broken
    server = make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    got, headers, said = ask(("127.0.0.1", int(server.effective_port)), b"GET /api/items HTTP/1.1\nHost: localhost")
    assert got == 500 and said == {"error": "http_500", "message": words("en")["http"]["500"]}
    server.task_dispatcher.shutdown()
    app.extensions["dogdepth"].close()


def test_every_status_has_a_sentence():
    for code in (
        "400",
        "401",
        "404",
        "405",
        "408",
        "411",
        "413",
        "414",
        "415",
        "416",
        "429",
        "431",
        "500",
        "501",
        "503",
    ):
        assert words("en")["http"][code] and words("ko")["http"][code]
    body, headers = A.refusal(418, "http_418", "ko")
    assert body["message"] == words("ko")["http"]["400"]


@pytest.mark.parametrize("form", [True, False])
def test_chunks_under_another_server(tmp_path, form):
    """gunicorn hands on a body in chunks without a length; werkzeug would cut it at the limit, and a photo cut short is
    not what was sent."""
    app = create_app(Slope(), tmp_path, Limits(upload_mb=0.05), decoders=1)
    start = b"--x\r\nContent-Disposition: form-data; name=photo; filename=a.jpg\r\n\r\n" + PHOTO if form else PHOTO
    for more, status in ((bytes(60_000), 413), (b"\r\n--x--\r\n", 202)):
        r = app.test_client().post(
            "/api/predict",
            input_stream=io.BytesIO(start + more),
            environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
        )
        assert r.status_code == status, r.json
    app.extensions["dogdepth"].close()
