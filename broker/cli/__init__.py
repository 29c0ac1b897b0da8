"""The command line: a file per command group; every command has ``--json``."""
