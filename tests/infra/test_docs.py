"""The docs: links lead somewhere, every stage has its page, what a text names exists."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from kontext.stages import STAGES
from schemas.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*OUTSIDE, *sorted((ROOT / "docs").rglob("*.md"))]
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
    pages = {page.stem for page in folder.glob("*.md")}
    # one whose settings are in its own file, or that has none, may come without
    needed = {name for name, stage in STAGES.items() if stage.section in Recipe.__annotations__}
    assert len(needed) >= 12 and needed <= pages <= set(STAGES)
    for name in pages:
        stage = STAGES[name]
        text = (folder / f"{name}.md").read_text()
        inputs = re.search(r"Input artifacts: (.*)\. Pool `(\w+)`", text, re.S)
        assert inputs is not None, name
        assert tuple(re.findall(r"\[([\w-]+)\]", inputs[1])) == stage.inputs
        assert inputs[2] == stage.pool
        assert not stage.section or f"section `{stage.section}`" in text
    overview = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"\(stages/([\w-]+)\.md\)", overview) == [
        name for name in STAGES if name in pages
    ]


def test_the_glossary_stays_short_and_in_order() -> None:
    rows = re.findall(r"^\| (?!term|-)(.+?) \|", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert rows == sorted(rows, key=str.lower) and len(rows) <= 30


def test_python_examples_are_python() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S
    )
    assert len(blocks) >= 9
    for block in blocks:
        compile(block, "CONTRIBUTING.md", "exec")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],  # it names what is gone
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_and_options_exist(page: Path) -> None:
    from flows import cli

    group = typer.main.get_command(cli.app)
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S))
    lines = re.findall(r"`kontext ([a-z][^`\n]*)`", text)
    for line in lines + re.findall(r"^kontext ([a-z][^#\n]*)", blocks, re.M):
        words = [word for word in line.split() if word not in ("…", "|")]
        command = group.commands[words.pop(0)]  # type: ignore[attr-defined]
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        named = {w.partition("=")[0] for w in re.findall(r"(?<!\S)--[\w-]+", line)}
        assert named <= known | {"--help"}, f"{page.name}: kontext {line}"


FOLDERS = ("kontext", "flows", "schemas", "tasks", "infra", "benchmarks")
FILE = re.compile(rf"(?<![\w./<-])(?:tests|{'|'.join(FOLDERS[:-1])})/[\w./*-]*[\w/*]")
MODULE = re.compile(r"(?<![\w./@-])(?:kontext|flows|schemas|tasks)(?:\.\w+)+")
NO_MODULE = re.compile(  # events, labels, suffixes
    r"kontext\.(?:digest|recipe|dataset|refresh|canary|provenance|work|shape|test|json|gate|training|"
    r"evaluation|schedules|model|stage)\b"
)
EXAMPLES = re.compile(  # of CONTRIBUTING, for files that are still to be written
    r"[/.](?:flags|mirrored|shouting|weapons|sharpness|consistency|robust|measure|hello|tiny|greetings|"
    r"channels)\b"
)


def _is_module(name: str) -> bool:
    """Whether a dotted name is a package, a module, or a name that stands in one of them."""
    at, parts = ROOT, name.split(".")
    while parts and (at / parts[0]).is_dir():
        at /= parts.pop(0)
    file = at / f"{parts[0]}.py" if parts else at
    if file.is_file():
        parts.pop(0)
    else:
        file = at / "__init__.py"
    return not parts or re.search(rf"\b{parts[0]}\b", file.read_text()) is not None


def test_files_and_modules_that_are_named_exist() -> None:
    """Also in docstrings and comments, where a move leaves old names behind."""
    texts = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it names what is gone
    texts += [ROOT / name for name in ("pyproject.toml", "mkdocs.yml", "Makefile")]
    texts += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    gone = []
    for path in texts:
        text = path.read_text()
        files = [f for f in FILE.findall(text) if not list(ROOT.glob(f.rstrip("/")))]
        modules = [m for m in MODULE.findall(text) if not (NO_MODULE.match(m) or _is_module(m))]
        gone += [f"{path.name}: {n}" for n in files + modules if not EXAMPLES.search(n)]
    for path in (ROOT / "tests").rglob("*.py"):
        names = re.findall(r"(?<![\w./-])tests(?:\.\w+)+", path.read_text())
        gone += [f"{path.name}: {name}" for name in names if not _is_module(name)]
    assert not gone


class _Page(HTMLParser):
    """Where a page points, and what may be pointed at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and "://" not in value:
                self.targets.append(value)
            if name in ("href", "src") and value and tag in ("script", "link", "img"):
                self.loaded.append(value)
            if name == "id" and value:
                self.ids.add(value)


def _build(root: Path, site: Path) -> None:
    """`mkdocs build --strict`."""
    config = load_config(str(root / "mkdocs.yml"), site_dir=str(site), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)


def test_the_built_site_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    """Every page is there, every link of the HTML leads to a file and a heading, none is loaded."""
    _build(ROOT, tmp_path)
    made = {page for page in tmp_path.rglob("*.html") if page.name != "404.html"}
    assert len(made) == len(PAGES) + 1  # and ATTRIBUTION.md
    found = {page: _Page(page.read_text()) for page in made}
    for page, parsed in found.items():
        assert len(parsed.targets) > len(made) / 2  # the menu
        assert not [address for address in parsed.loaded if "//" in address]
        for target in parsed.targets:
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path not in ("", ".") else page
            assert there.exists(), f"{page.name}: {target}"
            known = found[there].ids if there in found else set()
            assert anchor in known | {"", "__skip"}, f"{page.name}: {target}"
    assert "<table>" in (tmp_path / "operator.html").read_text()
    assert (tmp_path / "code/infra/compose.yaml").read_bytes() == (
        ROOT / "infra/compose.yaml"
    ).read_bytes()


@pytest.mark.parametrize("link", ["gone.md", "../gone.py", "sql.md#nowhere", "#nowhere"])
def test_a_broken_link_stops_the_build(tmp_path: Path, link: str) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ATTRIBUTION.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("infra", "kontext", "schemas"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    with (tmp_path / "docs/glossary.md").open("a") as page:
        page.write(f"\n[broken]({link})\n")
    with pytest.raises(Abort):
        _build(tmp_path, tmp_path / "site")
