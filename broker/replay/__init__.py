"""Looks at what happened again: questions, timelines, sealed reruns, other policies, evidence.

Nothing here writes to the ledger, the vault, a workspace or the outside: a replay reads, and what it makes lies in a file or
a folder of its own.
"""
