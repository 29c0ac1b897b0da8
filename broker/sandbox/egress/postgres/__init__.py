"""PostgreSQL for a tool without a password: its first messages read, the server's login done by the broker, then bytes."""
