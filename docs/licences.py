"Licences of the run-time requirements, as the installed packages state them: `python docs/licences.py > LICENSES.md`."

import re
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from fashionern.encoders.laptop import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
FREE = {  # licences accepted in a package's own statement, by SPDX identifier
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
}  # fmt: skip
OF_NVIDIA = "NVIDIA's own terms (CUDA libraries that come with the GPU builds of torch)"
WORDS = {  # licence names in older packages → SPDX identifier
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "zlib/libpng License": "Zlib",
}


def needed(requirements: str) -> dict[str, tuple[str, str]]:
    "Name → (version, licence) of these packages and all their requirements that are installed."
    found, todo = {}, [re.match(r"[\w.-]+", r).group() for r in requirements.split()]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        try:
            about = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or Python version
        if name not in found:
            found[name] = about.version, licence(about.metadata)
            todo += [re.match(r"[\w.-]+", r).group() for r in about.requires or () if "extra ==" not in r]
    return dict(sorted(found.items()))


def licence(metadata) -> str:
    "The licence a package states, as an SPDX expression, classifiers or text; `WORDS` gives the SPDX name."
    name = metadata["Name"].lower()
    if name.startswith(("nvidia-", "cuda-toolkit")):
        return OF_NVIDIA
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    text = (
        metadata.get("License-Expression")
        or " AND ".join(WORDS.get(c, c) for c in classifiers)
        or (metadata.get("License") or "").partition("\n")[0].strip()
    )
    return WORDS.get(text, text) or "not stated"


def outside(licence: str) -> set[str]:
    "Parts of a licence that are not in `FREE`; of alternatives (OR), one in `FREE` is enough."
    if licence == OF_NVIDIA:
        return set()
    parts = re.split(r"\s+(?:AND|WITH)\s+", re.sub(r"\(([^()]*)\)", r"\1", licence))
    return {p for p in parts if not any(word.strip() in FREE for word in p.split(" OR "))}


def requirements() -> str:
    "Run-time requirements: those of the package and of its extras `app` and `milvus`."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return " ".join(config["DEFAULT"][k] for k in ("requirements", "app_requirements", "milvus_requirements"))


def main() -> int:
    found = needed(requirements())
    print("# Licences\n\nFashionERN is under Apache-2.0 (`LICENSE`).", end=" ")
    print(
        "Its run-time requirements, with the extras `app` and `milvus`, "
        "under the licences that each package states. Written by `python docs/licences.py`.\n"
    )
    print("| package | version | licence |\n|---|---|---|")
    for name, (version, text) in found.items():
        print(f"| {name} | {version} | {text} |")
    print("\n## Pretrained weights\n\nThe extra `laptop` installs these files, which `ern-laptop` reads.\n")
    print("| package | file | licence |\n|---|---|---|")
    for package in WEIGHTS:
        print(f"| {package.source} | {package.file} | {package.license} |")
    wrong = {name: sorted(outside(text)) for name, (_, text) in found.items() if outside(text)}
    if wrong:
        print(f"licences that are not in the accepted list: {wrong}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
