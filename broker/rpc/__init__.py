"""The gRPC server: mutual TLS, one dispatch for every method, thin servicers, wire <-> domain."""
