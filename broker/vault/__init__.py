"""The encrypted store beside the ledger: a key per object, wrapped under the vault's key."""
