"""Turn README, guides, dataset notes and notebooks, with their committed outputs, into pages for Sphinx."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Optional

from api import Entry, entries, only_imports

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "nbs"
SECTIONS = {  # title → the folders of its notebooks, in reading order
    "Tutorials": ("tutorials",),
    "Foundations": ("",),
    "Data": ("data", "data/language", "data/drawn", "data/datasets", "data/download", "data/catalogue"),
    "Encoders": ("encoders/formats", "encoders"),
    "Composers": ("models/composers",),
    "Models": ("models",),
    "Evaluation": ("evaluation",),
    "Training": ("training",),
    "Photo search": ("search/stores", "search"),
    "Search page": ("web",),
    "Commands": ("cli",),
    "Benchmark": ("benchmark",),
}
GUIDES = "Guides"
DATASETS = "Preparing the datasets"
FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")
CODE = re.compile(r"(?<![`\[\\])`([^`\n]+)`(?![`\]])")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


class Pages:
    "Writes every page of the site into a folder."

    def __init__(
        self,
        out: Path,  # the folder Sphinx reads
    ):
        self.out = out
        self.notebooks = read_notebooks()
        self.modules = {name: module_of(notebook) for name, notebook in self.notebooks.items()}
        self.dataset_notes = {path.parent.name: path for path in sorted((ROOT / "data_scripts").glob("*/README.md"))}
        self.guides = sorted((ROOT / "docs" / "guides").glob("[0-9]*.md"))
        self.names = self._names()

    def write(self) -> None:
        "Write all pages; the folder's previous content is deleted."
        if self.out.exists():
            shutil.rmtree(self.out)
        self.out.mkdir(parents=True)
        for name in self.notebooks:
            self._notebook(name)
        for dataset, path in self.dataset_notes.items():
            self._write(f"dataset-{dataset}", self.prose(read(path), path.parent))
        for path in self.guides:
            self._write(guide_name(path), self.prose(read(path), path.parent, guide_name(path)))
        for file in ("CONTRIBUTING.md", "SECURITY.md"):
            self._write(Path(file).stem.lower(), self.prose(read(ROOT / file), ROOT))
        self._listings()
        front = self.prose(read(ROOT / "README.md"), ROOT)
        top = [slug(GUIDES), "tutorials", slug(DATASETS), *map(slug, list(SECTIONS)[1:]), "contributing", "security"]
        self._write("index", front + toctree(top))

    def _listings(self) -> None:
        "Write one page per section, with the summary of each page in it."
        self._listing(GUIDES, {guide_name(path): read(path) for path in self.guides})
        self._listing(DATASETS, {f"dataset-{name}": read(path) for name, path in self.dataset_notes.items()})
        for title, folders in SECTIONS.items():
            names = [name for folder in folders for name in self.notebooks if folder_of(name) == folder]
            self._listing(title, {name: first_cell(self.notebooks[name]) for name in names})

    def prose(
        self,
        text: str,  # Markdown
        folder: Path,  # folder that its links are relative to
        page: str = "",  # path of the page it is written to, without suffix
    ) -> str:
        "The text with links to pages of the site, and with names in backticks linked to their API entries."
        parts = FENCE.split(text)
        parts[::2] = [self._linked(part, folder, page) for part in parts[::2]]
        return "".join(parts)

    def _linked(self, text: str, folder: Path, page: str) -> str:
        text = LINK.sub(lambda found: f"{found[1]}({self._target(folder, found[2], page)})", text)
        lines = []
        for line in text.split("\n"):
            lines.append(line if line.startswith("#") else CODE.sub(lambda found: self._reference(found, page), line))
        return "\n".join(lines)

    def _reference(self, found: re.Match, page: str) -> str:
        "A name in backticks, as a reference if it is unambiguous."
        name = found[1].removesuffix("()")
        notebook = name.removeprefix("nbs/").removesuffix(".ipynb")
        if notebook in self.notebooks:
            return f"[{found[1]}]({relative(f'{notebook}.ipynb', page)})"
        full = self.names.get((self.modules.get(page, ""), name)) or self.names.get(("", name))
        return f"{{py:obj}}`{found[1]} <{full}>`" if full else found[0]

    def _target(self, folder: Path, target: str, page: str) -> str:
        "A link in the repository → a link in the site; a file that is not a page is copied next to the pages."
        path, _, anchor = target.partition("#")
        place = Path(os.path.relpath((folder / path).resolve(), ROOT)).as_posix()
        end = f"#{anchor}" if anchor else ""
        if (known := self._page_of(place)) is not None:
            return relative(known, page) + end
        if (ROOT / place).is_file():
            (self.out / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / place, self.out / place)
            return relative(place, page)
        return target  # a dead link, which Sphinx reports

    def _page_of(self, place: str) -> Optional[str]:
        "The page for this file or folder of the repository; None if there is none."
        pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
        pages["data_scripts"] = f"{slug(DATASETS)}.md"
        pages |= {"nbs/tutorials": "tutorials.md", "docs/guides": f"{slug(GUIDES)}.md"}
        pages |= {f"docs/guides/{path.name}": f"{guide_name(path)}.md" for path in self.guides}
        pages |= {f"nbs/{name}.ipynb": f"{name}.ipynb" for name in self.notebooks}
        for dataset in self.dataset_notes:
            pages[f"data_scripts/{dataset}"] = f"dataset-{dataset}.md"
            pages[f"data_scripts/{dataset}/README.md"] = f"dataset-{dataset}.md"
        return pages.get(place)

    def _names(self) -> dict[tuple[str, str], str]:
        "(module, name) → full name; also ('', name) if only one module defines it."
        found: dict[tuple[str, str], str] = {}
        for name, module in self.modules.items():
            for entry in exported_entries(self.notebooks[name]):
                for defined in (entry.name, *(member.name for member in entry.members)):
                    found[module, defined] = f"{module}.{defined}"
        times = Counter(name for _, name in found)
        found |= {("", name): full for (_, name), full in list(found.items()) if times[name] == 1}
        for module in filter(None, self.modules.values()):
            found["", module] = module
            if module.count(".") > 1:  # 'training.loop', but not 'errors'
                found["", module.split(".", 1)[1]] = module
        return found

    def _notebook(self, name: str) -> None:
        notebook = self.notebooks[name]
        cells: list[dict] = []
        for cell in imports_joined(shown(notebook)):
            cells += self._cell(cell, name)
        cells[0]["source"] += self._source_links(name)
        language = {"name": "python", "pygments_lexer": "ipython3"}
        page = {**notebook, "cells": cells, "metadata": {**notebook["metadata"], "language_info": language}}
        path = self.out / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(page), encoding="utf-8")

    def _source_links(self, name: str) -> str:
        "Markup below a page's title: its module's name, and links to download notebook and module."
        module = self.modules[name]
        offered = {f"{name}.ipynb": NOTEBOOKS / f"{name}.ipynb"}
        if module:
            file = module_file(module)
            offered[file.relative_to(ROOT).as_posix()] = file
        links = []
        for label, path in offered.items():
            copy = self.out / "files" / label
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            links.append(f"{{download}}`{label} </files/{label}>`")
        mark = f"```{{py:module}} {module}\n```\n\n" if module else ""
        return f"\n\n{mark}```{{container}} source\n{' '.join(links)}\n```\n"

    def _cell(self, cell: dict, name: str) -> list[dict]:
        "A cell as it is shown: prose linked, directives removed, API entries above the code that defines them."
        if cell["cell_type"] != "code":
            return [{**cell, "source": self.prose(source_of(cell), (NOTEBOOKS / name).parent, name)}]
        code = code_of(cell)
        new = {**cell, "source": code, "metadata": dict(cell["metadata"])}
        defined = entries(code) if is_exported(cell) else []
        if defined or only_imports(code):
            label = "Source of " + ", ".join(entry.name for entry in defined) if defined else "Imports"
            new["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
            new["metadata"]["mystnb"] = {"code_prompt_show": label, "code_prompt_hide": label}
        if not defined:
            return [new]
        text = "\n\n".join(self.entry(entry, name) for entry in defined)
        return [{"cell_type": "markdown", "id": f"{cell['id']}-api", "metadata": {}, "source": text}, new]

    def entry(self, entry: Entry, name: str, colons: int = 6) -> str:
        "An API entry as a Sphinx directive."
        lines = [f":module: {self.modules[name]}", *entry.options, "", self._plain(entry.text, name), ""]
        for parameter, text in entry.parameters.items():
            lines.append(f":param {parameter}: {self._plain(text, name)}")
        if entry.returns:
            lines.append(f":returns: {self._plain(entry.returns, name)}")
        lines += ["", *(self.entry(member, name, colons - 1) for member in entry.members)]
        body = "\n".join(lines).strip("\n")
        return f"{':' * colons}{{py:{entry.kind}}} {entry.name}{entry.signature}\n{body}\n{':' * colons}\n"

    def _plain(self, text: str, page: str) -> str:
        "Text of a docstring or comment, escaped so that only backticks keep their meaning."
        parts = re.split(r"(`[^`]*`)", text)
        parts[::2] = [re.sub(r"([\\*_\[\]<>${}#|~])", r"\\\1", part) for part in parts[::2]]
        parts[1::2] = [CODE.sub(lambda found: self._reference(found, page), part) for part in parts[1::2]]
        return "".join(parts)

    def _listing(self, title: str, pages: dict[str, str]) -> None:
        "Write a section's page: a link to each of its pages, with its summary."
        rows = []
        for name, text in pages.items():
            suffix = "ipynb" if name in self.notebooks else "md"
            rows.append(f"[{heading(text)}]({name}.{suffix})\n: {self.prose(sentence(text), ROOT)}\n")
        self._write(slug(title), f"# {title}\n\n" + "\n".join(rows) + toctree(list(pages)))

    def _write(self, name: str, text: str) -> None:
        path = self.out / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def read_notebooks() -> dict[str, dict]:
    "Path below nbs/ without suffix → notebook, in reading order within each folder."
    paths = sorted(p for p in NOTEBOOKS.rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return {path.relative_to(NOTEBOOKS).with_suffix("").as_posix(): json.loads(read(path)) for path in paths}


def folder_of(name: str) -> str:
    "'data/drawn/00_drawing' → 'data/drawn'; '' at the top."
    return name.rpartition("/")[0]


def guide_name(path: Path) -> str:
    return f"guides/{path.stem.partition('_')[2].replace('_', '-')}"


def relative(target: str, page: str) -> str:
    "The relative path from a page to another file of the site."
    return Path(os.path.relpath(target, folder_of(page) or ".")).as_posix()


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def code_of(cell: dict) -> str:
    "A cell's code without nbdev's directives."
    return DIRECTIVE.sub("", source_of(cell)).strip("\n")


def is_exported(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool(re.search(r"^#\|\s*export", source_of(cell), re.MULTILINE))


def exported_entries(notebook: dict) -> list[Entry]:
    "API entries of all exported cells."
    found: list[Entry] = []
    for cell in shown(notebook):
        if is_exported(cell):
            found += entries(code_of(cell))
    return found


def shown(notebook: dict) -> list[dict]:
    "A notebook's cells without those that are hidden, empty, or only name the module."
    hidden = re.compile(r"^#\|\s*(hide|default_exp)\b", re.MULTILINE)
    kept = []
    for cell in notebook["cells"]:
        source = source_of(cell)
        if source.strip() and not (cell["cell_type"] == "code" and hidden.search(source)):
            kept.append(cell)
    return kept


def imports_joined(cells: list[dict]) -> list[dict]:
    "The cells, with consecutive import cells joined into one."
    joined: list[dict] = []
    for cell in cells:
        if joined and is_bare_import(joined[-1]) and is_bare_import(cell):
            joined[-1] = {**joined[-1], "source": f"{code_of(joined[-1])}\n\n{code_of(cell)}"}
        else:
            joined.append(cell)
    return joined


def is_bare_import(cell: dict) -> bool:
    return cell["cell_type"] == "code" and not cell["outputs"] and only_imports(code_of(cell))


def module_of(notebook: dict) -> str:
    "The module a notebook exports to, or ''."
    sources = "\n".join(source_of(cell) for cell in notebook["cells"])
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", sources, re.MULTILINE)
    return f"fashionern.{found[1]}".removesuffix(".__init__") if found else ""


def module_file(module: str) -> Path:
    path = ROOT / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def first_cell(notebook: dict) -> str:
    return source_of(notebook["cells"][0])


def heading(text: str) -> str:
    return text.split("\n", 1)[0].lstrip("# ")


def sentence(text: str) -> str:
    "A page's summary: the block quote under its title, or the first sentence of its first paragraph."
    body = text.split("\n", 1)[1].strip().split("\n\n", 1)[0]
    if body.startswith(">"):
        return " ".join(line.lstrip("> ") for line in body.splitlines())
    return re.split(r"(?<=\.)\s", body)[0]


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def toctree(names: list[str]) -> str:
    return "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
