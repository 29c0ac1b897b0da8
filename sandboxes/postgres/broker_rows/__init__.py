"""Rows of a PostgreSQL database as items that are planned, shown, applied and taken back: see ``docs/sql.md``.

Lies in the sandbox image ``postgres``. ``program.main`` is what a tool's program calls.
"""
