"""Automations: when this happens, do that.

What happens to artifacts is seen in the transaction that does it (`artifact_events`), what happens to runs by a look at
them once a second, which costs their file streams nothing (`watching`). Either way a row in the table of deliveries is
made in one transaction with what was seen, so nothing is lost and nothing done twice; `sending` works them off.
"""
