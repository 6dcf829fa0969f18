"The documentation, built once and then walked offline: every link works, and nothing is loaded from another host."

import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(
    path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
    for path in (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
GUIDES = sorted(path.stem.partition("_")[2].replace("_", "-") for path in (ROOT / "docs" / "guides").glob("*.md"))
LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "source": "src",
    "iframe": "src",
    "object": "data",
    "video": "src",
}
NOT_SHOWN = {"style", "script"}


@dataclass
class Page(HTMLParser):
    "A page's links, what it loads, and the anchors it offers."

    text: str
    ids: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()
        self.inside: list[str] = []
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.add(given[LOADED[tag]])
        if tag in NOT_SHOWN:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in NOT_SHOWN and self.inside:
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.words.append(data)


def faults(site: Path) -> list[str]:
    "Every broken link of a site, one sentence each."
    pages = {
        p.resolve(): Page(p.read_text(encoding="utf-8"))
        for p in sorted(site.rglob("*.html"))
        if "_static" not in p.parts
    }
    found = []
    for path, page in pages.items():
        for link in sorted(page.links | page.loads):
            wrong = fault(site, pages, path, link, link in page.loads)
            found += [f"{path.relative_to(site.resolve())}: {link} {wrong}"] if wrong else []
    for style in site.rglob("*.css"):
        outside = re.findall(
            r"url\(\s*['\"]?((?:https?:)?//[^)]+)\)|@import\s+['\"](https?:[^'\"]+)", style.read_text(encoding="utf-8")
        )
        found += [f"{style.relative_to(site)}: loads {''.join(o)} from another host" for o in outside]
    return found


def fault(site: Path, pages: dict[Path, Page], path: Path, link: str, loaded: bool) -> str:
    "What is wrong with one link of a page; '' if nothing is."
    parts = urlsplit(link)
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "is loaded from another host" if loaded or parts.scheme not in ("http", "https", "mailto") else ""
    if link.startswith("/"):
        return "only works at the root of a server"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file() or not target.is_relative_to(site.resolve()):
        return "is broken"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return "names an anchor that is not on its page"
    return ""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason=f"the documentation needs the extra [docs]: {package} is not installed")
    out = tmp_path_factory.mktemp("docs") / "under" / "site"
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", "--out", out], capture_output=True, text=True, timeout=360
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def read(site: Path, name: str) -> Page:
    return Page((site / f"{name}.html").read_text(encoding="utf-8"))


def test_every_link_works_and_nothing_is_loaded_from_another_host(site):
    assert faults(site) == []


def test_the_navigation_reaches_every_notebook_and_every_guide(site):
    assert len(NOTEBOOKS) > 80 and len(GUIDES) == 10
    reached = read(site, "index").links
    assert [name for name in NOTEBOOKS if f"{name}.html" not in reached] == []
    assert [name for name in GUIDES if f"guides/{name}.html" not in reached] == []


def test_no_page_shows_a_directive_or_markup(site):
    for name in NOTEBOOKS:
        words = "".join(read(site, name).words)
        assert not re.search(r"^#\|\s*\w+", words, re.MULTILINE), f"{name} shows a directive of nbdev"
        assert "{py:" not in words and ":::" not in words and not re.search(r"\| —:? \|", words), (
            f"{name} shows markup"
        )  # '---' of a table in prose is a dash by then


def test_an_entry_has_signature_parameters_and_links(site):
    page = read(site, "models/composers/13_layers")
    assert {
        "fashionern.models.composers.layers.GatedCombiner",
        "fashionern.models.composers.layers.SelfGuided.weights",
    } <= page.ids
    assert "../../05_distributed.html#fashionern.distributed.BatchNorm" in page.links
    words = " ".join("".join(page.words).split())
    assert "minimum weight of each side; published: 0" in words and "(B, D), unit length" in words


def test_pictures_are_shown(site):
    assert any(load.endswith("demo.png") for load in read(site, "index").loads)
    for name in (
        "data/03_transforms",
        "evaluation/06_plots",
        "benchmark/06_main",
        "tutorials/01_garments",
        "tutorials/03_all_methods",
    ):
        assert any("_images/" in load for load in read(site, name).loads), f"{name} shows no figure"


def test_the_search_index_knows_the_entries(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert "GatedCombiner" in index and "models/composers/13_layers" in index


def test_the_walk_sees_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="a.html#here">1</a><a href="a.html#gone">2</a><a href="b.html">3</a>'
        '<a href="/a.html">4</a>'
        '<a href="https://example.org">5</a><script src="https://example.org/x.js"></script><img src="../out.png">'
    )
    (tmp_path / "a.css").write_text("@font-face { src: url(https://example.org/font.woff) }")
    found = faults(tmp_path)
    assert len(found) == 6 and {f.split()[1] for f in found[:5]} == {
        "../out.png", "/a.html", "a.html#gone", "b.html", "https://example.org/x.js"
    }  # fmt: skip


def test_a_dead_link_in_a_notebook_fails_the_build(tmp_path):
    pytest.importorskip("myst_nb", reason="the documentation needs the extra [docs]")
    (tmp_path / "index.md").write_text("# A page\n\n[gone](gone.ipynb)\n")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        ROOT / "docs",
        tmp_path,
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "gone.ipynb" in done.stderr
