"""A store with what its engine would hold, driven command by command."""

from typing import Any

from isthmus.store import commands
from isthmus.store.commands import Command
from isthmus.store.keys import rows_prefix, table_index_key
from isthmus.store.store import Store
from isthmus.store.watch import Topic


class Driven:
    """A store whose commands are committed one by one into a dict."""

    def __init__(self) -> None:
        self.store = Store()
        self.rows: dict[bytes, bytes] = {}

    def execute(self, *batch: Command) -> Any:
        """Commit commands as one batch; return the result of the last."""
        overlay = self.store.overlay()
        base = index = self.store.index
        result: object = None
        for command in batch:
            result, changed = commands.apply(overlay, command, index + 1)
            index += changed
        if index > base:
            written = self.store.batch(
                overlay, index=index, batch_id=bytes(16), commands=index - base
            )
            for key in written.deletes:
                self.rows.pop(key, None)
            self.rows.update(written.puts)
            self.store.merge(overlay, index=index)
        return result

    def reloaded(self) -> Store:
        """A new store loaded from what was committed."""
        store = Store()
        pairs = sorted(self.rows.items())
        store.load(pair for pair in pairs if pair[0].startswith(rows_prefix(0)))
        indexes = [pair for pair in pairs if pair[0].startswith(table_index_key(0))]
        store.loaded(index=self.store.index, generation=0, table_indexes=indexes)
        return store


class Sleeper:
    """A blocked reader: tells whether it woke."""

    def __init__(self, store: Store, topics: tuple[Topic, ...]) -> None:
        self.woken = False
        self._store = store
        self._watch = store.watches.register(topics, self._wake)

    def _wake(self) -> None:
        assert not self.woken, "woken twice"
        self.woken = True

    def stop(self) -> bool:
        """Stop waiting; return whether it woke."""
        self._store.watches.cancel(self._watch)
        return self.woken
