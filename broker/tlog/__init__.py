"""A transparency log's mathematics and formats, as others define them: RFC 6962 trees, C2SP notes, checkpoints and proofs.

Pure, and free of the broker: the client, the ledger and the verifier all stand on it.
"""
