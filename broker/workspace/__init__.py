"""Managed trees of files, a state of which is the digest of all that is in it."""
