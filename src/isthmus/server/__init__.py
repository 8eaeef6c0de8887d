"""One server of a datacenter: endpoints over the store, commits through the engine."""
