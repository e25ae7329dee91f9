"""Suggests a command when `train` cannot continue: the given one, with options that work."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_ad.training.shaping import Obstacle


def advice(args: argparse.Namespace, obstacle: Obstacle) -> str:
    """Return why a recording cannot be trained on as requested, and a command that works."""
    if not obstacle.options:
        return obstacle.reason
    return f"{obstacle.reason}. This command works:\n  {command(args, obstacle.options)}"


def command(args: argparse.Namespace, changes: Sequence[tuple[str, str | None]]) -> str:
    """Return the command line of these arguments with some options changed.

    Args:
        args: the arguments of `train`.
        changes: option name and value; a repeatable option is added, a value of None removes the option.
    """
    words = ["stream-ad", "train"]
    if str(args.config) != "stream.toml":
        words += ["-c", str(args.config)]
    for action in args.actions:
        if action.dest == "config":
            continue
        value: Any = getattr(args, action.dest, None)
        repeats = isinstance(action.default, list)
        for name, changed in changes:
            if name == action.dest:
                value = [*(value or []), changed] if repeats else changed
        if not action.option_strings:
            words.append(str(value))
        elif value is not None and value != action.default:
            for one in value if repeats else [value]:
                words += action.option_strings[-1:] if one is True else [action.option_strings[-1], str(one)]
    return shlex.join(words)
