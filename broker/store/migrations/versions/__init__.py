"""One module for each version of the schema; see ``broker.store.versions``."""
