"""Build the documentation: notebooks, README and guides → pages → a static site. Every warning is an error."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import main as sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pages import Pages  # noqa: E402  it is next to this script


def build(
    out: Path,  # the site's folder; replaced only if the build succeeds
) -> int:
    "Build the site; returns 0 if there were no warnings."
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
    print(f"built {given.out / 'index.html'}" if code == 0 else "the build failed; its warnings are above")
    sys.exit(code)
