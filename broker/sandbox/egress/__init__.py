"""The broker's side of a tool's way out: rules, addresses, the proxy, forwards, and secrets that stay outside."""
