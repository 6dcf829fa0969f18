"Run-time requirements are under accepted licences, and LICENSES.md can be regenerated."

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
licences = importlib.util.module_from_spec(spec)
spec.loader.exec_module(licences)


def test_every_licence_is_accepted():
    found = licences.needed(licences.requirements())
    assert {"torch", "pillow", "safetensors", "starlette"} <= found.keys() and len(found) > 30
    assert not {name: text for name, (_, text) in found.items() if licences.outside(text)}


def test_other_licences_are_reported():
    for text in (
        "GPL-3.0-only",
        "AGPL-3.0 AND MIT",
        "not stated",
        "MIT AND (GPL-2.0 OR LGPL-3.0)",
        "Other/Proprietary License",
    ):
        assert licences.outside(text), text
    for text in ("MIT", "Apache-2.0 WITH LLVM-exception", "MPL-2.0 AND (Apache-2.0 OR MIT)", "BSD-3-Clause OR GPL-2.0"):
        assert not licences.outside(text), text


def test_the_list_names_every_package_of_the_requirements():
    listed = {
        line.split("|")[1].strip()
        for line in (ROOT / "LICENSES.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    }
    done = subprocess.run([sys.executable, ROOT / "docs" / "licences.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("# Licences")
    direct = {
        name.lower().replace("_", "-") for name in licences.re.findall(r"(?:^| )([\w-]+)", licences.requirements())
    }
    assert direct <= listed
