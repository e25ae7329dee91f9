"""`python -m simulators.demo`: simulated pumps, scorer, archiver and a subscriber for about one minute.

Everything goes through the log, as in production: the simulator is a producer, the pipeline runs under its supervisor,
and alerts and labels are read from their topics.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulators import demo_report, demo_view, producer, scenarios, trial
from simulators.demo_outcome import Outcome
from simulators.demo_stage import DemoError, Observer, Program, fresh_folder, pipeline, simulator, write_settings
from simulators.scenarios import Scenario
from stream_ad import assembly
from stream_ad.config import Settings
from stream_ad.core.model import Model
from stream_ad.errors import StreamAdError
from stream_ad.io.score_log import log as score_log
from stream_ad.io.transport import Transport

FOLDER = Path("demo")
SPEED = 80.0
FIRST_ALERT_S = 90.0
DRAIN_S = 60.0
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class RunResult:
    """Raw results of a demo run.

    Attributes:
        observer: with all alerts.
        first_alert_s: seconds from the pipeline's start to the first alert.
        sending_s: until the simulator had sent everything.
        scored_s: until everything was scored.
    """

    observer: Observer
    first_alert_s: float
    sending_s: float
    scored_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return 0, 1 if something failed, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    view = demo_view.View(sys.stdout)
    try:
        return play(options, view)
    except StreamAdError as error:
        print(f"demo: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m simulators.demo", description="The whole pipeline, in a minute.")
    parser.add_argument("--broker", choices=("local", "kafka"), default="local", help="embedded log, or Apache Kafka")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this running Kafka, instead of starting one")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of all output ({FOLDER})")
    parser.add_argument("--scenario", default="demo", help="a name from `python -m simulators list`, or a TOML file")
    parser.add_argument("--devices", type=int, help="number of pumps")
    parser.add_argument("--duration", type=float, metavar="S", help="event time in seconds")
    parser.add_argument("--speed", type=float, default=SPEED, help=f"ratio of event time to wall time ({SPEED:g})")
    parser.add_argument("--seed", type=int, help="seed of the simulated pumps")
    parser.add_argument("--scorers", type=int, default=1, help="number of scorer processes (1)")
    return parser


def play(options: argparse.Namespace, view: demo_view.View) -> int:
    """Prepare the folder, run the pipeline, and report its results."""
    scenario = scenarios.load(options.scenario).changed(
        devices=options.devices, duration_s=options.duration, speed=options.speed, seed=options.seed
    )
    folder: Path = options.folder
    kept = fresh_folder(folder)
    if kept is not None:
        view.write_line(f"The previous demo was moved to {kept}.")
    with kafka(options, folder, view) as servers:
        run = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}" if options.kafka else ""
        if run:
            names = {f"{kind}_topic": f"demo-{run}.{kind}" for kind in ("readings", "events", "truth")}
            scenario = scenario.changed(**names)
        settings = write_settings(folder, scenario, servers, run)
        transport = assembly.open_transport(settings)
        try:
            producer.ensure_topics(transport, scenario)
            assembly.ensure_topics(settings, transport)
            model = assembly.load_model(settings)
            view.opening(scenario, settings, model, servers)
            played = perform(folder, scenario, settings, transport, options.scorers, view)
            outcome = examine(scenario, settings, model, played, "Apache Kafka" if servers else "embedded log")
        finally:
            transport.close()
    page = folder / "report.html"
    page.write_text(demo_report.page(outcome), encoding="utf-8")
    view.closing(outcome, folder, page)
    return 0


@contextlib.contextmanager
def kafka(options: argparse.Namespace, folder: Path, view: demo_view.View) -> Iterator[list[str] | None]:
    """Yield the servers of a running Kafka or of one that is started and stopped here; None for the embedded log."""
    if options.kafka:
        yield options.kafka.split(",")
    elif options.broker == "local":
        yield None
    else:
        from deploy.kafka import broker

        view.write_line("Starting Apache Kafka (the first time, Maven downloads 43 MB).")
        try:
            cluster = broker.KafkaCluster(folder / "kafka", brokers=1)
            cluster.start_all()
        except broker.BrokerError as error:
            raise DemoError(str(error)) from error
        try:
            yield cluster.servers
        finally:
            cluster.stop(clean=False)


def perform(
    folder: Path, scenario: Scenario, settings: Settings, transport: Transport, scorers: int, view: demo_view.View
) -> RunResult:
    """Run pipeline and simulator until everything sent is scored, then stop the pipeline.

    Raises:
        DemoError: a process failed, no alert came in time, or the pipeline does not keep up.
    """
    observer = Observer(settings, transport)
    begun = time.monotonic()
    first_alert_s = sending_s = None
    with (
        pipeline(folder, scorers) as pipe,
        simulator(folder) as simulation,
        view.progress(producer.message_count(scenario)) as progress,
    ):
        while True:
            for alert in observer.opened():
                first_alert_s = first_alert_s or time.monotonic() - begun
                progress.alert(alert)
            pipe.expect_running()
            if sending_s is None and simulation.finished():
                sending_s = time.monotonic() - begun
            sent, scored = observer.sent(), observer.scored()
            progress.update(sent, scored)
            if sending_s is not None and scored >= sent:
                break
            expect_pace(time.monotonic() - begun, first_alert_s, sending_s, pipe)
            time.sleep(LOOK_S)
        scored_s = time.monotonic() - begun
        pipe.stop()
        for alert in observer.opened():
            first_alert_s = first_alert_s or scored_s
            progress.alert(alert)
    if first_alert_s is None:
        raise DemoError(f"all {sent} messages were scored without any alert; see {pipe.log}")
    return RunResult(observer, first_alert_s, sending_s, scored_s)


def expect_pace(now_s: float, first_alert_s: float | None, sending_s: float | None, pipe: Program) -> None:
    """Check that the demo makes progress.

    Raises:
        DemoError: no alert after `FIRST_ALERT_S`, or the pipeline is not done `DRAIN_S` after the simulator.
    """
    if first_alert_s is None and now_s > FIRST_ALERT_S:
        raise DemoError(f"no alert within {FIRST_ALERT_S:.0f} s; see {pipe.log}")
    if sending_s is not None and now_s > sending_s + DRAIN_S:
        raise DemoError(f"the pipeline was not done {DRAIN_S:.0f} s after the simulator; see {pipe.log}")


def examine(scenario: Scenario, settings: Settings, model: Model, played: RunResult, log_name: str) -> Outcome:
    """Compare the alerts with the truth topic, and read the score log."""
    observer = played.observer
    faults = [trial.fault_of(label) for label in observer.values(scenario.truth_topic)]
    incidents = trial.incidents_of([published.alert for published in observer.alerts])
    scores = score_log.read(settings.store.scores)
    if not scores.num_rows:
        raise DemoError(f"{settings.store.scores}: expected a score log, found no rows")
    return Outcome(
        scenario=scenario,
        settings=settings,
        model=model,
        log_name=log_name,
        match=trial.match(faults, incidents, trial.grace_ns(model.window, settings)),
        scores=scores,
        messages=observer.sent(),
        first_alert_s=played.first_alert_s,
        sending_s=played.sending_s,
        scored_s=played.scored_s,
        latencies_s=tuple(observer.latencies_s()),
    )


if __name__ == "__main__":
    sys.exit(main())
