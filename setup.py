"""Pass the package's description in `settings.ini` to setuptools."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

extras = {extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in ("app", "milvus", "docs", "dev")}
# "dev" installs all of these. Tests that need the other extras are skipped without them.
others = {extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in ("hf", "laptop", "heic")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    keywords=cfg["keywords"],
    packages=find_packages(include=["fashionern", "fashionern.*"], exclude=["fashionern.benchmark*"]),
    package_data={"fashionern": ["encoders/configs/*.json", "web/page/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={**extras, **others, "dev": [package for extra in extras.values() for package in extra]},
    entry_points={"console_scripts": [line for line in cfg["console_scripts"].split("\n") if line.strip()]},
    zip_safe=False,
)
