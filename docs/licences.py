"The licences of what this package needs to run, as the installed packages state them: `python docs/licences.py > LICENSES.md`."

import re
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FREE = {  # what may stand in a package's own statement, by SPDX identifier
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip
OF_NVIDIA = "NVIDIA's own terms (libraries of CUDA, which the GPU builds of torch bring)"
WORDS = {  # how older packages say it
    "Apache Software License": "Apache-2.0", "Apache License, Version 2.0": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD", "Historical Permission Notice and Disclaimer (HPND)": "HPND", "MIT License": "MIT", "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Python Software Foundation License": "PSF-2.0", "3-Clause BSD License": "BSD-3-Clause", "zlib/libpng License": "Zlib",
}  # fmt: skip


def needed(requirements: str) -> dict[str, tuple[str, str]]:
    "Name → version and licence of these packages and of all that they need, as far as they are installed."
    found, todo = {}, [re.match(r"[\w.-]+", r).group() for r in requirements.split()]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform or Python
        if name not in found:
            found[name] = about.version, licence(about.metadata)
            todo += [re.match(r"[\w.-]+", r).group() for r in about.requires or () if "extra ==" not in r]
    return dict(sorted(found.items()))


def licence(metadata) -> str:
    "What a package says of itself: an SPDX expression, or the classifiers, or a line of text, as SPDX where it is one of `WORDS`."
    name = metadata["Name"].lower()
    if name.startswith(("nvidia-", "cuda-toolkit")):
        return OF_NVIDIA
    told = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    text = metadata.get("License-Expression") or " AND ".join(WORDS.get(t, t) for t in told) or (metadata.get("License") or "").partition("\n")[0].strip()
    return WORDS.get(text, text) or "not stated"


def outside(licence: str) -> set[str]:
    "What of a licence is not in `FREE`; alternatives count where none of them is."
    if licence == OF_NVIDIA:
        return set()
    parts = re.split(r"\s+(?:AND|WITH)\s+", re.sub(r"\(([^()]*)\)", r"\1", licence))
    return {p for p in parts if not any(word.strip() in FREE for word in p.split(" OR "))}


def requirements() -> str:
    "Those of running: the package's own and the extras for page and Milvus."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return " ".join(config["DEFAULT"][k] for k in ("requirements", "app_requirements", "milvus_requirements"))


def main() -> int:
    found = needed(requirements())
    print("# Licences\n\nFashionERN is under Apache-2.0 (`LICENSE`).", end=" ")
    print("What it needs to run, with the extras `app` and `milvus`, as each package states it; written by `python docs/licences.py`.\n")
    print("| package | version | licence |\n|---|---|---|")
    for name, (version, text) in found.items():
        print(f"| {name} | {version} | {text} |")
    wrong = {name: sorted(outside(text)) for name, (_, text) in found.items() if outside(text)}
    if wrong:
        print(f"licences that nobody has agreed to: {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
