"""The schema that subscribers get is that of the code; docs/alert.schema.json is made from it."""

from __future__ import annotations

import json

from stream_ad.io.wire import alerts as alert_messages
from tests.docs.pages import ROOT


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((ROOT / "docs" / "alert.schema.json").read_text())

    assert published == alert_messages.json_schema()


def test_every_header_and_phase_is_on_the_page() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()

    assert alert_messages.TYPE_PREFIX in page
    for kind in ("process", "sensor", "silence", "regime"):
        assert f"`{kind}`" in page
