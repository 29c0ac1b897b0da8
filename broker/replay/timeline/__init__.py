"""What happened, in causal order: what is selected, what belongs to it, which entry came of which, and how that is drawn."""
