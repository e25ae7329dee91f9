"""Links, paths and modules that the pages name are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from stream_ad.cli.main import COMMANDS, build_parser, module_of
from tests.docs.pages import ROOT

CONTINUED = 20
"""A line of the tree indented as far goes on with the entry before."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img src=\"([^\"]+)\"", page.read_text()):
        name = target[0] or target[1]
        if "://" not in name:
            assert (page.parent / name).exists(), name


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_name_a_heading(page: Path) -> None:
    for name, anchor in re.findall(r"\]\(([^)#:\s]*\.md)?#([^)\s]+)\)", page.read_text()):
        assert anchor in anchors((page.parent / name if name else page).read_text()), f"{name}#{anchor}"


def test_anchors_are_those_of_headings_outside_of_code() -> None:
    assert anchors("# A `b`, c\n\n```sh\n# no\n```\n\n## `[d]` with e\n") == {"a-b-c", "d-with-e"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_cited_are_there(page: Path) -> None:
    for name in re.findall(r"`(tests/[a-z_0-9/]+(?:\.py)?)`", page.read_text()):
        assert (ROOT / name).exists(), name


def tree_of_the_design() -> str:
    return (ROOT / "docs" / "design.md").read_text().split("```text\n")[1].split("```")[0]


def modules_of(tree: str) -> set[str]:
    """Return the paths of all modules that a drawn tree names: a file belongs to the folder under which it is drawn."""
    folders: list[str] = []
    found = set()
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent < CONTINUED:
            folders = folders[: indent // 2]
        if folder := re.match(r" *([a-z_]+)/", line):
            folders.append(folder[1])
        found |= {"/".join([*folders, name]) for name in re.findall(r"\b([a-z_]+\.py)\b", line)}
    return found


def test_the_tree_of_the_design_is_that_of_the_package() -> None:
    tree = tree_of_the_design()
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "stream_ad").rglob("*.py")}
    verbs = re.findall(r"[a-z]+", tree.partition("one file per command:")[2].partition(";")[0])
    named = {path for path in modules_of(tree) if path.startswith("stream_ad/")}

    assert len(named) > 50
    assert named | {f"stream_ad/cli/{verb}.py" for verb in verbs} == {p for p in package if "__init__" not in p}
    folders = re.findall(r"^([a-z]+)/ ", tree, flags=re.MULTILINE)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_a_module_drawn_in_another_folder_is_found() -> None:
    tree = (
        "stream_ad/\n  a/\n    b/    one.py,\n"
        + " " * CONTINUED
        + "two.py\n    three.py   what; four.py too\n  c/  five.py\n"
    )
    assert modules_of(tree) == {
        "stream_ad/a/b/one.py",
        "stream_ad/a/b/two.py",
        "stream_ad/a/three.py",
        "stream_ad/a/four.py",
        "stream_ad/c/five.py",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_are_cited_are_there(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(
        r"`((?:stream_ad|simulators|benchmarks|deploy|docs|io|core|service|cli|replaying)/[a-z_0-9/.]+)`", text
    ):
        assert any((ROOT / base / name).exists() for base in ("", "stream_ad")), name


def test_commands_on_the_pages_are_understood() -> None:
    parser = build_parser({verb: module_of(verb) for verb in COMMANDS})
    blocks = [block for page in PAGES for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("stream-ad ")]

    assert {parser.parse_args(shlex.split(line, comments=True)[1:]).verb for line in lines} >= {"init", "run", "alerts"}
