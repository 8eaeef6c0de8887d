"""``python tests/fuzz/run.py``: libFuzzer (atheris) against the entrances of gossip.

It starts from the captured vectors, measures which lines of `isthmus.gossip` and `isthmus.wire` an
input reaches (not of LZW, whose loops would take most of the time), and keeps the inputs that reach
new ones in ``--corpus``. A defect ends it with a traceback and a file named ``crash-…``;
``--replay`` feeds that file again. Move it to ``tests/fuzz/found`` once it is mended.
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from hashlib import sha1
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(
    include=["isthmus.gossip", "isthmus.wire"], exclude=["isthmus.wire.lzw"]
):
    from support import gossip_fuzz

INPUT_SIZE_MAX = 4096
MEMORY_MAX_MB = 1024
INPUT_SECONDS_MAX = 20


def main() -> None:
    """Read the arguments and fuzz; does not return but by libFuzzer's exit."""
    parser = argparse.ArgumentParser(description="Fuzz the entrances of gossip.")
    parser.add_argument("--seconds", type=int, default=600, help="how long (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of every choice; 0: another each time")
    parser.add_argument("--corpus", type=Path, help="keep inputs here (default: nowhere)")
    parser.add_argument("--replay", type=Path, help="feed this one file, and end")
    options = parser.parse_args()
    if options.replay is not None:
        gossip_fuzz.feed(options.replay.read_bytes())
        print("nothing wrong with it")
        return
    with ExitStack() as stack:
        corpus = options.corpus or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        corpus.mkdir(parents=True, exist_ok=True)
        for seed in (*gossip_fuzz.seeds(), *gossip_fuzz.user_seeds()):
            (corpus / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        atheris.Setup(
            [
                sys.argv[0],
                str(corpus),
                f"-max_total_time={options.seconds}",
                f"-max_len={INPUT_SIZE_MAX}",
                f"-rss_limit_mb={MEMORY_MAX_MB}",
                f"-timeout={INPUT_SECONDS_MAX}",
                f"-seed={options.seed}",
                "-print_final_stats=1",
                "-verbosity=1",
            ],
            gossip_fuzz.feed,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
