"""The `stream-ad` command: one module per command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from stream_ad import __version__
from stream_ad.errors import ConfigError, StreamAdError

COMMANDS = (
    "init",
    "train",
    "send",
    "check",
    "run",
    "status",
    "swap",
    "reposition",
    "alerts",
    "dead-letters",
    "scores",
    "verify",
    "audit",
    "compact",
    "evaluate",
    "bundle",
)
"""Modules of this package, with `_` for `-`. Each has `add(subparsers)`, which declares its options, and `run(args)`,
which returns the exit code; both import what they need when called."""

DESCRIPTION = "Anomaly detection for sensor fleets: reads readings from a log, writes alerts and a Parquet score log."
EPILOG = "From a recording to alerts: stream-ad init FILE, train FILE, send FILE, run, alerts."
DEFAULT_CONFIG = Path("stream.toml")

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; default: the process's own.

    Returns:
        0, or 1 if the work failed, 2 if settings or arguments are wrong, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    modules = {name: module_of(name) for name in _needed(arguments)}
    try:
        args = build_parser(modules).parse_args(arguments)
    except SystemExit as ended:  # argparse has printed the reason
        return ended.code if isinstance(ended.code, int) else WRONG_USAGE
    return _run(modules[args.verb], args)


def module_of(verb: str) -> ModuleType:
    """Return the module of a command."""
    return import_module(f"stream_ad.cli.{verb.replace('-', '_')}")


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = int(module.run(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe (`| head`), which is not a failure. Nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except StreamAdError as error:
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"stream-ad: {line}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, ConfigError) else FAILED


def build_parser(modules: dict[str, ModuleType]) -> argparse.ArgumentParser:
    """Return the parser for the given commands; global options are accepted before and after the command."""
    parser = argparse.ArgumentParser(prog="stream-ad", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"stream-ad {__version__}")
    _add_global(parser, suppress=False)
    subparsers = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for name, module in modules.items():
        module.add(subparsers)
        if name not in subparsers.choices:
            raise LookupError(f"stream_ad.cli.{name}.add() did not add the command {name!r}")
    for verb in list(subparsers.choices.values()):
        for leaf in _with_nested(verb):
            _add_global(leaf, suppress=True)
    return parser


def _add_global(parser: argparse.ArgumentParser, suppress: bool) -> None:
    """Add the global options. Below the top level they have no default, which would override a value given earlier."""

    def default(value: object) -> object:
        return argparse.SUPPRESS if suppress else value

    group = parser.add_argument_group("general options")
    text = f"the stream's settings ({DEFAULT_CONFIG})"
    group.add_argument("-c", "--config", type=Path, metavar="FILE", default=default(DEFAULT_CONFIG), help=text)
    text = "format of the log on stderr (text on a terminal, else json)"
    group.add_argument("--log-format", choices=("json", "text"), default=default(None), help=text)


def _with_nested(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and the parsers of its subcommands (`bundle show`)."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from _with_nested(nested)


def _needed(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the commands whose modules are needed: the one called, else all (for help or an unknown command)."""
    if "--version" in arguments:
        return ()
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ("-c", "--config", "--log-format"):
            skip = True
        elif not argument.startswith("-"):
            return (argument,) if argument in COMMANDS else COMMANDS
    return COMMANDS


def entry() -> NoReturn:
    """Run the command line and end the process without interpreter shutdown.

    Threads of C++ libraries outlive the interpreter: an Arrow thread that releases a Python file during shutdown
    aborts the process after all its work is done (apache/arrow#34314).
    """
    try:
        code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0
    except OSError as error:  # for example, the output's disk is full
        with suppress(OSError, ValueError):
            print(f"stream-ad: {error}", file=sys.stderr)
        code = FAILED
    except BaseException:  # unexpected: print it as the interpreter would
        traceback.print_exc()
        code = FAILED
    leave(code)


def leave(code: int) -> NoReturn:
    """Flush output and logs, then end the process at once. Exit code 0 becomes 1 if output was lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the reader closed the pipe
    except (OSError, ValueError) as error:
        code = code or FAILED
        with suppress(OSError, ValueError):
            print(f"stream-ad: the output cannot be written: {error}", file=sys.stderr)
    with suppress(OSError, ValueError):
        logging.shutdown()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
