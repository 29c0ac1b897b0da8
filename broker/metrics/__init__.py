"""Metrics: what the broker counts and times, and the endpoint that shows it to Prometheus."""
