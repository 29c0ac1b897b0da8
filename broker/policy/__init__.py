"""May it? casbin behind one function: checked snapshots of the policy, their linting, their reload and an explanation."""
