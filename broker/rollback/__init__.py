"""Taking back what calls changed: what has to be kept for it, how it is tried, and what stands in its way."""
