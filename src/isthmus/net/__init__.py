"""The network. asyncio begins here."""
