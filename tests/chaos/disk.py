"""A checkpoint disk that can be full: a small tmpfs where we may mount one, else a file in place of the folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SIZE = "48m"
BLOCK = 65_536


class CheckpointDisk:
    """Full and roomy again.

    Attributes:
        folder: of the checkpoints.
        how: which way is used, for the report.
    """

    def __init__(self, folder: Path) -> None:
        """Mount a tmpfs at `folder`, or make a plain folder where that is not allowed."""
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
        self._is_mounted = _succeeds(command)
        self.how = f"a tmpfs of {SIZE}, filled" if self._is_mounted else "a file in place of the folder"
        self._aside = folder.with_name(folder.name + ".aside")
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room for a checkpoint."""
        if not self._is_mounted:
            # Checkpoints cannot be read either meanwhile: who takes over then begins again from a warm-up span.
            self.folder.rename(self._aside)
            self.folder.touch()
            return
        with self._ballast.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(os.urandom(BLOCK))
                except OSError:
                    return

    def free(self) -> None:
        """Make room."""
        if self._is_mounted:
            self._ballast.unlink(missing_ok=True)
        elif self._aside.exists():
            self.folder.unlink()
            self.folder.mkdir(exist_ok=True)  # a scorer may have been faster
            for path in self._aside.iterdir():
                path.rename(self.folder / path.name)
            self._aside.rmdir()

    def close(self) -> None:
        """Make room and let go of the mount."""
        self.free()
        if self._is_mounted:
            _succeeds(["umount", "-l", str(self.folder)])


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
