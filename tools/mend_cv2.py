"""Check that OpenCV imports; where the system lacks a library it needs (libGL, glib, xcb), mend it inside this environment.

`opencv-python` can open windows and so needs libraries that servers and containers lack. `opencv-python-headless` is the
same library without the windows: the same version of it, laid over the first, needs nothing from the system.
"""

import subprocess
import sys
from importlib.metadata import version

SYSTEM = "apt-get install -y libgl1 libglib2.0-0 libxcb1   (Debian, Ubuntu; elsewhere the packages that hold libGL.so.1 and libgthread-2.0.so.0)"


def why_not():
    "The reason `import cv2` fails in a fresh process; empty if it works."
    r = subprocess.run([sys.executable, "-c", "import cv2; cv2.GaussianBlur"], capture_output=True, text=True)
    return r.stderr.strip().splitlines()[-1] if r.returncode else ""


def main():
    reason = why_not()
    if not reason:
        return 0
    print(f"OpenCV does not import here: {reason}")
    headless = f"opencv-python-headless=={version('opencv-python')}"
    pip = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", headless])
    reason = why_not()
    if pip.returncode == 0 and not reason:
        print(
            f"Mended: {headless} was laid over it in {sys.prefix}; it needs no system library. Nothing outside was "
            "changed."
        )
        return 0
    print(
        f"Could not mend it with {headless} ({reason or 'pip failed'}).\nInstall the libraries by hand, then run make "
        f"again:\n  {SYSTEM}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
