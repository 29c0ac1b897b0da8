"""The way of a call: admit, decide, record the intent, run in a fresh container, record the outcome, reply."""
