"""The Slack bot: shows approvals in Slack and carries votes to the broker. It has no vote, and can cast nothing else."""
