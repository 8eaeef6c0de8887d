"""Log lines: text or JSON, to standard error and a file; extra fields stand behind the message."""

import datetime
import json
import logging
import logging.handlers
import sys
import threading
from typing import Final

from isthmus.config.model import LogConfig

TRACE: Final = 5
LEVELS: Final = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERR": logging.ERROR,
    "ERROR": logging.ERROR,
}
_NAMES: Final = {
    TRACE: "TRACE",
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "ERROR",
}
_STANDARD: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)) | {"message": 0, "asctime": 0}
)
_MEGABYTE: Final = 1024 * 1024


class TextFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z [INFO]  server.leader: message: dc=dc2``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and behind it the traceback if there is one."""
        line = (
            f"{_moment(record)} {f'[{_NAMES.get(record.levelno, record.levelname)}]':<7} "
            f"{_logger_name(record)}: {record.getMessage()}"
        )
        if fields := _fields(record):
            line += ": " + " ".join(f"{name}={value}" for name, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the field names of Consul's logs."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "@level": _NAMES.get(record.levelno, record.levelname).lower(),
            "@message": record.getMessage(),
            "@module": _logger_name(record),
            "@timestamp": _moment(record),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def set_up(config: LogConfig) -> None:
    """Send the program's log where the operator wants it.

    Raises:
        OSError: The log file cannot be opened.
    """
    logging.addLevelName(TRACE, "TRACE")
    formatter = JsonFormatter() if config.json else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.file:
        handlers.append(
            logging.handlers.RotatingFileHandler(
                config.file,
                maxBytes=config.rotate_bytes or 100 * _MEGABYTE,
                backupCount=max(config.rotate_max_files, 1),
            )
        )
    if config.enable_syslog:
        facility = logging.handlers.SysLogHandler.facility_names.get(
            config.syslog_facility.lower(), logging.handlers.SysLogHandler.LOG_LOCAL0
        )
        handlers.append(logging.handlers.SysLogHandler("/dev/log", facility))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(formatter)
    root.handlers[:] = handlers
    set_level(config.level)
    threading.excepthook = _log_thread_failure


def set_level(level: str) -> None:
    """Change the level while running."""
    logging.getLogger().setLevel(LEVELS.get(level.upper(), logging.INFO))
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None:
        logging.getLogger(__name__).error(
            "a thread died", exc_info=(failure.exc_type, failure.exc_value, failure.exc_traceback)
        )


def _moment(record: logging.LogRecord) -> str:
    wall = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return f"{wall:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


def _logger_name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("isthmus.")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
