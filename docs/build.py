"""Builds the documentation: notebooks and README → pages → a static site. Every warning is an error."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pages import Pages  # noqa: E402  it stands beside this script


def build(
    out: Path,  # the site's folder, made anew; left as it was where the site has faults
) -> int:
    "The exit status: 0 where the site is whole."
    with tempfile.TemporaryDirectory() as d:
        pages, site = Path(d) / "pages", Path(d) / "site"
        Pages(pages).write()
        options = ["-q", "-W", "--keep-going", "-j", "2", "-b", "html", "-c", str(HERE), "-d", f"{d}/trees"]
        status = sphinx([*options, str(pages), str(site)])
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(site, out, ignore=shutil.ignore_patterns(".buildinfo"))
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "_docs", help="folder of the site (%(default)s)")
    given = parser.parse_args()
    code = build(given.out)
    print(f"the site: {given.out / 'index.html'}" if code == 0 else "the site has faults; they are named above")
    sys.exit(code)
