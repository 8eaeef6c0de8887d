"""How servers come and go by themselves: one row, changed by operators.

Source: protocol/http-api.md §6.8.
"""

from typing import Final

import msgspec

from isthmus.model.operator import AutopilotConfig, AutopilotSetConfigRequest
from isthmus.store.table import Overlay, Schema, Table, TableView

_KEY: Final = b"config"
AUTOPILOT: Final = Schema("autopilot", AutopilotConfig, key=lambda row: _KEY)


class AutopilotSettings:
    """Reads of the one row.

    Args:
        table: The committed rows.
        default: What holds until somebody changes it.
    """

    def __init__(self, table: Table[AutopilotConfig], default: AutopilotConfig) -> None:
        self._table, self.default = table, default

    def get(self) -> AutopilotConfig:
        """What holds now."""
        return self._table.get(_KEY) or self.default


def apply(overlay: Overlay, request: AutopilotSetConfigRequest, index: int) -> bool:
    """Carry out a change.

    Returns:
        False when it was to be made to another version (`cas`) than there is.
    """
    view: TableView[AutopilotConfig] = overlay.tables[AUTOPILOT.name]
    old = view.get(_KEY)
    if request.cas and request.config.modify_index != (old.modify_index if old else 0):
        return False
    view.put(
        msgspec.structs.replace(
            request.config,
            create_index=old.create_index if old else index,
            modify_index=index,
        ),
        index,
    )
    return True
