"""Messages and stubs of the wire contract, generated from ``protos/broker/v1`` by ``make protos``."""
