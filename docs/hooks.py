"""What mkdocs does not do by itself: pages from outside docs/, and links to source files.

In the repository a link is a path as GitHub reads it, such as `../infra/compose.yaml`. Here it
becomes a path in the site: README and its neighbours are pages, and every other file that a page
links is copied below `code/`. A link that leads nowhere is left as it is, so that `mkdocs build
--strict` stops.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "ATTRIBUTION.md": "attribution.md",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)[^)\s#]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live beside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(_root(config) / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the page's links from paths in the repository into paths in the site."""
    sources = {site: source for source, site in PAGES.items()}
    here = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def in_site(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[0]))
        source = _root(config) / path
        if path.startswith("..") or not source.is_file():
            return link[0]
        site = PAGES.get(path) or path.removeprefix("docs/")
        if site == path:
            site = f"code/{path}"
            if files.get_file_from_path(site) is None:
                files.append(_copied(config, site, source))
        return posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(in_site, markdown)


def _copied(config: MkDocsConfig, site: str, source: Path) -> File:
    included = InclusionLevel.INCLUDED
    return File.generated(config, site, abs_src_path=str(source), inclusion=included)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
