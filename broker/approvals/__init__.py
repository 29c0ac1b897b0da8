"""Who agreed? Requests for votes, people's keys and their founding, votes, quorums, and their one use."""
