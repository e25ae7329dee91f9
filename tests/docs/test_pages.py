"""Links, paths and modules that the pages name are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from stream_ad.cli.main import VERBS, build_parser, module_of
from tests.docs.pages import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img src=\"([^\"]+)\"", page.read_text()):
        name = target[0] or target[1]
        if "://" not in name:
            assert (page.parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_are_cited_are_there(page: Path) -> None:
    for name in re.findall(r"`(tests/[a-z_0-9/]+(?:\.py)?)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_tree_of_the_design_is_that_of_the_package() -> None:
    tree = (ROOT / "docs" / "design.md").read_text().split("```text\n")[1].split("```")[0]
    package = {path.name for path in (ROOT / "stream_ad").rglob("*.py")} - {"__init__.py"}
    verbs = {f"{verb}.py" for verb in re.findall(r"[a-z]+", tree.partition("one file a verb:")[2].partition(";")[0])}
    named = set(re.findall(r"\b([a-z_]+\.py)\b", tree))

    assert len(named) > 50
    assert named | verbs == package
    folders = re.findall(r"^([a-z]+)/ ", tree, flags=re.MULTILINE)
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_commands_on_the_pages_are_understood() -> None:
    parser = build_parser({verb: module_of(verb) for verb in VERBS})
    blocks = [block for page in PAGES for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S)]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("stream-ad ")]

    assert {parser.parse_args(shlex.split(line, comments=True)[1:]).verb for line in lines} >= {"init", "run", "alerts"}
