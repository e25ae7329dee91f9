"""Reading our own documents: tables and fenced examples."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tables(text: str) -> dict[str, dict[str, str]]:
    """Return first column -> second column of each table, backticks removed, by the heading above it."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| `"):
            key, value = (cell.strip().strip("`") for cell in line.split("|")[1:3])
            found.setdefault(heading, {})[key] = value
    return found


def examples(text: str) -> dict[str, str]:
    """Return the fenced blocks that follow a line `<!-- example: NAME -->`."""
    return dict(re.findall(r"^<!-- example: (.+?) -->\n+```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
