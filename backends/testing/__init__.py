"""For the tests of backends, also those of others: the contract suite, a harness, and pytest's plugin.

Needs pytest and pytest-asyncio, which the extra `testing` brings. Nothing but tests may import it.
"""
