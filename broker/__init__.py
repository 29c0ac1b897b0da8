"""The broker through which AI agents act: policy, sandbox, approvals and a ledger around every tool call."""
