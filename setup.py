"Package metadata from settings.ini, read with configparser (nbdev's stock setup.py needs pkg_resources, which setuptools >= 81 lacks)."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {k.removesuffix("_requirements"): v.split() for k, v in cfg.items() if k.endswith("_requirements")}
extras["all"] = sorted({r for k, reqs in extras.items() if k not in ("docs", "dev") for r in reqs})
extras["dev"] = sorted({r for reqs in extras.values() for r in reqs})  # dev = everything

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8") if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    packages=[*find_packages(include=["dogdepth", "dogdepth.*"]), "dogdepth.results"],
    package_dir={"dogdepth.results": "results"},  # what the pages read: packed beside the library, kept in one place
    package_data={
        "dogdepth": ["py.typed", "assets/**", "weights/**"],
        "dogdepth.results": ["*.csv", "*.json", "*.png"],
    },
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    zip_safe=False,
)
