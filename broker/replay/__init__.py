"""Look at it again: recorded calls run once more, sealed, and compared with what was recorded.

Nothing here writes to the ledger, the vault, a workspace or the outside: a replay reads, and what it makes lies in a scratch
folder of its own.
"""
