"""A corpus of bundles made to harm: each is refused as a `BundleError`, soon, in bounded memory, and no more happens.

Beside `tests/io/bundles/test_bundles.py`, which has the plain refusals. Each bundle is loaded in a process with a
limit on its address space, under an audit hook that ends it when code is run, anything is written or a file outside
the bundle is opened. Digests and model id are made right again, as an attacker would.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_ad.io.bundles.manifest import CALIBRATION, CARD, MANIFEST, PROBE, WEIGHTS
from tests.fuzz.targets import bundle_folder, reseal

LOADER = textwrap.dedent("""
    import json, os, resource, sys, time
    from pathlib import Path
    from stream_ad.errors import BundleError
    from stream_ad.io.bundles import bundles
    from stream_ad.io.bundles import manifest as bundle_manifest

    bundles.load(Path(sys.argv[1]))  # a sound one: everything that is imported on use is now
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) << 20,) * 2)
    inside = ""
    ours = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, *sys.path) if path})
    forbidden = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class",
                 "socket.connect", "os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "ctypes.dlopen")

    def hook(event, arguments):
        if not inside:
            return
        foreign = False
        if event in ("exec", "compile"):
            name = arguments[0].co_filename if event == "exec" else arguments[1]
            # Modules of ours are imported on use.
            foreign = not os.path.realpath(os.fsdecode(name or "")).startswith(ours)
        if foreign or event in forbidden:
            print(json.dumps({"did": event, "with": str(arguments)[:300]}), flush=True)
            os._exit(3)
        if event == "open":
            path, mode, flags = arguments
            real = os.path.realpath(path) if isinstance(path, str) else ""
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or (real and not real.startswith((inside, *ours))):
                print(json.dumps({"did": event, "with": str(arguments)[:300]}), flush=True)
                os._exit(3)

    sys.addaudithook(hook)
    for line in sys.stdin:
        folder = line.rstrip("\\n")
        inside = os.path.realpath(folder)
        begin = time.process_time()
        found = {"loaded": True}
        try:
            bundles.load(Path(folder))
        except BundleError as error:
            found = {"error": type(error).__name__, "text": str(error)}
        inside = ""
        print(json.dumps({**found, "seconds": time.process_time() - begin}), flush=True)
""")

MEMORY_MB = 3_000
SLOW_S = 10.0
"""Processor time; the slowest takes a tenth of that."""


class Loader:
    """A process that loads bundles and tells what came of it."""

    def __init__(self, folder: Path, program: str = LOADER) -> None:
        self._command = [sys.executable, "-c", program, str(bundle_folder()), str(MEMORY_MB)]
        self.folder = folder
        self._process: subprocess.Popen[str] | None = None

    def load(self, folder: Path) -> dict[str, Any]:
        """Load a bundle; raise where the process died of it."""
        if self._process is None:
            root = Path(__file__).parents[2]
            environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, text=True, cwd=self.folder, env=environment
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"died": self._process.wait()}
        if "did" in answer or "died" in answer:
            self.close()
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """A loader in an empty folder."""
    made = Loader(tmp_path_factory.mktemp("nowhere"))
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound bundle to spoil."""
    return Path(shutil.copytree(bundle_folder(), tmp_path / "bundle"))


# Parts of archives


class _Mark:
    """Leaves a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, data in entries.items():
            target.writestr(name, data)
    return buffer.getvalue()


def weights(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with a header of any content and length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def true_arrays(name: str = WEIGHTS) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a sound file."""
    content = (bundle_folder() / name).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def tensors(change: Callable[[dict[str, Any]], None], extra: bytes = b"", name: str = WEIGHTS) -> bytes:
    """Return a sound file with another header."""
    header, data = true_arrays(name)
    change(header)
    return weights(header, data + extra)


def doubled() -> bytes:
    """Return the sound file with its first tensor named twice."""
    header, data = true_arrays()
    name = next(name for name in header if name != "__metadata__")
    twice = json.dumps(header).replace("{", f"{{{json.dumps(name)}: {json.dumps(header[name])}, ", 1)
    return weights(twice.encode(), data)


def overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    for name in names[1:]:
        header[name]["data_offsets"] = header[names[0]]["data_offsets"]


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update({name: header.pop("center")})


def each(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        for entry in header.values():
            entry.update(fields)

    return change


def values(number: float, name: str = WEIGHTS) -> bytes:
    """Return a sound file with every number replaced."""
    header, data = true_arrays(name)
    widths = {"F32": "<f4", "F64": "<f8"}
    buffer = bytearray(data)
    for entry in header.values():
        if isinstance(entry, dict) and entry.get("dtype") in widths:
            low, high = entry["data_offsets"]
            kind = widths[entry["dtype"]]
            buffer[low:high] = np.full((high - low) // np.dtype(kind).itemsize, number, kind).tobytes()
    return weights(header, bytes(buffer))


# The corpus: what each does to a bundle, before digests are made right


def put(name: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(data()))


def void(_: object) -> None:
    return


def said(**fields: Any) -> Callable[[Path], None]:
    """Change the manifest."""

    def change(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        content.update(fields)
        (folder / MANIFEST).write_text(json.dumps(content))

    return change


def text(old: str, new: str) -> Callable[[Path], None]:
    """Change the manifest's text, so that it stays as it is written."""

    def change(folder: Path) -> None:
        before = (folder / MANIFEST).read_text()
        assert old in before
        (folder / MANIFEST).write_text(before.replace(old, new, 1))

    return change


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in place of a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def outside(path: Path) -> None:
    """Link to a file beside the bundle."""
    target = path.parent.parent / "outside"
    target.write_bytes((bundle_folder() / path.name).read_bytes())
    path.symlink_to(target)


def through_folder(path: Path) -> None:
    """Link through a hidden folder that is itself a link out of the bundle."""
    away = path.parent.parent / "away"
    away.mkdir()
    (away / path.name).write_bytes((bundle_folder() / path.name).read_bytes())
    (path.parent / ".data").symlink_to(away)
    path.symlink_to(Path(".data") / path.name)


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    """A file of two terabytes that takes no disk."""
    with path.open("wb") as file:
        file.truncate(1 << 41)


DEEP = 200_000
WINDOW = {"period_ns": 1_000_000_000, "samples": 8, "stride": 4}

SEALED: dict[str, Callable[[Path], None]] = {
    # pickles and code
    "numpy's archive with a pickle": put(PROBE, lambda: archive({"values.npy": pickle.dumps(_Mark())})),
    "pickle as calibration": put(CALIBRATION, lambda: pickle.dumps({"score": _Mark()})),
    "pickle as card": put(CARD, lambda: pickle.dumps({"a": _Mark()})),
    "zip of a module as weights": put(WEIGHTS, lambda: archive({"__main__.py": b"import os; os.mkdir('ran')"})),
    "torch's own format as weights": put(
        WEIGHTS, lambda: archive({"archive/data.pkl": pickle.dumps(_Mark()), "archive/version": b"3"})
    ),
    # bombs
    "packed bomb": put(PROBE, lambda: archive({"values.npy": bytes(40_000_000)}, zipfile.ZIP_DEFLATED)),
    "header of 64 bits": put(WEIGHTS, lambda: weights({}, size=2**64 - 1)),
    "header beyond the file": put(WEIGHTS, lambda: weights({}, size=50_000_000)),
    "header of negative length": put(WEIGHTS, lambda: weights({}, size=2**63)),
    "header of 20 MB": put(WEIGHTS, lambda: weights(b"{" + b" " * 20_000_000 + b"}")),
    "header of many tensors": put(
        WEIGHTS,
        lambda: weights({f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(30_000)}),
    ),
    "nested header": put(WEIGHTS, lambda: weights(b'{"a":' * DEEP)),
    "nested card": put(CARD, lambda: b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "nested settings": text('"settings": {', '"settings": {"a": ' + "[" * DEEP + "]" * DEEP + ", "),
    "array of 2^62 elements": put(CALIBRATION, lambda: tensors(each(shape=[2**62]), name=CALIBRATION)),
    "array whose product overflows": put(CALIBRATION, lambda: tensors(each(shape=[2**32, 2**32]), name=CALIBRATION)),
    "array of zeros in every axis": put(CALIBRATION, lambda: tensors(each(shape=[0, 2**60, 2**60]), name=CALIBRATION)),
    "number of a million digits in the card": put(CARD, lambda: b'{"a":' + b"9" * 1_000_000 + b"}"),
    "number of ten thousand digits": text('"period_ns": 1000000000', '"period_ns": ' + "9" * 10_000),
    "window that fills the memory": said(window={**WINDOW, "samples": 333_333}),
    "float for a count": said(window={**WINDOW, "samples": 8.5}),
    "negative period": said(window={**WINDOW, "period_ns": -1}),
    "period beyond 62 bits": said(window={**WINDOW, "period_ns": 2**62}),
    "infinite clip": text('"clip": ', '"clip": 1e999, "clip2": '),
    # names
    "array of an absolute path": put(CALIBRATION, lambda: tensors(renamed("/etc/passwd"), name=CALIBRATION)),
    "array that climbs": put(CALIBRATION, lambda: tensors(renamed("../../../ran"), name=CALIBRATION)),
    "array with a NUL": put(CALIBRATION, lambda: tensors(renamed("center\0"), name=CALIBRATION)),
    "detector that is a path": said(detector={"kind": "../../evil", "settings": {}}),
    "detector that is a module": said(detector={"kind": "subprocess.Popen", "settings": {"args": ["touch", "ran"]}}),
    "duplicate keys in the card": put(CARD, lambda: b'{"a": 1, "b": {"c": 1, "c": 2}}'),
    "duplicate tensors": put(WEIGHTS, doubled),
    # weights
    "overlapping tensors": put(WEIGHTS, lambda: tensors(overlap)),
    "tensors with holes": put(WEIGHTS, lambda: tensors(lambda header: None, bytes(64))),
    "tensor of negative shape": put(WEIGHTS, lambda: tensors(each(shape=[-1]))),
    "tensor of huge shape": put(WEIGHTS, lambda: tensors(each(shape=[2**40, 2**40]))),
    "tensor beyond the end": put(WEIGHTS, lambda: tensors(each(data_offsets=[0, 2**60]))),
    "tensor that ends before it begins": put(WEIGHTS, lambda: tensors(each(data_offsets=[8, 0]))),
    "tensor of another type": put(WEIGHTS, lambda: tensors(each(dtype="I8"))),
    "tensor of no type": put(WEIGHTS, lambda: tensors(each(dtype="OBJECT"))),
    "tensor of bfloat": put(WEIGHTS, lambda: tensors(each(dtype="BF16"))),
    "weights of NaN": put(WEIGHTS, lambda: values(float("nan"))),
    "weights of infinity": put(WEIGHTS, lambda: values(float("inf"))),
    "weights of 1e38": put(WEIGHTS, lambda: values(1e38)),
    "weights of zero": put(WEIGHTS, lambda: values(0.0)),
    "calibration of infinity": put(CALIBRATION, lambda: values(float("inf"), CALIBRATION)),
    "calibration of another type": put(CALIBRATION, lambda: tensors(each(dtype="I64"), name=CALIBRATION)),
}

UNSEALED: dict[str, Callable[[Path], None]] = {
    # The id is that of the last of two, so it is right.
    "duplicate keys in the manifest": text('"smoothing":', '"smoothing": -5, "smoothing":'),
    "duplicate keys further in": text('"samples":', '"samples": 1, "samples":'),
    "pipe as manifest": replaced(MANIFEST, os.mkfifo),
    "pipe as weights": replaced(WEIGHTS, os.mkfifo),
    "socket as weights": replaced(WEIGHTS, unix_socket),
    "device without end": replaced(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "device as manifest": replaced(MANIFEST, lambda path: path.symlink_to("/dev/zero")),
    "process memory": replaced(WEIGHTS, lambda path: path.symlink_to("/proc/self/mem")),
    "link to a secret": replaced(CARD, lambda path: path.symlink_to("/etc/passwd")),
    "link out of the folder": replaced(CARD, outside),
    "link through a hidden folder": replaced(CARD, through_folder),
    "links in a ring": replaced(CARD, lambda path: path.symlink_to(path.name)),
    "sparse weights of terabytes": replaced(WEIGHTS, sparse),
    "sparse manifest of terabytes": replaced(MANIFEST, sparse),
    "folder as manifest": replaced(MANIFEST, lambda path: path.mkdir()),
    "foreign files": lambda folder: void([(folder / f"f{k}").write_text("") for k in range(200)]),
    "module beside": lambda folder: void((folder / "__init__.py").write_text("import os; os.mkdir('ran')")),
}


@pytest.mark.process
@pytest.mark.parametrize("case", [*SEALED, *UNSEALED])
def test_it_is_refused_and_nothing_else_happens(case: str, folder: Path, loader: Loader) -> None:
    change = SEALED.get(case) or UNSEALED[case]
    change(folder)
    if case in SEALED:
        reseal(folder)
    before = sorted(path.name for path in folder.parent.iterdir())

    answer = loader.load(folder)

    assert answer.get("error", "").startswith("Bundle"), answer
    assert answer["seconds"] < SLOW_S
    assert len(answer["text"].splitlines()) == 1
    assert len(answer["text"]) < 3_000
    assert sorted(path.name for path in folder.parent.iterdir()) == before
    assert not list(loader.folder.iterdir())


@pytest.mark.process
def test_the_loader_loads_what_is_sound(folder: Path, loader: Loader) -> None:
    assert loader.load(folder)["loaded"]
    reseal(folder)
    assert loader.load(folder)["loaded"]


@pytest.mark.process
@pytest.mark.parametrize("act", ["os.system('true')", "eval('1')", "open('/etc/passwd')", "open('ran', 'w')"])
def test_its_guard_ends_it(act: str, folder: Path, tmp_path: Path) -> None:
    """Else the tests above could not fail."""
    spoiled = Loader(tmp_path, LOADER.replace("bundles.load(Path(folder))", act))
    assert "did" in spoiled.load(folder)
