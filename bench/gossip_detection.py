"""Seconds from SIGKILL of a member until the others declare it failed: ours beside serf's agents.

Pools of 3, 5 and 10 processes, LAN profile. All pools run at the same time, so that they meet the
same machine; the moment of the kill is shifted from round to round through the probe interval.
"""

import contextlib
import statistics
import time

from bench.figures import show
from bench.pools import Pool, kinds

SIZES = (3, 5, 10)
ROUNDS = 5
SETTLE = 12.0
SHIFT = 0.37
_FIRST_PORT = 21000
_PORTS_PER_POOL = 40
_DEADLINE = 20.0


def _round(pools: list[Pool], number: int) -> list[tuple[float, float]]:
    """Kill one member of each pool; seconds until the first and the last survivor know."""
    time.sleep(SETTLE + number * SHIFT)
    killed: list[float] = []
    victims = [pool.names[-1] for pool in pools]
    for pool, victim in zip(pools, victims, strict=True):
        killed.append(time.monotonic())
        pool.members[victim].kill()
    found: list[tuple[float, float]] = []
    for pool, victim, at in zip(pools, victims, killed, strict=True):
        seen: dict[str, float] = {}
        while len(seen) < len(pool.names) - 1:
            seen = pool.seen_failing(victim, at)
            if time.monotonic() > at + _DEADLINE:
                raise RuntimeError(f"{pool.kind}: {victim} seen failing by {sorted(seen)} only")
            time.sleep(0.01)
        found.append((min(seen.values()), max(seen.values())))
    for pool, victim in zip(pools, victims, strict=True):
        pool.start(victim)
    return found


def _false_positives(pool: Pool) -> int:
    return sum(sighting.member != pool.names[-1] for sighting in pool.failed)


def main() -> None:
    """Print the medians, and every trial."""
    with contextlib.ExitStack() as stack:
        pools: list[Pool] = []
        for size in SIZES:
            for kind in kinds():
                pool = kind(size, _FIRST_PORT + _PORTS_PER_POOL * len(pools))
                stack.callback(pool.stop)
                pools.append(pool)
        rounds = [_round(pools, number) for number in range(ROUNDS)]
        for number, pool in enumerate(pools):
            firsts = [found[number][0] for found in rounds]
            lasts = [found[number][1] for found in rounds]
            target = "5.5" if pool.kind == "isthmus" else ""
            what = f"{pool.kind}, {len(pool.names)} members"
            show(f"{what}: first survivor knows", firsts, "s")
            show(f"{what}: all survivors know", lasts, "s", target)
            print(f"   trials: {', '.join(f'{last:.2f}' for last in lasts)} s")
            if _false_positives(pool):
                raise RuntimeError(
                    f"{pool.kind}: {_false_positives(pool)} healthy members declared failed"
                )
        ours, theirs = (
            statistics.median(
                last
                for found in rounds
                for (_, last), pool in zip(found, pools, strict=True)
                if pool.kind == kind
            )
            if kind in {pool.kind for pool in pools}
            else 0.0
            for kind in ("isthmus", "serf")
        )
        if theirs:
            print(f"all pools together: {ours:.2f} s to serf's {theirs:.2f} s")


if __name__ == "__main__":
    main()
