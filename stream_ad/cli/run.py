"""`stream-ad run`: the whole stream under a supervisor, or one role alone."""

from __future__ import annotations

import argparse
import threading
from typing import TYPE_CHECKING

from stream_ad import role_table

if TYPE_CHECKING:
    from stream_ad.config import Settings


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "run",
        help="score the stream until stopped",
        description="Run the scorers, the archiver and any roles of other packages in the settings under a supervisor "
        "that restarts them, or one role alone (under systemd or Kubernetes). Ctrl-C or SIGTERM drains and commits. "
        "Logs go to stderr.",
    )
    parser.add_argument("role", nargs="?", choices=role_table.names(), help="run only this role")
    parser.add_argument("--scorers", type=_count, metavar="N", help="number of scorer processes (service.scorers)")
    parser.add_argument("--index", type=int, default=0, metavar="K", help="index of this process in its role, from 0")


def run(args: argparse.Namespace) -> int:
    """Run until stopped.

    Returns:
        0 after an orderly stop, else a code of `service.role.Exit`.

    Raises:
        ConfigError: the settings are wrong.
    """
    from stream_ad.config import load

    settings = load(args.config)
    return run_one(settings, args) if args.role else run_all(settings, args)


def run_all(settings: Settings, args: argparse.Namespace) -> int:
    """Run all roles as processes."""
    import sys

    from stream_ad.service import logs
    from stream_ad.service.supervisor import supervisor

    log_format: logs.Format = args.log_format or ("text" if sys.stderr.isatty() else "json")
    logs.configure(settings.service.log_level, log_format, {"role": "supervisor"})
    _warn_of_exposed(settings)
    if args.scorers:
        service = settings.service.model_copy(update={"scorers": args.scorers})
        settings = settings.model_copy(update={"service": service})
    return supervisor(settings, args.config, log_format).run()


def run_one(settings: Settings, args: argparse.Namespace) -> int:
    """Run one role in this process."""
    from stream_ad.service import logs
    from stream_ad.service.role import (
        Exit,
        Pulse,
        die_with_parent,
        freeze_permanent_objects,
        run_role,
        stop_on_signals,
        supervised,
    )
    from stream_ad.service.roles.catalog import RoleContext, build

    spec = role_table.role(settings, args.role)
    logs.configure(
        settings.service.log_level,
        args.log_format,
        {"role": spec.label(args.index), "instance": settings.service.instance, "stream": settings.stream.name},
    )
    stop = threading.Event()
    stop_on_signals(stop)
    fd, parent = supervised()
    if parent is None:
        _warn_of_exposed(settings)
    if parent is not None and not die_with_parent(parent):
        return int(Exit.DONE)
    pulse = Pulse(settings.service.heartbeat_timeout_s, fd, on_orphaned=stop.set)
    return run_role(
        lambda: build(spec.name, RoleContext(settings, args.index, pulse.beat, True)),
        pulse,
        stop,
        shutdown_timeout_s=settings.service.shutdown_timeout_s,
        http=role_table.address_of(settings, spec, args.index),
        on_opened=freeze_permanent_objects,
    )


def _warn_of_exposed(settings: Settings) -> None:
    """Log which files with secrets are readable by all users: container hosts often leave them so."""
    from stream_ad.assembly import exposed_secrets
    from stream_ad.service.logs import EventLog

    for path in exposed_secrets(settings):
        EventLog(__name__).warning("readable_by_all", path=str(path), advice="chmod 600 it, or the mount's mode")


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {count}")
    return count
