"""Who is it? The local CA, certificates, the registry, sessions, schedules, delegations and lineage."""
