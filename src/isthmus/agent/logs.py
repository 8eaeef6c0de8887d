"""Log lines: text or JSON, to standard error and a file; extra fields stand behind the message."""

import datetime
import errno
import json
import logging
import logging.handlers
import os
import sys
import threading
from typing import Final

from isthmus.agent.log_file import LogFile
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
_SYSLOG: Final = "/dev/log"


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
        OSError: The log file cannot be opened, or there is no syslog.
    """
    logging.addLevelName(TRACE, "TRACE")
    formatter = JsonFormatter() if config.json else TextFormatter()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if config.file:
        handlers.append(
            LogFile(
                config.file,
                size_max=config.rotate_bytes,
                age_max=config.rotate_duration,
                old_files_max=config.rotate_max_files,
            )
        )
    if config.enable_syslog:
        facility = logging.handlers.SysLogHandler.facility_names.get(
            config.syslog_facility.lower(), logging.handlers.SysLogHandler.LOG_LOCAL0
        )
        if not os.path.exists(_SYSLOG):  # The library would tell at each line, and go on.
            text = f"enable_syslog is set, and nothing takes log lines at {_SYSLOG}"
            raise OSError(errno.ENOENT, text)
        handlers.append(logging.handlers.SysLogHandler(_SYSLOG, facility))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(formatter)
    root.handlers[:] = handlers
    set_level(config.level)
    threading.excepthook = _log_thread_failure


class _Root:
    """The root logger, whose records may be watched more closely than they are written."""

    def __init__(self) -> None:
        self._watchers: list[logging.Handler] = []
        self._written = logging.NOTSET  # The log's own level; known while somebody watches.

    def write_from(self, level: int) -> None:
        """Write records of at least this level."""
        root = logging.getLogger()
        for handler in root.handlers:
            if handler not in self._watchers:
                handler.setLevel(level)
        self._written = level
        self._set_least()

    def attach(self, watcher: logging.Handler) -> None:
        root = logging.getLogger()
        if not self._watchers:
            self._written = root.level
        self._watchers.append(watcher)
        root.addHandler(watcher)
        self._set_least()

    def detach(self, watcher: logging.Handler) -> None:
        self._watchers.remove(watcher)
        logging.getLogger().removeHandler(watcher)
        self._set_least()

    def _set_least(self) -> None:
        levels = [self._written, *(watcher.level for watcher in self._watchers)]
        logging.getLogger().setLevel(min(levels))


_root: Final = _Root()


def set_level(level: str) -> None:
    """Change the level of the log while running; for its watchers nothing changes."""
    _root.write_from(LEVELS.get(level.upper(), logging.INFO))
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def attach(watcher: logging.Handler) -> None:
    """Let a handler see all records of its own level, whatever the log's is."""
    _root.attach(watcher)


def detach(watcher: logging.Handler) -> None:
    """Let it see no more."""
    _root.detach(watcher)


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
