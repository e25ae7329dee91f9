from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from stream_ad.core.batches import AlertKind, AlertPhase, Reason
from stream_ad.io.transport import CommitOutcome, Partition
from stream_ad.service.metrics import ArchiverMetrics, RoleMetrics, ScorerMetrics

ONE, TWO = Partition("sensor.readings.v1", 0), Partition("sensor.readings.v1", 1)
UNITS = ("_seconds", "_bytes", "_ratio", "_info", "_total")
COUNTS = ("records", "devices", "ready", "replaying", "offset", "rows")


def busy_scorer() -> ScorerMetrics:
    metrics = ScorerMetrics("pumps", "a")
    for partition in (ONE, TWO):
        metrics.lag(partition, 10, 2.5)
        metrics.devices(partition, 100)
        metrics.replaying(partition, True)
        metrics.committed(partition, 7)
        metrics.checkpoint(partition, 0.2, 1000)
    metrics.refused(Reason.LATE, 3)
    metrics.alert(AlertKind.PROCESS, AlertPhase.OPENED)
    metrics.commit(CommitOutcome.LANDED, 0.02, 50)
    metrics.commit(CommitOutcome.REJECTED, 0.02, 60)
    return metrics


def busy_archiver() -> ArchiverMetrics:
    metrics = ArchiverMetrics("pumps", "a", lambda: 5)
    metrics.linked(ONE, 9)
    metrics.part_rows.inc(4)
    return metrics


def families(metrics: RoleMetrics) -> Iterator[Metric]:
    return iter(text_string_to_metric_families(metrics.render()[0].decode()))


def samples(metrics: RoleMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(metrics)
        for sample in family.samples
    }


@pytest.mark.parametrize("metrics", [busy_scorer(), busy_archiver()], ids=["scorer", "archiver"])
def test_names_follow_the_conventions(metrics: RoleMetrics) -> None:
    ours = [family for family in families(metrics) if not re.match(r"(process|python)_", family.name)]
    assert len(ours) > 8
    for family in ours:
        assert re.fullmatch(r"stream_ad_[a-z][a-z0-9_]*[a-z]", family.name)
        assert family.documentation
        assert not re.search(r"_(ms|us|ns|millis|minutes|kb|mb|percent)(_|$)", family.name)
        names = {sample.name for sample in family.samples if not sample.name.endswith("_created")}
        if family.type == "counter":
            assert all(name.endswith("_total") for name in names)
        elif family.type == "gauge":
            assert not any(name.endswith(("_total", "_count", "_sum", "_bucket")) for name in names)
            assert family.name.endswith(UNITS + COUNTS)
        elif family.type == "histogram":
            assert family.name.endswith(("_seconds", "_bytes", "_records"))
        for sample in family.samples:
            assert not {"device", "ids", "pod"} & set(sample.labels)


def test_a_partition_that_is_handed_over_leaves_no_series() -> None:
    metrics = busy_scorer()
    metrics.forget(ONE)
    metrics.forget(ONE)
    metrics.forget(Partition("other", 3))

    left = {labels for _, labels in samples(metrics) if ("topic", ONE.topic) in labels}
    assert left == {(("partition", "1"), ("topic", ONE.topic))}


def test_values_arrive() -> None:
    found = samples(busy_scorer())
    one = (("partition", "0"), ("topic", ONE.topic))

    assert found["stream_ad_lag_records", one] == 10
    assert found["stream_ad_lag_seconds", one] == 2.5
    assert found["stream_ad_refused_total", (("reason", "late"),)] == 3
    assert found["stream_ad_refused_total", (("reason", "future"),)] == 0
    assert found["stream_ad_alerts_total", (("kind", "process"), ("phase", "opened"))] == 1
    assert found["stream_ad_commits_total", (("outcome", "unknown"),)] == 0
    assert found["stream_ad_committed_rows_total", ()] == 50
    assert found["stream_ad_commit_seconds_count", ()] == 2
    assert samples(busy_archiver())["stream_ad_buffered_bytes", ()] == 5


def test_no_records_waiting_means_no_seconds_behind() -> None:
    metrics = ScorerMetrics("pumps", "a")
    metrics.lag(ONE, 0, 99.0)
    metrics.lag(TWO, -1, 99.0)

    found = samples(metrics)
    assert found["stream_ad_lag_seconds", (("partition", "0"), ("topic", ONE.topic))] == 0
    assert found["stream_ad_lag_records", (("partition", "1"), ("topic", ONE.topic))] == 0


def test_two_roles_in_one_process_do_not_share_series() -> None:
    first, second = busy_scorer(), ScorerMetrics("pumps", "a")
    first.records.inc(5)
    assert samples(second)["stream_ad_records_total", ()] == 0


def test_open_metrics_on_request() -> None:
    body, content_type = busy_scorer().render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
