"""`pytest tests/scenarios --rewrite` writes the traces anew; review the difference like code."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the scenarios' traces anew")
