"""Roles of another package: registered by an entry point, run where the settings have a section for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.kafka.broker import first_of_free_ports
from stream_ad.cli.main import main
from stream_ad.config import Settings, load, parse
from stream_ad.errors import ConfigError
from stream_ad.io.kafka.rights import lacking
from stream_ad.role_table import BUILT_IN, address_of, names, needed, processes, role, roles, section
from stream_ad.service.roles.catalog import RoleContext, build
from stream_ad.service.supervisor import supervisor
from tests.crashes.conftest import make_stream, pump_bundle
from tests.support.e2e import LONG_S, Stream, fleet_records, wait_until
from tests.support.role_package import SPECS, install
from tests.support.supervised import Supervised

__all__ = ["make_stream", "pump_bundle"]

PAGER = {"number": "+1 555 0100"}
COUNTER_OFFSET = "roles.counter.port_offset: expected a whole number of at least 100"


def settings(roles: dict[str, dict[str, Any]], port: int = 9_464, scorers: int = 1) -> Settings:
    return parse(
        {
            "stream": {"name": "pumps", "bundle": "b"},
            "transport": {"kind": "kafka", "servers": ["h:1"]},
            "store": {"scores": "s", "checkpoints": "c"},
            "service": {"http_port": port, "scorers": scorers},
            "roles": roles,
        }
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch)


# -- a stream with two such roles -----------------------------------------------------------------


@pytest.mark.process
@pytest.mark.usefixtures("package")
def test_roles_of_a_package_run_and_are_seen(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    base = first_of_free_ports(1, 100, 110)
    sections = {"roles.pager": PAGER, "roles.counter": {}}
    stream = make_stream(partitions=1, service={"http_port": base}, **sections)
    stream.send(list(islice(fleet_records(duration_s=600), 200)))
    run = Supervised(stream)
    try:
        wait_until(lambda: run.are_ready() and {run.readiness(k)[0] for k in (100, 110)} == {200})
        wait_until(lambda: stream.scored() and stream.archived() and run.metric(110, "stream_ad_records_total") > 0)
        children = {line["child"] for line in run.lines("role_started")}
        assert children == {"scorer-0", "archiver", "pager", "counter"}
        assert run.readiness(100) == (200, "pages +1 555 0100\n")
        assert 'role="pager"' in run.page(100, "/metrics")[1]
        assert "stream_ad_records" not in run.page(100, "/metrics")[1]  # it reads no topic

        code = main(["status", "--json", "-c", str(stream.config)])
        found = json.loads(capsys.readouterr().out)
        asked = {one["name"]: (one["state"], one["address"]) for one in found["roles"]}
        assert (code, found["warnings"]) == (0, [])
        assert asked["pager"] == ("ready", f"127.0.0.1:{base + 100}")
        assert asked["counter"] == ("ready", f"127.0.0.1:{base + 110}")

        assert main(["check", "--json", "-c", str(stream.config)]) == 0
        checks = {line["check"]: line["text"] for line in map(json.loads, capsys.readouterr().out.splitlines())}
        assert checks["roles"].splitlines() == [
            f"counter: acme_roles.counter, processes: 1, pages at 127.0.0.1:{base + 110}",
            f"pager: acme_roles.pager, processes: 1, pages at 127.0.0.1:{base + 100}",
        ]
        assert checks["ports"].startswith(f"127.0.0.1:{base}–{base + 1}, {base + 100}, {base + 110} (in use by this")
    finally:
        run.process.terminate()
        assert run.process.wait(LONG_S) == 0
    assert {line["child"]: line["exit_code"] for line in run.lines("role_stopped")} == dict.fromkeys(children, 0)


@pytest.mark.usefixtures("package")
def test_a_role_without_a_group_is_missed_only_where_the_whole_stream_runs(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(
        partitions=1, service={"http_port": first_of_free_ports(1, 100, 110)}, **{"roles.pager": PAGER}
    )
    assert main(["status", "--json", "-c", str(stream.config)]) == 1
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["roles"]] == ["scorer-0", "archiver", "pager"]

    elsewhere = build("archiver", RoleContext(stream.settings.model_copy(update=host("b", stream)), 0, lambda: None))
    elsewhere.open()
    wait_until(lambda: bool(stream.log.owners(*group_and_topic(stream))), each=lambda: elsewhere.turn(0.01))
    assert main(["status", "--json", "-c", str(stream.config)]) == 1
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["roles"]] == ["scorer-0"]
    elsewhere.close()


def host(instance: str, stream: Stream) -> dict[str, Any]:
    return {"service": stream.settings.service.model_copy(update={"instance": instance})}


def group_and_topic(stream: Stream) -> tuple[str, str]:
    spec = role(stream.settings, "archiver")
    return spec.consumer_group(stream.settings), spec.topic(stream.settings)


# -- the table ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
def test_only_a_section_has_a_role_run(tmp_path: Path) -> None:
    without, both = settings({}), settings({"pager": PAGER, "counter": {}})
    assert names() == ("scorer", "archiver", "counter", "pager")
    assert roles(without) == BUILT_IN
    assert [child.name for child in supervisor(without, tmp_path, "json").children] == ["scorer-0", "archiver"]
    with pytest.raises(ConfigError, match=r"roles\.pager: expected a section \[roles\.pager\], found none"):
        role(without, "pager")

    commands = {child.name: child.command for child in supervisor(both, tmp_path, "json").children}
    assert list(commands) == ["scorer-0", "archiver", "counter", "pager"]
    assert commands["pager"][-4:] == ("run", "pager", "--index", "0")


@pytest.mark.usefixtures("package")
def test_a_role_gets_its_section_as_it_checked_it() -> None:
    found = settings({"pager": {**PAGER, "every_s": "0.25", "port_offset": 140}})
    built: Any = build("pager", RoleContext(found, 0, lambda: None))
    assert (built.section.number, built.section.every_s) == (PAGER["number"], 0.25)
    assert role(found, "pager").address(found, 0) == ("127.0.0.1", 9_604)
    assert section(found, role(found, "scorer")) is None


@pytest.mark.usefixtures("package")
def test_the_rights_are_those_of_the_roles_that_run() -> None:
    def allowed(kind: str, name: str) -> frozenset[str]:
        return frozenset()

    plain = set(lacking(needed(settings({})), allowed))
    more = set(lacking(needed(settings({"pager": PAGER, "counter": {}})), allowed))
    assert more - plain == {"group stream-ad.pumps.counter: not allowed: READ; see docs/security.md"}
    (alerts,) = role(settings({"pager": PAGER}), "pager").rights(settings({"pager": PAGER}))
    assert (alerts.name, set(alerts.operations)) == ("sensor.alerts.v1", {"READ", "DESCRIBE_CONFIGS"})


@pytest.mark.usefixtures("package")
def test_the_environment_reaches_a_section(tmp_path: Path) -> None:
    path = tmp_path / "stream.toml"
    path.write_text('[stream]\nname="p"\nbundle="b"\n[transport]\nkind="local"\npath="l"\n[store]\nscores="s"\n')
    there = {"STREAM_AD__STORE__CHECKPOINTS": "c", "STREAM_AD__ROLES__PAGER__NUMBER": "secret"}
    found = load(path, there)
    assert found.roles == {"pager": {"number": "secret"}}
    assert "secret" not in repr(found)
    with pytest.raises(ConfigError, match="STREAM_AD__ROLES__PAGER: expected STREAM_AD__ROLES__NAME__KEY"):
        load(path, there | {"STREAM_AD__ROLES__PAGER": "1"})


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("pager", {}, "roles.pager.number: Field required"),
        ("pager", {**PAGER, "volume": 3}, "roles.pager.volume: unknown key"),
        ("pager", {**PAGER, "every_s": -1}, "roles.pager.every_s: Input should be greater than 0"),
        ("counter", {"every_s": 1}, "roles.counter.every_s: unknown key"),
        (
            "counter",
            {"port_offset": 99},
            f"{COUNTER_OFFSET}, found 99",
        ),
        (
            "counter",
            {"port_offset": "x"},
            f"{COUNTER_OFFSET}, found 'x'",
        ),
        ("scorer", {}, "roles.scorer: unknown section: scorer is built in and has no keys here"),
        (
            "sender",
            {},
            "roles.sender: expected the name of an installed role, found 'sender'; installed: counter, pager",
        ),
    ],
)
def test_a_wrong_section_is_refused_with_its_path(name: str, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        roles(settings({name: keys}))
    assert str(raised.value) == expected
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("words", [("run",), ("run", "scorer"), ("status",), ("check",)])
def test_each_verb_about_roles_names_an_unknown_one(
    make_stream: Callable[..., Stream], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    stream = make_stream(partitions=1, **{"roles.sender": {}})
    code = main([*words, "-c", str(stream.config)])
    out = capsys.readouterr()
    assert code == (1 if words == ("check",) else 2)
    assert "roles.sender: expected the name of an installed role, found 'sender'" in " ".join(
        (out.out + out.err).split()
    )


@pytest.mark.usefixtures("package")
def test_ports_that_overlap_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"roles\.pager: pager would use port 9574, already taken by counter; change"):
        roles(settings({"pager": {**PAGER, "port_offset": 110}, "counter": {}}))
    with pytest.raises(ConfigError, match=r"roles\.pager: pager would use port 9564, already taken by scorer-99"):
        roles(settings({"pager": PAGER}, scorers=100))
    apart = settings({"pager": PAGER, "counter": {}}, scorers=99)
    assert len({spec.address(apart, index) for spec, index in processes(apart)}) == 102
    assert len(roles(settings({"pager": PAGER}, port=0, scorers=100))) == 3  # no pages, no ports
    with pytest.raises(ConfigError, match="--index: process 99 of scorer would use port 9564, already taken by pager"):
        address_of(apart, role(apart, "scorer"), 99)
    assert address_of(apart, role(apart, "scorer"), 98) == ("127.0.0.1", 9_563)


BROKEN = {
    "3": "expected a RoleSpec, found int",
    'RoleSpec("other", "m", 100)': "in lower-case letters, digits and _, found 'other'",
    'RoleSpec("odd", "m", 100, decides=True)': "expected decides = False: scorer is the only deciding role",
    'RoleSpec("odd", "m", 100, group="scorer", reads="readings_topic")': "expected its own consumer group, 'odd'",
    'RoleSpec("odd", "m", 100, group="odd")': "expected `reads` to be a key of [stream]",
    'RoleSpec("odd", "m", 2)': "expected a port offset of at least 100 and a port step of 1, found 2",
    'RoleSpec("odd", "m", 100, processes=lambda settings: 0)': "expected at least 1 process, found 0",
    "1 / 0": "cannot be loaded: division by zero",
}


@pytest.mark.parametrize("value", BROKEN)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    modules = {"__init__": f"from stream_ad.role_table import RoleSpec\nSPEC = {value}\n"}
    install(tmp_path / "site", monkeypatch, "odd_roles", modules, {"odd": "odd_roles:SPEC"})
    with pytest.raises(ConfigError) as raised:
        roles(settings({"odd": {}}))
    assert str(raised.value).startswith("roles.odd: odd_roles:SPEC (odd_roles 1.0)")
    assert BROKEN[value] in str(raised.value)
    assert roles(settings({})) == BUILT_IN  # what no section names disturbs nothing


@pytest.mark.usefixtures("package")
def test_a_name_is_for_one_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "more", monkeypatch, "other_roles", {"__init__": SPECS}, {"pager": "other_roles:PAGER"})
    with pytest.raises(ConfigError, match=r"roles\.pager: registered more than once: .*acme_roles 1\.0.*other_roles"):
        roles(settings({"pager": PAGER}))


@pytest.mark.parametrize(
    ("source", "expected"), [("1 / 0", "cannot be imported: division by zero"), ("", "expected a function build")]
)
def test_a_module_that_builds_no_role_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    spec = 'from stream_ad.role_table import RoleSpec\nSPEC = RoleSpec("odd", "odd_roles.role", 100)\n'
    install(tmp_path / "site", monkeypatch, "odd_roles", {"__init__": spec, "role": source}, {"odd": "odd_roles:SPEC"})
    with pytest.raises(ConfigError, match=expected):
        build("odd", RoleContext(settings({"odd": {}}), 0, lambda: None))
