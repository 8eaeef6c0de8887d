"""Which way to another datacenter: cores that are told facts and never ask for them."""
