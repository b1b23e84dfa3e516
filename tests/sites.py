"The site, built once for all tests and all workers, and what they need to look at it."

import fcntl
import functools
import http.server
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from dogdepth.site import build_site

ROOT = Path(__file__).resolve().parents[1]
CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--enable-unsafe-swiftshader",
    "--use-angle=swiftshader",
]
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


def built(tmp_path_factory, name, **how):
    "The folder of the site; whoever comes first builds it, the other workers wait."
    top = tmp_path_factory.getbasetemp()
    top = top.parent if top.name.startswith("popen-") else top
    out = top / name
    with open(top / f"{name}.lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if not (out / "index.html").exists():
            build_site(ROOT, out, **how)
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def serve(folder):
    "A web server for the folder, and its address."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/"


class Tags(HTMLParser):
    "All tags of a page as (name, attributes, text inside), in order; the text of nested tags counts for each."

    def __init__(self, path):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        t = [tag, {k: v or "" for k, v in attrs}, "", [o[1].get("class", "") for o in self.open]]
        self.tags.append(t)
        if tag not in VOID:
            self.open.append(t)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for t in self.open:
            t[2] += data

    def all(self, *names):
        return [t for t in self.tags if t[0] in names]


@functools.lru_cache(None)
def tags(path):
    return Tags(path)


@functools.lru_cache(None)
def ids_of(path):
    return {t[1].get("id") for t in tags(path).tags}


def targets(page):
    "Everything a page points at: (attribute, address)."
    for name, attrs, _, _ in tags(page).tags:
        for k in ("href", "src", "data-figure"):
            if attrs.get(k) and not attrs[k].startswith(("data:", "mailto:", "javascript:")):
                yield f"{name} {k}", attrs[k]


def local(page, address, root):
    "The file and the anchor that an address on a page means; None for other servers."
    u = urlsplit(address)
    if u.scheme or u.netloc:
        return None
    return (page.parent / unquote(u.path)).resolve() if u.path else page.resolve(), unquote(u.fragment)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The site without the network that runs in a page: quick to build, nothing fetched but what is cached."
    return built(tmp_path_factory, "site", with_try=False)


@pytest.fixture(scope="session")
def whole_site(tmp_path_factory):
    "The site with everything."
    return built(tmp_path_factory, "whole_site")
