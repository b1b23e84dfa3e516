"""Make nbs/images/demo.jpg, the README's picture: the first room of the page that `dogdepth demo` writes.

python tools/demo_jpg.py [FOLDER]      # a folder with that page; default: it is made now. Needs playwright and a Chromium
"""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

TO = Path(__file__).parents[1] / "nbs/images/demo.jpg"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

with tempfile.TemporaryDirectory() as tmp, sync_playwright() as p:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tmp).resolve()
    if len(sys.argv) == 1:
        env = {k: v for k, v in os.environ.items() if k != "DOGDEPTH_DATA"}
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from dogdepth.cli import main; sys.exit(main(sys.argv[1:]))",
                "demo",
                "--out",
                folder,
            ],
            check=True,
            env=env,
        )
    browser = p.chromium.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic", "--disable-background-networking"]
    )
    page = browser.new_page(viewport=dict(width=1000, height=1000), reduced_motion="reduce")
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector(".room canvas", timeout=60_000)
    page.wait_for_timeout(4000)
    box = page.locator("section.photo").first.bounding_box()
    clip = dict(x=box["x"] - 12, y=box["y"] - 12, width=box["width"] + 24, height=box["height"] + 24)
    Image.open(io.BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB").save(
        TO, quality=85, optimize=True
    )
    browser.close()
print(f"{TO}: {TO.stat().st_size // 1000} kB")
