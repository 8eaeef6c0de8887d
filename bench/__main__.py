"""``python -m bench [NAME …] [--FLAG …]``: run all benchmarks, or those named, one after the other.

Flags belong to the benchmarks, which look for theirs themselves.
"""

import importlib
import sys
import time
from pathlib import Path

_HELPERS = {
    "__init__",
    "__main__",
    "figures",
    "member",
    "pools",
    "storage_datacenter",
    "storage_load",
    "wrk",
}


def main() -> int:
    """Run them; 1 when one could not run."""
    folder = Path(__file__).parent
    names = [word for word in sys.argv[1:] if not word.startswith("-")] or sorted(
        path.stem for path in folder.glob("*.py") if path.stem not in _HELPERS
    )
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        started = time.monotonic()
        try:
            importlib.import_module(f"bench.{name}").main()
        except (OSError, RuntimeError, AssertionError) as error:
            failed.append(name)
            print(f"could not run: {error}")
        print(f"   ({time.monotonic() - started:.0f} s)\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
