"""Sphinx settings: nothing is executed, nothing is loaded from other hosts."""

import re
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.nodes import make_refnode

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).parent.parent / "settings.ini", encoding="utf-8")
about = settings["DEFAULT"]

project, author, copyright, release = about["title"], about["author"], about["copyright"], about["version"]
html_title = f"{project} {release}"
extensions = ["myst_nb"]
exclude_patterns = ["files"]  # notebooks and modules to download
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # Markdown tables in outputs
nb_ipywidgets_js = {}  # they would be fetched from another host
nb_merge_streams = True
python_maximum_signature_line_length = 88
add_module_names = False
html_theme = "furo"
html_static_path = ["static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "friendly", "github-dark"


def by_short_name(app, env, node, contnode):
    "Resolve the bare name of a type in a signature, if exactly one module defines it."
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or "." in name:
        return None
    found = [
        (full, o)
        for full, o in env.domains["py"].objects.items()
        if full.endswith(f".{name}") and o.objtype in ("class", "function")
    ]
    if len(found) != 1:
        return None
    full, target = found[0]
    return make_refnode(app.builder, node["refdoc"], target.docname, target.node_id, contnode, full)


def mathml(node: nodes.Element, block: bool) -> str:
    "A formula in MathML. \\big is dropped, as MathML brackets grow by themselves; \\frac12 gets the braces it needs."
    plain = re.sub(r"\\[bB]igg?(?![a-z])", "", node.astext())
    return tex2mathml(re.sub(r"\\[td]?frac(\d)(\d)", r"\\frac{\1}{\2}", plain), as_block=block)


def inline_formula(self, node: nodes.math) -> None:
    self.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def formula(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("missing-reference", by_short_name)
    app.add_html_math_renderer("mathml", (inline_formula, None), (formula, None))
