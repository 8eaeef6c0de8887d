"""The format of log lines."""

import json
import logging
import sys
from pathlib import Path

import pytest

from isthmus.agent.logs import JsonFormatter, TextFormatter, set_up
from isthmus.config.model import LogConfig


def make_record(**fields: object) -> logging.LogRecord:
    record = logging.LogRecord(
        "isthmus.server.leader", logging.WARNING, "", 0, "lost %s", ("way",), None
    )
    record.created, record.msecs = 1_767_323_045.25, 250.0
    vars(record).update(fields)
    return record


def test_text_line_ends_with_the_extra_fields() -> None:
    assert TextFormatter().format(make_record(dc="dc2", index=7)) == (
        "2026-01-02T03:04:05.250Z [WARN]  server.leader: lost way: dc=dc2 index=7"
    )


def test_json_line_has_the_names_of_consul() -> None:
    assert json.loads(JsonFormatter().format(make_record(dc="dc2"))) == {
        "@level": "warn",
        "@message": "lost way",
        "@module": "server.leader",
        "@timestamp": "2026-01-02T03:04:05.250Z",
        "dc": "dc2",
    }


def test_traceback_stands_behind_the_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = make_record(exc_info=sys.exc_info())
    assert TextFormatter().format(record).endswith("ValueError: why")
    assert "ValueError: why" in json.loads(JsonFormatter().format(record))["traceback"]


@pytest.mark.skipif(Path("/dev/log").exists(), reason="this host has a syslog")
def test_missing_syslog_is_named() -> None:
    with pytest.raises(OSError, match="enable_syslog is set, and nothing takes log lines"):
        set_up(LogConfig(enable_syslog=True))
