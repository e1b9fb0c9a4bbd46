"""What the site has beyond docs/*.md: the README as its start, references made from the code, pictures, links.

A notebook becomes a page of the same name, with what its cells show. Pages name each other as `docs/choosing.md` in
running text, which reads well in a terminal; here it becomes a link with the title of that page. A name of no page is a
warning, with which the build fails.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))  # mkdocs loads this file by its path

import onnxmerge  # noqa: E402 - found by the line above
from tools.website import command_line, diagram  # noqa: E402 - the same

log = logging.getLogger("mkdocs.hooks.onnxmerge")

CODE = re.compile(
    r"(^(?: *)```.*?^ *```$|`(?:[^`\n]|\n(?!\n))+`|\[[^\]\n]*\]\([^)\n]*\)|<!--.*?-->)", re.MULTILINE | re.DOTALL
)
"""What is left as it is: code, and links that are there already."""
MENTION = re.compile(r"\bdocs/([\w/-]+\.md)\b")
OUTSIDE = re.compile(r"\]\(\.\./(specs/[^)\s]+)\)")
NOTEBOOK = re.compile(r"\]\(((?:[^)\s]*/)?notebooks/[^)\s]+)\.ipynb\)")
OPTION = re.compile(r"<code>(--?[\w-]+)</code>")
PYTHON = "reference/python.md"
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ holds, and what pages link to beside docs/."""
    made = {
        "index.md": (CHECKOUT / "README.md").read_text(encoding="utf-8").replace("](docs/", "]("),
        "reference/command-line.md": command_line.page(),
        PYTHON: python_page(),
        "style.css": (CHECKOUT / "tools" / "website" / "style.css").read_text(encoding="utf-8"),
        "favicon.svg": (CHECKOUT / "tools" / "website" / "favicon.svg").read_text(encoding="utf-8"),
    }
    for path in sorted((CHECKOUT / "docs" / "notebooks").glob("*.ipynb")):
        made |= notebook_page(path)
    for page in files.documentation_pages():
        for path in OUTSIDE.findall(page.content_string):
            made[path] = (CHECKOUT / path).read_text(encoding="utf-8")
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by name
    """The text with its links and pictures."""
    own = page.file.src_uri
    text = MERMAID.sub(lambda found: diagram.svg(found[1]), markdown)
    text = OUTSIDE.sub(lambda found: f"]({_relative(found[1], own)})", text)
    text = NOTEBOOK.sub(r"](\1.md)", text)
    parts = CODE.split(text)
    parts[::2] = [MENTION.sub(lambda found: _link(found[1], own, files), part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - by name
    """The page with options that no line break parts, and links where docstrings name pages."""
    text = OPTION.sub(r'<code class="option">\1</code>', html)
    if page.file.src_uri != PYTHON:
        return text
    return MENTION.sub(lambda found: f'<a href="{_relative(found[1], PYTHON)[:-3]}.html">{found[0]}</a>', text)


def python_page() -> str:
    """The reference of what `import onnxmerge` offers; mkdocstrings fills it in from signatures and docstrings."""
    offered = [name for name in onnxmerge.__all__ if not name.startswith("_")]
    functions = [name for name in offered if not name[0].isupper()]
    errors = [name for name in offered if name.endswith("Error")]
    results = [name for name in offered if name not in {*functions, *errors}]
    parts = ["# Python", "All of `import onnxmerge`, made from signatures and docstrings."]
    return "\n\n".join([*parts, *(f"::: {_home(name)}" for name in (*functions, *results, *errors))]) + "\n"


def notebook_page(path: Path) -> dict[str, str]:
    """The page of a notebook, and its pictures, by their names on the site."""
    from nbconvert import MarkdownExporter  # which is slow to import

    folder = f"notebooks/{path.stem}"
    text, extracted = MarkdownExporter().from_filename(str(path), {"output_files_dir": path.stem})
    pictures = {f"notebooks/{name}": content for name, content in extracted["outputs"].items()}
    text = text.replace("![svg](", "![What the cell draws](").replace("![png](", "![What the cell draws](")
    link = f"[This page as a notebook]({path.name})\n"
    return {f"{folder}.md": f"{text}\n{link}", **pictures}


def _home(name: str) -> str:
    """Where it is defined: `onnxmerge.api.check` alone may be a module of that name."""
    found = getattr(onnxmerge, name)
    return f"{found.__module__}.{found.__qualname__}"


def _relative(target: str, own: str) -> str:
    return posixpath.relpath(target, posixpath.dirname(own))


def _link(name: str, own: str, files: Files) -> str:
    """A link to a page by its title."""
    found = files.get_file_from_path(name)
    if found is None:
        log.warning("%s names docs/%s, and there is no such page", own, name)
        return name
    title = re.search(r"^# (.+)$", found.content_string, re.MULTILINE)
    return f"[{title[1] if title else name}]({_relative(name, own)})"
