"The page behind a proxy: https, a folder of a larger site, another name; and that nobody but the proxy is believed."

import io
import re
import threading
from http.client import HTTPConnection

import pytest
from app_fakes import Slope
from test_app import PHOTO

from dogdepth import app as A
from dogdepth import door, store
from dogdepth.app import Limits, Proxied, create_app
from dogdepth.server import make_server

KEPT = {"Host": "depth.example", "X-Forwarded-Proto": "https"}  # nginx with `proxy_set_header Host $host`
REPLACED = {
    "Host": "127.0.0.1:8000",
    "X-Forwarded-Host": "depth.example",
    "X-Forwarded-Proto": "https",
}  # nginx without it, Caddy, Traefik
SILENT = {"Host": "depth.example"}  # says nothing of https


@pytest.fixture
def opened(tmp_path, monkeypatch):
    "A function that makes an app, without a network at work; all are closed at the end."
    monkeypatch.setattr(store.Bench, "start", lambda self: None)
    apps = []

    def make(**how):
        apps.append(create_app(Slope(), tmp_path, Limits(), decoders=1, **how))
        return apps[-1]

    yield make
    for app in apps:
        app.extensions["dogdepth"].close()


def visit(app, headers, at="/", peer="127.0.0.1", origin="https://depth.example", site="same-origin", photo=b""):
    """As a browser does it through a proxy: open the page, then send something from it. The page's answer and that
    one's: 400, empty, where it was let in."""
    c, how = app.test_client(use_cookies=False), dict(environ_overrides={"REMOTE_ADDR": peer})
    page = c.get(at, headers=headers, **how)
    if page.status_code != 200:
        return page, page
    token, cookie = re.search(r'csrf-token" content="(\w+)"', page.text)[1], page.headers["Set-Cookie"].split(";")[0]
    more = {"Origin": origin, "X-CSRF-Token": token, "Cookie": cookie, **({"Sec-Fetch-Site": site} if site else {})}
    where = at.rstrip("/") + "/api/predict"
    return page, c.post(where, data={"photo": (io.BytesIO(photo), "a.jpg")}, headers={**headers, **more}, **how)


@pytest.mark.parametrize("site", ["same-origin", None])
@pytest.mark.parametrize(
    "headers",
    [
        KEPT,
        REPLACED,
        SILENT,
        KEPT | {"X-Forwarded-Proto": "http, https"},
        KEPT | {"Host": "DEPTH.example:443"},
        KEPT | {"X-Forwarded-Port": "443"},
    ],
)
def test_https_proxy(opened, headers, site):
    page, sent = visit(opened(https=True, names=["depth.example"]), headers, site=site)
    assert sent.json["error"] == "empty", sent.json
    assert "; Secure" in page.headers["Set-Cookie"] and "Strict-Transport-Security" in page.headers


def test_a_proxy_of_another_machine_is_named(opened):
    app = opened(names=["depth.example"], proxy=["10.0.0.0/8", "::1"])
    for peer in ("10.1.2.3", "::ffff:10.1.2.3", "::1"):
        page, sent = visit(app, REPLACED, peer=peer)
        assert sent.json["error"] == "empty" and "; Secure" in page.headers["Set-Cookie"]
    page, sent = visit(app, REPLACED, peer="192.0.2.1")
    assert sent.status_code == 403 and "; Secure" not in page.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "how, peer",
    [
        ({}, "127.0.0.1"),
        (dict(names=["depth.example"]), "192.0.2.1"),
        (dict(names=["depth.example"], proxy=()), "127.0.0.1"),
    ],
)
def test_headers_of_a_stranger_are_not_heard(opened, how, peer):
    "Without a word from the operator nobody is a proxy; with one, only the proxy is."
    app = opened(**how)
    spoofed = REPLACED | {"X-Forwarded-Prefix": "/evil", "X-Forwarded-For": "127.0.0.1"}
    page, sent = visit(app, spoofed, peer=peer)
    assert (
        page.status_code == 200
        and "evil" not in page.text
        and "Path=/;" in page.headers["Set-Cookie"] + ";"
        and "; Secure" not in page.headers["Set-Cookie"]
    )
    assert sent.status_code == 403
    evil = app.test_client().get(
        "/", headers={"Host": "evil.example", "X-Forwarded-Host": "localhost"}, environ_overrides={"REMOTE_ADDR": peer}
    )
    assert evil.status_code == 400


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://depth.example.evil.example",
        "null",
        "https://evil.example/depth.example",
        "x" * 300,
    ],
)
def test_a_proxy_does_not_open_the_door_to_others(opened, origin):
    app = opened(https=True, names=["depth.example"])
    for site in ("same-origin", None, "cross-site", "same-site"):
        assert visit(app, KEPT, origin=origin, site=site)[1].json["error"] == "elsewhere"
    assert visit(app, KEPT, site="cross-site")[1].json["error"] == "elsewhere"
    assert app.test_client().get("/", headers=KEPT | {"X-Forwarded-Host": "evil.example"}).json["error"] == "wrong_host"


def test_a_proxy_that_changes_the_port(opened):
    """nginx's $host drops the port. The browser itself says that it is the same origin; where it says nothing, the
    refusal says what to do."""
    app = opened(https=True, names=["depth.example"])
    assert visit(app, KEPT, origin="https://depth.example:8443")[1].json["error"] == "empty"
    sent = visit(app, KEPT, origin="https://depth.example:8443", site=None)[1]
    assert (
        (sent.status_code, sent.json["error"]) == (403, "other_address")
        and "--https" in sent.json["message"]
        and "https://depth.example:8443" in sent.json["message"]
    )
    assert (
        visit(app, KEPT | {"X-Forwarded-Port": "8443"}, origin="https://depth.example:8443", site=None)[1].json["error"]
        == "empty"
    )


def test_https_without_the_flag_is_refused_with_what_to_do(opened):
    sent = visit(opened(names=["depth.example"], proxy=()), KEPT)[1]
    assert (sent.status_code, sent.json["error"]) == (403, "other_address") and "--proxy" in sent.json["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "javascript"},
        {"X-Forwarded-Port": "abc"},
        {"X-Forwarded-Prefix": "//evil.example"},
        {"X-Forwarded-Prefix": '/"><script>'},
        {"X-Forwarded-Host": "a b"},
        {"X-Forwarded-For": "nonsense"},
    ],
)
def test_nonsense_from_a_proxy(opened, headers):
    page = opened(names=["depth.example"]).test_client().get("/", headers={"Host": "depth.example", **headers})
    assert (
        page.status_code == 200
        and "evil" not in page.text
        and "><script>" not in page.text
        and 'src="static/app.js"' in page.text
    )


def test_a_password_between_browser_and_proxy_is_not_ours(opened):
    app = opened(names=["depth.example"])
    assert visit(app, KEPT | {"Authorization": "Basic YTpi"})[1].json["error"] == "empty"
    assert app.test_client().get("/api/items", headers={"Authorization": "Bearer YTpi"}).status_code == 401


PREFIXES = {
    "a header, path stripped": (dict(names=["depth.example"]), {"X-Forwarded-Prefix": "/depth"}, "/"),
    "a header with a slash": (dict(names=["depth.example"]), {"X-Forwarded-Prefix": "/depth/"}, "/"),
    "a header, path kept": (dict(names=["depth.example"]), {"X-Forwarded-Prefix": "/depth"}, "/depth/"),
    "an option, path stripped": (dict(names=["depth.example"], prefix="/depth"), {}, "/"),
    "an option, path kept": (dict(names=["depth.example"], prefix="depth/"), {}, "/depth/"),
    "an option, no slash": (dict(names=["depth.example"], prefix="/depth"), {}, "/depth"),
    "both": (dict(names=["depth.example"], prefix="/depth"), {"X-Forwarded-Prefix": "/depth"}, "/"),
}


@pytest.mark.parametrize("case", PREFIXES)
def test_under_a_prefix(opened, case):
    how, more, at = PREFIXES[case]
    app = opened(**how)
    page, sent = visit(app, KEPT | more, at, photo=PHOTO)
    assert sent.status_code == 202, sent.text
    assert re.search(r"Path=/depth(;|$)", page.headers["Set-Cookie"])
    inside = at.rstrip("/")
    links = [u for u in re.findall(r'(?:src|href)="([^"]+)"', page.text) if u[0] not in "#?"]
    assert links and all(u.startswith("/depth/") for u in links)
    for u in {*links, *(f["url"] for f in sent.json["files"].values() if "url" in f)}:
        assert u.startswith("/depth/")
        assert app.test_client().get(inside + u.removeprefix("/depth"), headers=KEPT | more).status_code in (
            200,
            404 if "/files/" in u else 200,
        )
    doc = app.test_client().get(inside + "/api/openapi.json", headers=KEPT | more).json
    assert doc["servers"] == [{"url": "/depth"}]
    moved = app.test_client().get(inside + "/api//items", headers=KEPT | more)
    assert moved.status_code == 308 and moved.headers["Location"] == "https://depth.example/depth/api/items"


def test_addresses_are_relative_where_nobody_speaks_of_a_prefix(opened):
    "A proxy may strip a folder and say nothing: nothing on the page may begin with a slash."
    page = opened().test_client().get("/")
    assert all(u[0] not in "/" for u in re.findall(r'(?:src|href|action)="([^"]+)"', page.text))
    for p in (A.ASSETS / "static").iterdir():
        text = p.read_text(encoding="utf-8")
        assert not re.search(r"""['"`(]/(?:api|static|sample)""", text), p.name
    assert "import.meta.url" in (A.ASSETS / "static/app.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("prefix", ["/api", "/static/x", "/a b", "/<x>"])
def test_impossible_prefixes(prefix):
    with pytest.raises(ValueError, match="prefix"):
        Proxied(None, (), prefix)


def test_a_prefix_that_looks_like_the_pages_own_folders(opened):
    app = opened(names=["depth.example"])
    assert visit(app, KEPT | {"X-Forwarded-Prefix": "/api"})[1].json["error"] == "empty"
    assert visit(app, KEPT | {"X-Forwarded-Prefix": "/api-v2"}, "/api-v2")[1].json["error"] == "empty"


@pytest.mark.parametrize("address", ["nginx", "1.2.3.4.5", ""])
def test_proxies_are_addresses(address):
    with pytest.raises(ValueError, match="proxy"):
        Proxied(None, [address])


# --- names


@pytest.mark.parametrize(
    "name, host",
    [
        ("depth.example", "depth.example"),
        ("Depth.Example.", "depth.example:8000"),
        ("depth.example:8443", "depth.example"),
        ("https://depth.example/x", "DEPTH.EXAMPLE."),
        ("깊이.example", "깊이.example".encode("idna").decode()),
    ],
)
def test_names_however_they_are_written(opened, name, host):
    assert opened(names=[name]).test_client().get("/", headers={"Host": host}).status_code == 200
    assert opened(names=name).test_client().get("/", headers={"Host": host}).status_code == 200


def test_it_answers_to_what_it_listens_on_and_to_the_machines_name(opened, monkeypatch):
    monkeypatch.setattr(door.socket, "gethostname", lambda: "Workshop.home.arpa")
    app = opened()
    for name in ("workshop.home.arpa", "workshop", "workshop.local", "localhost."):
        assert app.test_client().get("/", headers={"Host": name + ":8000"}).status_code == 200
    monkeypatch.setattr(
        "waitress.server.create_server", lambda *a, **how: type("S", (), {"map": {}, "effective_listen": []})()
    )
    assert app.test_client().get("/", headers={"Host": "page.example"}).status_code == 400
    make_server(app, "Page.example")
    assert app.test_client().get("/", headers={"Host": "page.example"}).status_code == 200


def test_the_refusal_names_the_flag(opened):
    for lang in ("en", "ko"):
        r = opened().test_client().get("/", headers={"Host": "depth.example:8000", "Accept-Language": lang})
        assert r.status_code == 400 and r.json["error"] == "wrong_host" and "--name depth.example" in r.json["message"]


def test_through_a_real_server(opened):
    "waitress must not throw the proxy's headers away before the app sees them."
    app = opened(https=True, names=["depth.example"])
    server = make_server(app, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    c = HTTPConnection("127.0.0.1", server.effective_port, timeout=20)
    c.request("GET", "/", headers=KEPT | {"X-Forwarded-Prefix": "/depth"})
    r = c.getresponse()
    assert r.status == 200 and "Path=/depth" in r.headers["Set-Cookie"] and b'src="/depth/static/app.js"' in r.read()
    server.task_dispatcher.shutdown()


def test_the_flags_of_serve(monkeypatch, capsys):
    "What the command hands to the app."
    from dogdepth import cli

    made = {}
    monkeypatch.setattr(A, "create_app", lambda *a, **how: made.update(how))
    monkeypatch.setattr("dogdepth.server.serve", lambda *a, **how: None)
    cli.main(
        [
            "serve",
            "--https",
            "--name",
            "a.example",
            "--name",
            "b.example",
            "--proxy",
            "10.0.0.2",
            "--proxy",
            "172.18.0.0/16",
            "--prefix",
            "/depth",
        ]
    )
    assert made == dict(
        names=["a.example", "b.example"], https=True, proxy=["10.0.0.2", "172.18.0.0/16"], prefix="/depth"
    )
    cli.main(["serve"])
    assert made == dict(names=[], https=False, proxy=None, prefix="")


def test_a_wrong_proxy_is_one_line(capsys):
    from dogdepth import cli

    assert cli.main(["serve", "--proxy", "nginx"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
