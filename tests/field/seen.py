"""A folder with a small model, trained once for many tests."""

from __future__ import annotations

import os
from pathlib import Path

from stream_ad.cli.main import main
from tests.field.signals import csv_lines, machine


def trained_folder(folder: Path, *options: str) -> Path:
    """Write a recording, settings without pages and a small bundle into a folder; return it."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("normal.csv").write_text("".join(f"{line}\n" for line in csv_lines(machine(1_500))))
        assert main(["init", "normal.csv", "--name", "p"]) == 0
        with Path("stream.toml").open("a", encoding="utf-8") as file:
            file.write("\n[service]\nhttp_port = 0\n")
        assert main(["train", "normal.csv", *options]) == 0
    finally:
        os.chdir(before)
    return folder
