"""Start and stop a real Apache Kafka (KRaft) on loopback, for tests, the demo and benchmarks.

Needs only Java 17 and Maven: Maven downloads the jars of pom.xml once; each broker is one Java process, with its
controller. It uses only the standard library, so it runs from a bare checkout:

    python deploy/kafka/broker.py start --brokers 3 --dir /tmp/kafka
    python deploy/kafka/broker.py status --dir /tmp/kafka
    python deploy/kafka/broker.py stop --dir /tmp/kafka
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

# ruff: noqa: S603 - commands consist of paths of this checkout and of the caller

HERE = Path(__file__).resolve().parent
TARGET = HERE / "target"
JARS = TARGET / "jars"
STATE = "cluster.json"
READY = "Kafka Server started"
FLAGS = ("-Xmx600m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")
START_S = 60.0
FETCH_S = 600.0


class BrokerError(RuntimeError):
    """The broker cannot be downloaded or started; the message says what is missing."""


def jars() -> Path:
    """Download missing Kafka jars (43 MB, once per checkout) and return their folder.

    Parallel callers wait at a file lock.

    Raises:
        BrokerError: no Maven, no Java, no network or no place to write.
    """
    pom = HERE / "pom.xml"
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()
    done = JARS / "complete"
    try:
        TARGET.mkdir(exist_ok=True)
        with (TARGET / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if done.exists() and done.read_text() == digest:
                return JARS
            shutil.rmtree(JARS, ignore_errors=True)
            goal = [tool("mvn"), "-q", "-B", "-ntp", "-f", str(pom), "dependency:copy-dependencies"]
            answer = subprocess.run(goal, capture_output=True, text=True, timeout=FETCH_S, check=False)
            if answer.returncode != 0:
                raise BrokerError(f"Maven could not fetch Kafka's jars:\n{(answer.stdout + answer.stderr)[-2000:]}")
            done.write_text(digest)
    except OSError as error:
        raise BrokerError(f"{TARGET}: Kafka's jars cannot be stored here: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"Maven did not download Kafka's jars within {FETCH_S:.0f} s") from error
    return JARS


def tool(name: str) -> str:
    """Return the path of `java` or `mvn`.

    Raises:
        BrokerError: it is not installed.
    """
    found = shutil.which(name)
    if name == "java" and "JAVA_HOME" in os.environ:
        found = shutil.which(name, path=os.path.join(os.environ["JAVA_HOME"], "bin")) or found
    if found is None:
        package = {"java": "Java 17 or later (for example openjdk-17-jre-headless)", "mvn": "Maven (for example maven)"}
        raise BrokerError(f"expected `{name}` on the PATH, found none; install {package.get(name, name)}")
    return found


@dataclass(frozen=True)
class Listener:
    """An additional listener, beside the plaintext one that the brokers use among themselves.

    Attributes:
        protocol: `SSL`, `SASL_SSL`, `SASL_PLAINTEXT` or `PLAINTEXT`.
        options: `server.properties` of this listener only, for example `ssl.keystore.location`.
    """

    protocol: str
    options: Mapping[str, str] = field(default_factory=dict)


class KafkaCluster:
    """One or more combined broker-controllers on free loopback ports; a context manager.

    The processes end with `stop`, with the `with` block, or within a second of the owning process's death.

    Attributes:
        folder: data, settings and logs (`broker-<i>.log`).
        servers: `host:port` of each broker, including stopped ones.
    """

    def __init__(
        self,
        folder: Path,
        brokers: int = 1,
        *,
        owner_pid: int | None = None,
        options: Mapping[str, str] | None = None,
        listeners: Mapping[str, Listener] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a cluster; `start` (or `with`) starts it.

        Args:
            folder: data, settings and logs; a folder used before is started with its data.
            brokers: number of brokers.
            owner_pid: process whose death ends the brokers; None: this process, 0: none.
            options: more lines for `server.properties`; they override the built-in ones.
            listeners: additional listeners by name (lower case letters and digits), each on its own port.
            scram: passwords by user, created with a new cluster (SCRAM-SHA-512).
        """
        self.folder = folder.resolve()
        self.owner_pid = os.getpid() if owner_pid is None else owner_pid
        self._options = dict(options or {})
        self._listeners = dict(listeners or {})
        self._scram = dict(scram or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._watcher: subprocess.Popen[bytes] | None = None
        self._state = read_state(self.folder) or new_state(brokers, self._listeners)

    @property
    def servers(self) -> list[str]:
        """`host:port` of each broker."""
        return [f"127.0.0.1:{node['port']}" for node in self._state["nodes"]]

    def servers_of(self, listener: str) -> list[str]:
        """Return `host:port` of each broker at an additional listener; the host is a name, as in certificates."""
        return [f"localhost:{node['ports'][listener]}" for node in self._state["nodes"]]

    def __enter__(self) -> KafkaCluster:
        self.start_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(clean=False)

    def start_all(self) -> None:
        """Download, format, start and wait until every broker serves.

        Raises:
            BrokerError: something is missing, or a broker does not start; the message has its last log lines.
        """
        java, classes = tool("java"), jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        indices = range(len(self._state["nodes"]))
        try:
            self._format(java, classes)
            for index in indices:
                self._launch(index)
            self._watch()
            for index in indices:
                self._await_ready(index)
        except BaseException:
            self.stop(clean=False)
            raise

    def start(self, index: int) -> None:
        """Start a killed broker on its old port and data, and wait until it serves."""
        self._launch(index)
        self._await_ready(index)

    def kill(self, index: int) -> None:
        """Kill a broker with SIGKILL, as a power cut does."""
        self._signal(index, signal.SIGKILL)
        self._wait_gone(index, 10.0)

    def pause(self, index: int) -> None:
        """Suspend a broker (SIGSTOP): connections stay open, responses stop."""
        self._signal(index, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Resume a paused broker."""
        self._signal(index, signal.SIGCONT)

    def alive(self, index: int) -> bool:
        """Whether the broker's process runs."""
        child = self._children.get(index)
        if child is not None:
            # Not by its command line, which a new process does not show yet.
            return child.poll() is None
        return is_ours(self._state["nodes"][index]["pid"], self._properties(index))

    def stop(self, clean: bool = True) -> None:
        """End all processes.

        Args:
            clean: let the brokers flush first; False kills them, which is faster and loses no acknowledged record.
        """
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None
        indices = range(len(self._state["nodes"]))
        for index in indices:
            self._signal(index, signal.SIGCONT)
            self._signal(index, signal.SIGTERM if clean else signal.SIGKILL)
        for index in indices:
            if not self._wait_gone(index, 15.0):
                self._signal(index, signal.SIGKILL)
                self._wait_gone(index, 5.0)

    def _properties(self, index: int) -> Path:
        return self.folder / f"broker-{index}.properties"

    def _log(self, index: int) -> Path:
        return self.folder / f"broker-{index}.log"

    def _format(self, java: str, classes: Path) -> None:
        running: list[tuple[int, subprocess.Popen[bytes]]] = []
        for index in range(len(self._state["nodes"])):
            lines = {**settings(self._state, index, self.folder, self._listeners), **self._options}
            self._properties(index).write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
            if (self.folder / f"data-{index}" / "meta.properties").exists():
                continue
            command = [java, *FLAGS, "-cp", f"{classes}/*", "kafka.tools.StorageTool", "format"]
            command += [f"--cluster-id={self._state['cluster_id']}", "-c", str(self._properties(index))]
            for user, password in self._scram.items():
                command += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
            with self._log(index).open("ab") as log:
                running.append((index, subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)))
        for index, process in running:
            if process.wait(START_S) != 0:
                raise BrokerError(f"the storage of broker {index} cannot be formatted:\n{tail(self._log(index))}")

    def _launch(self, index: int) -> None:
        if self.alive(index):
            raise BrokerError(f"broker {index} in {self.folder} already runs; stop it first")
        log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
        command = [tool("java"), *FLAGS, log4j, "-cp", f"{jars()}/*", "kafka.Kafka", str(self._properties(index))]
        node = self._state["nodes"][index]
        with self._log(index).open("ab") as log:
            node["log_start"] = log.tell()
            # Own session: Ctrl-C in the terminal must not reach the brokers before their clients.
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        self._children[index] = child
        node["pid"] = child.pid
        write_state(self.folder, self._state)

    def _watch(self) -> None:
        if self.owner_pid:
            command = [sys.executable, "-S", "-E", str(Path(__file__).resolve()), "watch"]
            command += ["--dir", str(self.folder), "--owner", str(self.owner_pid)]
            devnull = subprocess.DEVNULL
            self._watcher = subprocess.Popen(
                command, stdin=devnull, stdout=devnull, stderr=devnull, start_new_session=True
            )

    def _await_ready(self, index: int) -> None:
        deadline = time.monotonic() + START_S
        node = self._state["nodes"][index]
        while time.monotonic() < deadline:
            with self._log(index).open("rb") as log:
                log.seek(node["log_start"])
                if READY.encode() in log.read():
                    return
            if not self.alive(index):
                raise BrokerError(f"broker {index} ended while starting:\n{tail(self._log(index))}")
            time.sleep(0.05)
        raise BrokerError(f"broker {index} did not start within {START_S:.0f} s:\n{tail(self._log(index))}")

    def _signal(self, index: int, number: signal.Signals) -> None:
        if self.alive(index):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._state["nodes"][index]["pid"], number)

    def _wait_gone(self, index: int, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while self.alive(index):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def settings(
    state: Mapping[str, Any], index: int, folder: Path, further: Mapping[str, Listener] | None = None
) -> dict[str, str]:
    """Return the lines of a broker's `server.properties`."""
    nodes = state["nodes"]
    node = nodes[index]
    copies = str(min(3, len(nodes)))
    in_sync = str(min(2, len(nodes)))
    ways = {"PLAINTEXT": f"127.0.0.1:{node['port']}"}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
    own: dict[str, str] = {}
    for name, listener in (further or {}).items():
        ways[name.upper()] = f"localhost:{node['ports'][name]}"
        protocols[name.upper()] = listener.protocol
        own |= {f"listener.name.{name}.{key}": value for key, value in listener.options.items()}
    public = ",".join(f"{name}://{address}" for name, address in ways.items())
    voters = [f"{number}@127.0.0.1:{other['controller_port']}" for number, other in enumerate(nodes)]
    return {
        "process.roles": "broker,controller",
        "node.id": str(index),
        "controller.quorum.voters": ",".join(voters),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"{public},CONTROLLER://127.0.0.1:{node['controller_port']}",
        "advertised.listeners": public,
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        **own,
        "log.dirs": str(folder / f"data-{index}"),
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        # By default, timed-out transactions are checked every 10 s only; readers would wait that much longer.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "broker.session.timeout.ms": "6000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": "4194304",
    }


def new_state(brokers: int, listeners: Mapping[str, Listener]) -> dict[str, Any]:
    """Return the state of a new cluster, with currently free ports."""
    if not 1 <= brokers <= 9:
        raise BrokerError(f"expected 1 to 9 brokers, found {brokers}")
    ports = free_ports()
    nodes: list[dict[str, Any]] = []
    for _ in range(brokers):
        node = {"port": next(ports), "controller_port": next(ports), "pid": 0, "log_start": 0}
        nodes.append({**node, "ports": {name: next(ports) for name in listeners}})
    return {"cluster_id": urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="), "nodes": nodes}


def free_ports() -> Iterator[int]:
    """Yield free loopback ports, each reserved for this process; see `first_of_free_ports`.

    Raises:
        BrokerError: there are none.
    """
    while True:
        yield first_of_free_ports()


def first_of_free_ports(*distances: int) -> int:
    """Return a loopback port that is free, as are those at some distances above it; reserves them for this process.

    They are below the range from which outgoing connections take theirs: a broker that was killed must find its port
    free again.

    Raises:
        BrokerError: there are none.
    """
    for port in random.SystemRandom().sample(range(15_000, 32_000), 5_000):
        if all(_reserve(port + distance) for distance in (0, *distances)):
            return port
    raise BrokerError("no free loopback port between 15000 and 32000")


def _reserve(port: int) -> bool:
    """Reserve a port until this process ends, unless somebody listens on it or another process has reserved it."""
    folder = Path(tempfile.gettempdir()) / f"stream-ad-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
    except OSError:
        os.close(lock)
        return False
    return True  # the lock stays until the end of the process


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the content of a cluster folder's `cluster.json`, or None."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BrokerError(f"{folder / STATE}: cannot be read: {error}") from error
    return state


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace `cluster.json` atomically: the watcher may be reading it."""
    aside = folder / f"{STATE}.{os.getpid()}"
    aside.write_text(json.dumps(state))
    aside.replace(folder / STATE)


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def is_ours(pid: int, properties: Path) -> bool:
    """Whether a process is the broker with these settings, and not another with the same process id."""
    if pid <= 0:
        return False
    proc = Path(f"/proc/{pid}")
    if Path("/proc/self").exists():
        try:
            return str(properties).encode() in (proc / "cmdline").read_bytes()
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def watch(folder: Path, owner_pid: int) -> None:
    """Wait for the owner's death, then kill the cluster's brokers."""

    def birth() -> str | None:
        try:
            return Path(f"/proc/{owner_pid}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            try:
                os.kill(owner_pid, 0)
            except OSError:
                return None
            return ""

    born = birth()
    while born is not None and birth() == born:
        time.sleep(0.5)
    if (folder / STATE).exists():
        KafkaCluster(folder, owner_pid=0).stop(clean=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Start and stop a real Apache Kafka on loopback.")
    parser.add_argument("verb", choices=["start", "stop", "status", "watch"])
    parser.add_argument("--dir", type=Path, required=True, help="folder for data, settings and logs")
    parser.add_argument("--brokers", type=int, default=1, help="number of brokers when the folder is new (1)")
    parser.add_argument("--owner", type=int, default=0, help="process id; the brokers end when it does (0: never)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.verb == "watch":
            watch(chosen.dir, chosen.owner)
            return 0
        if chosen.verb != "start" and read_state(chosen.dir) is None:
            raise BrokerError(f"{chosen.dir}: no cluster here; start one first, or check --dir")
        cluster = KafkaCluster(chosen.dir, chosen.brokers, owner_pid=chosen.owner)
        if chosen.verb == "start":
            cluster.start_all()
            sys.stdout.write(",".join(cluster.servers) + "\n")
        elif chosen.verb == "stop":
            cluster.stop()
        else:
            up = [cluster.alive(index) for index in range(len(cluster.servers))]
            for server, running in zip(cluster.servers, up, strict=True):
                sys.stdout.write(f"{server} {'up' if running else 'down'}\n")
            return 0 if all(up) else 1
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
