"""Notebooks, README and the datasets' notes → pages that Sphinx reads. Nothing is executed: outputs are those that were committed."""

import json
import os
import re
import shutil
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from api import Entry, entries, only_imports

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {  # title → its notebooks; the first that matches holds
    "Foundations": ("0[0-6]_*",),
    "Data": ("0[7-9]_*", "1?_*"),
    "Encoders": ("2?_*",),
    "Models": ("3?_*",),
    "Losses and evaluation": ("4?_*",),
    "Reports and commands": ("51_*", "evaluation/06_plots", "65_*", "70_*", "71_*"),
    "Search your own photos": ("training/09_trained*", "59_*", "6?_*"),
    "Training": ("5?_*",),
    "Benchmark": ("7[2-9]_*",),
    "Tutorials": ("8?_*", "9?_*"),
}
ORDER = (*list(FLOORS)[:5], "Training", "Search your own photos", "Reports and commands", "Benchmark", "Tutorials")
DATASETS = "Preparing the datasets"
FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")
CODE = re.compile(r"(?<![`\[\\])`([^`\n]+)`(?![`\]])")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


class Pages:
    "The pages, written into a folder."

    def __init__(
        self,
        out: Path,  # the folder Sphinx reads
    ):
        self.out = out
        self.notebooks = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))}
        self.modules = {stem: module_of(nb) for stem, nb in self.notebooks.items()}
        self.readmes = {p.parent.name: p for p in sorted((ROOT / "data_scripts").glob("*/README.md"))}
        self.documents = sorted((ROOT / "docs").glob("*.md"))
        self.names = self._names()

    def write(self) -> None:
        "All of them."
        if self.out.exists():
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        for stem in self.notebooks:
            self._notebook(stem)
        for dataset, path in self.readmes.items():
            self._page(f"dataset-{dataset}", self.prose(path.read_text(encoding="utf-8"), path.parent))
        for title in ORDER:
            stems = [s for s in self.notebooks if floor_of(s) == title]
            self._listing(title, {s: first_cell(self.notebooks[s]) for s in stems})
        self._listing(DATASETS, {f"dataset-{d}": p.read_text(encoding="utf-8") for d, p in self.readmes.items()})
        self._page("contributing", self.prose((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), ROOT))
        for path in self.documents:
            self._page(path.stem, self.prose(path.read_text(encoding="utf-8"), path.parent))
        front = self.prose((ROOT / "README.md").read_text(encoding="utf-8"), ROOT)
        self._page("index", front + toctree([*map(slug, ORDER), slug(DATASETS), *(p.stem for p in self.documents), "contributing"]))

    def prose(
        self,
        text: str,  # Markdown
        folder: Path,  # that its links start from
        module: str = "",  # whose names come first
    ) -> str:
        "The same, with links that lead to pages of the site and API names in backticks linked to their entries."
        parts = FENCE.split(text)
        parts[::2] = [self._linked(part, folder, module) for part in parts[::2]]
        return "".join(parts)

    def _linked(self, text: str, folder: Path, module: str) -> str:
        text = LINK.sub(lambda m: f"{m[1]}({self._target(folder, m[2])})", text)
        lines = (line if line.startswith("#") else CODE.sub(lambda m: self._name(m, module), line) for line in text.split("\n"))
        return "\n".join(lines)

    def _name(self, found: re.Match, module: str) -> str:
        "A name in backticks, as a reference where it can mean one thing only."
        name = found[1].removesuffix("()")
        if name in self.notebooks:
            return f"[{found[1]}]({name}.ipynb)"
        full = self.names.get((module, name)) or self.names.get(("", name))
        return f"{{py:obj}}`{found[1]} <{full}>`" if full else found[0]

    def _target(self, folder: Path, target: str) -> str:
        "A link of the repository → one of the site; a file that is no page is copied beside the pages."
        path, _, anchor = target.partition("#")
        place = Path(os.path.relpath((folder / path).resolve(), ROOT)).as_posix()
        end = f"#{anchor}" if anchor else ""
        if place == "data_scripts":
            return f"{slug(DATASETS)}.md{end}"
        if (folder / path).resolve().parent == ROOT / "data_scripts":
            return f"dataset-{Path(place).name}.md{end}"
        if place in ("README.md", "CONTRIBUTING.md"):
            return {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}[place] + end
        if place.startswith("data_scripts/") and place.endswith("/README.md"):
            return f"dataset-{Path(place).parent.name}.md{end}"
        if place.startswith("docs/") and place.endswith(".md"):
            return Path(place).name + end
        if place.startswith("nbs/") and place.endswith(".ipynb"):
            return place.removeprefix("nbs/") + end
        if (ROOT / place).is_file():
            (self.out / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, self.out / place)
            return place
        return target  # leads nowhere, and Sphinx will say so

    def _names(self) -> dict[tuple[str, str], str]:
        "(module, name) → full name; ('', name) where one module alone defines it."
        found: dict[tuple[str, str], str] = {}
        for stem, module in self.modules.items():
            for entry in (e for c in shown(self.notebooks[stem]) if is_exported(c) for e in entries(code_of(c))):
                for name in (entry.name, *(m.name for m in entry.members)):
                    found[module, name] = f"{module}.{name}"
        times = Counter(name for _, name in found)
        found |= {("", name): full for (_, name), full in list(found.items()) if times[name] == 1}
        modules = [m for m in self.modules.values() if m]
        found |= {("", m.split(".", 1)[1]): m for m in modules if m.count(".") > 1}  # 'models.dvr', but not 'core'
        return found | {("", m): m for m in modules}

    def _notebook(self, stem: str) -> None:
        nb, module = self.notebooks[stem], self.modules[stem]
        cells = [new for cell in imports_joined(shown(nb)) for new in self._cell(cell, module)]
        cells[0]["source"] += self._about(stem, module)
        nb = {**nb, "cells": cells, "metadata": {**nb["metadata"], "language_info": {"name": "python", "pygments_lexer": "ipython3"}}}
        (self.out / f"{stem}.ipynb").write_text(json.dumps(nb), encoding="utf-8")

    def _about(self, stem: str, module: str) -> str:
        "What stands under a page's title: its module, and the notebook and module to take away."
        offered = {f"{stem}.ipynb": ROOT / "nbs" / f"{stem}.ipynb"}
        if module:
            offered["/".join(module.split(".")) + ".py"] = ROOT / Path(*module.split(".")).with_suffix(".py")
        links = []
        for name, path in offered.items():
            copy = self.out / "files" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            links.append(f"{{download}}`{name} <files/{name}>`")
        mark = f"```{{py:module}} {module}\n```\n\n" if module else ""
        return f"\n\n{mark}```{{container}} source\n{' '.join(links)}\n```\n"

    def _cell(self, cell: dict, module: str) -> list[dict]:
        "A cell as it is shown: prose linked, directives gone, API entries before the code that defines them."
        if cell["cell_type"] != "code":
            return [{**cell, "source": self.prose(source_of(cell), ROOT / "nbs", module)}]
        code = code_of(cell)
        new = {**cell, "source": code, "metadata": dict(cell["metadata"])}
        defined = entries(code) if is_exported(cell) else []
        if defined or only_imports(code):
            label = "Source of " + ", ".join(e.name for e in defined) if defined else "Imports"
            new["metadata"] |= {
                "tags": [*cell["metadata"].get("tags", []), "hide-input"],
                "mystnb": {"code_prompt_show": label, "code_prompt_hide": label},
            }
        text = "\n\n".join(self.entry(e, module) for e in defined)
        return [*([{"cell_type": "markdown", "id": f"{cell['id']}-api", "metadata": {}, "source": text}] if text else []), new]

    def entry(self, entry: Entry, module: str, colons: int = 6) -> str:
        "An API entry as a directive of Sphinx."
        lines = [f":module: {module}", *entry.options, "", self._plain(entry.text, module), ""]
        lines += [f":param {name}: {self._plain(text, module)}" for name, text in entry.parameters.items()]
        lines += [f":returns: {self._plain(entry.returns, module)}"] if entry.returns else []
        lines += ["", *(self.entry(m, module, colons - 1) for m in entry.members)]
        return f"{':' * colons}{{py:{entry.kind}}} {entry.name}{entry.signature}\n" + "\n".join(lines).strip("\n") + f"\n{':' * colons}\n"

    def _plain(self, text: str, module: str) -> str:
        "Text of a docstring or comment, in which only backticks mean anything."
        parts = re.split(r"(`[^`]*`)", text)
        parts[::2] = [re.sub(r"([\\*_\[\]<>${}#|~])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [CODE.sub(lambda m: self._name(m, module), part) for part in parts[1::2]]
        return "".join(parts)

    def _listing(self, title: str, pages: dict[str, str]) -> None:
        "The page of a floor: each of its pages with its sentence."
        rows = [f"[{heading(text)}]({self._file(name)})\n: {self.prose(sentence(text), ROOT)}\n" for name, text in pages.items()]
        self._page(slug(title), f"# {title}\n\n" + "\n".join(rows) + toctree(list(pages)))

    def _file(self, name: str) -> str:
        return f"{name}.ipynb" if name in self.notebooks else f"{name}.md"

    def _page(self, name: str, text: str) -> None:
        (self.out / f"{name}.md").write_text(text, encoding="utf-8")


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def code_of(cell: dict) -> str:
    "A cell's code without nbdev's directives."
    return DIRECTIVE.sub("", source_of(cell)).strip("\n")


def is_exported(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool(re.search(r"^#\|\s*export", source_of(cell), re.MULTILINE))


def shown(nb: dict) -> list[dict]:
    "A notebook's cells without those that are hidden or say nothing but which module this is."
    hidden = re.compile(r"^#\|\s*(hide|default_exp)\b", re.MULTILINE)
    kept = (c for c in nb["cells"] if c["cell_type"] != "code" or not hidden.search(source_of(c)))
    return [c for c in kept if source_of(c).strip()]


def imports_joined(cells: list[dict]) -> list[dict]:
    "Cells of imports that follow one another as one."
    joined: list[dict] = []
    for cell in cells:
        if joined and all(c["cell_type"] == "code" and not c["outputs"] and only_imports(code_of(c)) for c in (joined[-1], cell)):
            joined[-1] = {**joined[-1], "source": f"{code_of(joined[-1])}\n\n{code_of(cell)}"}
        else:
            joined.append(cell)
    return joined


def module_of(nb: dict) -> str:
    "The module a notebook exports to, or ''."
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", "\n".join(map(source_of, nb["cells"])), re.MULTILINE)
    return f"fashionern.{found[1]}" if found else ""


def first_cell(nb: dict) -> str:
    return source_of(nb["cells"][0])


def heading(text: str) -> str:
    return text.split("\n", 1)[0].lstrip("# ")


def sentence(text: str) -> str:
    "What a page says of itself: the quote under its title, or else its first paragraph's first sentence."
    body = text.split("\n", 1)[1].strip().split("\n\n", 1)[0]
    return " ".join(line.lstrip("> ") for line in body.splitlines()) if body.startswith(">") else re.split(r"(?<=\.)\s", body)[0]


def floor_of(stem: str) -> str:
    return next(title for title, patterns in FLOORS.items() if any(fnmatch(stem, p) for p in patterns))


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def toctree(names: list[str]) -> str:
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
