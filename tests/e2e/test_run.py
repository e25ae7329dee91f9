"""From a recording to alerts as a user would: real commands, pages, a supervisor; then everything is compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.kafka.broker import first_of_free_ports
from stream_ad.core.batches import Float64Array
from tests.support.e2e import LONG_S, START_MS, Stream, wait_until
from tests.support.pipelines import CHANNELS
from tests.support.pipelines import signal as healthy

MACHINES = 6
FAULTY = "machine-2"


def write_csv(path: Path, first_s: int, rows: int, values: Float64Array) -> None:
    """Write float32[machines, rows, channels] as a recording with a row a machine and second."""
    lines = [",".join(("time", "device", *CHANNELS))]
    for row in range(rows):
        time = datetime.fromtimestamp(START_MS / 1e3 + first_s + row, UTC).isoformat()
        for machine in range(MACHINES):
            cells = ",".join(f"{value:.4f}" for value in values[machine, row])
            lines.append(f"{time},machine-{machine},{cells}")
    path.write_text("\n".join(lines) + "\n")


class Desk:
    """A user's working folder and what is typed there."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "STREAM_AD__SERVICE__HTTP_PORT": str(port),
            "STREAM_AD__STORE__PART_MAX_AGE_S": "0.5",
            "STREAM_AD__STORE__CHECKPOINT_EVERY_S": "1",
            "STREAM_AD__COMMIT__EVERY_S": "0.2",
        }
        self.log = folder / "run.log"

    def type(self, *arguments: str) -> str:
        """Run a command to its end; return what it printed."""
        command = [sys.executable, "-m", "stream_ad.cli.main", *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
        return ended.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its log goes to a file."""
        command = [sys.executable, "-m", "stream_ad.cli.main", "--log-format", "json", *arguments]
        with self.log.open("wb") as file:
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, stderr=file, stdout=file)

    def started(self, child: str) -> list[int]:
        """Return the process ids that a role has had."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line["pid"] for line in lines if line["event"] == "role_started" and line["child"] == child]

    def page(self, number: int, path: str) -> tuple[int, str]:
        """Return status and text of a page: 0 is the archiver's, 1 the first scorer's; (0, "") if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port + number}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return all(self.page(number, "/readyz")[0] == 200 for number in range(3))

    def metrics(self, number: int) -> dict[str, float]:
        """Return the sum over labels of each metric."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.page(number, "/metrics")[1]):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, first_of_free_ports(1, 2))


def lives(pid: int) -> bool:
    """Return whether a process of this program has the id."""
    try:
        return b"stream_ad" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_from_a_recording_to_alerts(desk: Desk) -> None:
    values = np.stack([healthy(2_000, seed=20 + machine) for machine in range(MACHINES)])
    values[2, 1_700:1_800, 1] += 6.0  # the planted fault
    write_csv(desk.folder / "normal.csv", 0, 1_200, values[:, :1_200])
    write_csv(desk.folder / "early.csv", 1_200, 300, values[:, 1_200:1_500])
    write_csv(desk.folder / "later.csv", 1_500, 500, values[:, 1_500:])

    assert "channels  3" in desk.type("init", "normal.csv", "--name", "machines")
    desk.type("train", "normal.csv", "--detector", "pca", "--samples", "16", "--stride", "4")
    desk.type("send", "early.csv", "--speed", "max", "--samples", "10", "--partitions", "4")
    run = desk.start("run", "--scorers", "2")
    children = ("scorer-0", "scorer-1", "archiver")
    try:
        stream = Stream.at(desk.folder / "stream.toml")
        wait_until(lambda: desk.log.exists() and all(desk.started(child) for child in children))
        wait_until(desk.ready)
        wait_until(stream.scored)
        look_at_pages(desk)

        first = desk.started("scorer-0")
        os.kill(first[-1], signal.SIGKILL)
        desk.type("send", "later.csv", "--speed", "max", "--samples", "10")
        wait_until(lambda: len(desk.started("scorer-0")) > len(first))
        wait_until(stream.scored)
        wait_until(stream.archived)
        wait_until(desk.ready)

        alerts = [json.loads(line) for line in desk.type("alerts", "--json").splitlines()]
        run.send_signal(signal.SIGTERM)
        assert run.wait(LONG_S) == 0, desk.log.read_text()
    finally:
        if run.poll() is None:
            run.kill()  # its roles are told by the kernel
            run.wait()
    pids = [pid for child in children for pid in desk.started(child)]
    assert [pid for pid in pids if lives(pid)] == []
    stream.prove()
    stream.close()
    look_at_results(desk, alerts, len(stream_rows(desk)))


def look_at_pages(desk: Desk) -> None:
    for number in range(3):
        assert desk.page(number, "/livez")[0] == 200
        assert desk.page(number, "/readyz")[0] == 200

    def scorers(name: str) -> float:
        return sum(desk.metrics(number).get(name, 0.0) for number in (1, 2))

    wait_until(lambda: scorers("stream_ad_devices") == MACHINES)  # partitions may be changing hands
    assert scorers("stream_ad_committed_rows_total") > 100
    assert scorers("stream_ad_ready") == 2
    wait_until(lambda: desk.metrics(0).get("stream_ad_part_rows_total", 0) > 100)


def stream_rows(desk: Desk) -> list[Any]:
    """Return the rows of the score log as a user's DuckDB reads them."""
    files = str(desk.folder / "data" / "scores" / "**" / "*.parquet")
    source = f"read_parquet('{files}', hive_partitioning = true)"
    with duckdb.connect() as connection:
        return connection.execute(
            f'SELECT device, epoch("end"), is_anomaly, log_date, log_hour FROM {source}'
        ).fetchall()


def look_at_results(desk: Desk, alerts: list[dict[str, Any]], rows: int) -> None:
    opened = [alert for alert in alerts if alert["phase"] == "opened" and alert["device"] == FAULTY]
    assert opened
    seconds = [(datetime.fromisoformat(a["end"][:26] + "+00:00").timestamp() - START_MS / 1e3) for a in opened]
    assert any(1_700 < second < 1_740 for second in seconds)
    assert any(a["channels"][0]["channel"] == CHANNELS[1] for a in opened)
    known = stream_rows(desk)
    assert {device for device, *_ in known} == {f"machine-{number}" for number in range(MACHINES)}
    assert len(known) == rows > 6 * 190
    assert {str(date)[:2] for *_, date, _ in known} == {"20"}
    flagged = {device for device, _, is_anomaly, *_ in known if is_anomaly}
    assert FAULTY in flagged
    shown = [json.loads(line) for line in desk.type("scores", FAULTY, "--json").splitlines()]
    assert len(shown) == sum(device == FAULTY for device, *_ in known)
    assert "incident" in desk.type("scores", FAULTY)
