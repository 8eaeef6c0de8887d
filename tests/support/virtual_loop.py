"""The event loop of unit tests: that of the simulator."""

from isthmus.sim.loop import Deadlock, VirtualLoop, now, run_virtual, settle

__all__ = ["Deadlock", "VirtualLoop", "now", "run_virtual", "settle"]
