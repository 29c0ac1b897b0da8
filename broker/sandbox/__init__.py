"""Runs a job in a container that nobody used before and nobody uses after."""
