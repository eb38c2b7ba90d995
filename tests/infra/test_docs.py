"""The docs: links lead somewhere, every stage has its page, every command named exists."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main

from docs import build
from kontext.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in _anchors(there), f"{page.name}: {target}"


def test_every_stage_has_a_page_that_fits_the_graph() -> None:
    folder = ROOT / "docs" / "stages"
    assert {page.stem for page in folder.glob("*.md")} == set(STAGES)
    for name, stage in STAGES.items():
        text = (folder / f"{name}.md").read_text()
        inputs = re.search(r"Input artifacts: (.*)\. Pool `(\w+)`", text, re.S)
        assert inputs is not None, name
        assert tuple(re.findall(r"\[([\w-]+)\]", inputs[1])) == stage.inputs
        assert inputs[2] == stage.pool
        assert f"section `{stage.section}`" in text
    overview = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"\(stages/([\w-]+)\.md\)", overview) == list(STAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    from flows import cli

    group = typer.main.get_command(cli.app)
    for line in re.findall(r"`kontext ([a-z][^`\n]*)`", page.read_text()):
        words = [word for word in line.split() if word not in ("…", "|")]
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        if hasattr(command, "commands") and len(words) > 1:
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        named = {w.partition("=")[0] for w in re.findall(r"(?<!\S)--[\w-]+", line)}
        assert named <= known | {"--help"}, f"{page.name}: kontext {line}"


def test_the_diagram_quotes_its_labels() -> None:
    """An unquoted label breaks the parser at the first special sign."""
    (diagram,) = re.findall(
        r"```mermaid\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S
    )
    labels = re.findall(r"\w\[(.*?)\]", diagram)
    assert labels and all(label.startswith('"') and label.endswith('"') for label in labels)
    nodes = set(re.findall(r"^\s*(?:subgraph )?(\w+)\[", diagram, re.M))
    ends = set(re.findall(r"(\w+) -->", diagram)) | set(
        re.findall(r"--> ?(?:\|[^|]*\| ?)?(\w+)", diagram)
    )
    assert ends <= nodes


class _Page(HTMLParser):
    """Where a page points, and what may be pointed at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and "://" not in value:
                self.targets.append(value)
            if name == "id" and value:
                self.ids.add(value)


def test_the_built_site_is_whole(tmp_path: Path) -> None:
    """Every page is there, and every link of the HTML itself leads to a file and a heading."""
    made = build.build(tmp_path)
    assert {page.relative_to(tmp_path).with_suffix(".md").as_posix() for page in made} == {
        "README.md",
        *(page.relative_to(ROOT).as_posix() for page in PAGES),
    }
    found = {page: _Page(page.read_text()) for page in made}
    for page, parsed in found.items():
        assert len(parsed.targets) > len(made) / 2  # the menu
        for target in parsed.targets:
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in found[there].ids, f"{page.name}: {target}"
    assert "<table>" in (tmp_path / "docs" / "operator.html").read_text()


def test_a_broken_link_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# A\n\n[b](docs/b.md#there) [a](#nowhere)\n")
    (tmp_path / "docs" / "b.md").write_text("# There\n\n[gone](../gone.py)\n")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    with pytest.raises(build.BrokenLinks) as error:
        build.build(tmp_path / "out")
    assert str(error.value).splitlines() == [
        "README.md: #nowhere: no such heading",
        "docs/b.md: ../gone.py: no such file",
    ]
    assert not (tmp_path / "out").exists()
