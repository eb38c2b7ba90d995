"""The docs as a folder of HTML pages: `python -m docs.build FOLDER`.

The folder mirrors the repository: README and docs become pages, every other file that a page links
is copied beside them. A link or anchor that leads nowhere stops the build, with all of them listed.
"""

from __future__ import annotations

import html
import itertools
import posixpath
import re
import shutil
import sys
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = ("http://", "https://", "mailto:")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: flex; color: #1f2937; }
nav { flex: none; width: 13rem; padding: 1.5rem; background: #f8fafc; min-height: 100vh; }
nav a { display: block; } nav .here { font-weight: 600; }
main { flex: auto; max-width: 54rem; min-width: 0; padding: 1.5rem 2.5rem; }
a { color: #0369a1; text-decoration: none; } a:hover { text-decoration: underline; }
pre { background: #f1f5f9; padding: .8rem; overflow-x: auto; } code { font-size: .9em; }
table { border-collapse: collapse; } td, th { border: 1px solid #e2e8f0; padding: .3rem .6rem;
  text-align: left; vertical-align: top; } img { max-width: 100%; }
@media (max-width: 50rem) { body { display: block; } nav { width: auto; min-height: 0; } }
"""


class BrokenLinks(ValueError):
    """Links that lead nowhere, one per line."""


def pages() -> list[str]:
    """Every page, as its path in the repository, in the order of the menu."""
    found = sorted((ROOT / "docs").rglob("*.md"), key=lambda p: (len(p.parts), p.name))
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in found)]


def build(folder: Path) -> list[Path]:
    """Write all pages. Raises BrokenLinks."""
    parsed = {page: _parser().parse((ROOT / page).read_text()) for page in pages()}
    anchors = {page: [_slug(title) for _, title in _headings(parsed[page])] for page in parsed}
    linked: set[str] = set()
    broken: list[str] = []
    for page, tokens in parsed.items():
        for token, name in _links(tokens):
            target = str(token.attrs[name])
            try:
                token.attrs[name], file = _resolve(page, target, anchors)
            except BrokenLinks as error:
                broken.append(f"{page}: {target}: {error}")
                continue
            if file:
                linked.add(file)
    if broken:
        raise BrokenLinks("\n".join(broken))
    for file in sorted(linked):
        _copy(ROOT / file, folder / file)
    return [_write(folder, page, tokens) for page, tokens in parsed.items()]


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable("table")


def _headings(tokens: list[Token]) -> list[tuple[Token, str]]:
    """Heading tokens with their texts."""
    return [
        (token, after.content)
        for token, after in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]


def _slug(title: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _links(tokens: list[Token]) -> list[tuple[Token, str]]:
    """Tokens that point somewhere, with the attribute that does."""
    found = []
    for token in tokens:
        for child in token.children or ():
            name = {"link_open": "href", "image": "src"}.get(child.type)
            if name is not None:
                found.append((child, name))
    return found


def _resolve(page: str, target: str, anchors: dict[str, list[str]]) -> tuple[str, str]:
    """The link as the HTML has it, and the file to copy (empty for a page or a site)."""
    if target.startswith(_OUTSIDE):
        return target, ""
    path, _, anchor = target.partition("#")
    there = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if anchor and there in anchors and anchor not in anchors[there]:
        raise BrokenLinks("no such heading")
    if there in anchors:
        return re.sub(r"\.md(?=#|$)", ".html", target), ""
    if there.startswith("..") or not (ROOT / there).exists():
        raise BrokenLinks("no such file")
    return target, there


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _write(folder: Path, page: str, tokens: list[Token]) -> Path:
    headings = _headings(tokens)
    for token, title in headings:
        token.attrSet("id", _slug(title))
    for token in tokens:
        if token.type == "fence" and token.info == "mermaid":
            token.type, token.content = "html_block", _diagram(token.content)
    parser = _parser()
    body = parser.renderer.render(tokens, parser.options, {})
    title = headings[0][1] if headings else page
    path = folder / page.replace(".md", ".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<body><nav>{_menu(page)}</nav><main>{body}</main></body></html>\n"
    )
    return path


def _diagram(text: str) -> str:
    """A mermaid diagram: GitHub draws it; here its text is folded away."""
    return f"<details><summary>Diagram (mermaid)</summary><pre>{html.escape(text)}</pre></details>"


def _menu(page: str) -> str:
    here = posixpath.dirname(page) or "."
    lines = []
    for other in pages():
        address = posixpath.relpath(other.replace(".md", ".html"), here)
        mark = ' class="here"' if other == page else ""
        lines.append(f'<a href="{address}"{mark}>{Path(other).stem}</a>')
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m docs.build FOLDER")
    try:
        made = build(Path(sys.argv[1]))
    except BrokenLinks as error:
        raise SystemExit(str(error)) from error
    print(f"{len(made)} pages: {made[0]}")


if __name__ == "__main__":
    main()
