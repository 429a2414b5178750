"""Configuration of the documentation site, which ``make docs`` writes to build/docs.

The source folder is the repository, so the relative links between README.md, CONTRIBUTING.md and docs/ work here as
they do on GitHub. The navigation is made of the sections of docs/index.md and their links. Internal links and anchors
are checked; external links are not fetched, because the build must not need a network.
"""

import json
import re
from pathlib import Path

from sphinx.application import Sphinx

project = "genrec"
copyright = "the genrec contributors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**"]
exclude_patterns = [".*", "artifacts", "bench-results", "build", "dist"]

myst_heading_anchors = 4
highlight_language = "none"  # of fences without a language, which show output
html_theme = "furo"
html_title = "genrec"
html_copy_source = False
html_show_sphinx = False


def notebook_as_markdown(text: str) -> str:
    """The cells of a notebook, which is kept without outputs."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def with_navigation(index: str) -> str:
    """The index page with a hidden toctree per section, whose entries are the pages that the section links to."""
    trees = []
    for section in re.split(r"(?m)^## ", index)[1:]:
        pages = dict.fromkeys(re.findall(r"\]\(([^)#:]+\.(?:md|ipynb))\)", section))
        caption = section.partition("\n")[0]
        trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"]))
    return "\n\n".join([index, *trees])


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Make the text of a page that MyST reads."""
    if app.env.doc2path(name).suffix == ".ipynb":
        source[0] = notebook_as_markdown(source[0])
    elif name == root_doc:
        source[0] = with_navigation(source[0])


def redirect(app: Sphinx, error: Exception | None) -> None:
    """The start page of the folder leads to the root page, which is one folder deeper."""
    if error is None:
        text = f'<!doctype html><title>{project}</title><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare)
    app.connect("build-finished", redirect)
