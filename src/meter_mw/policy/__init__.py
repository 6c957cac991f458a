"""The policy: what the operator decided, read from YAML into frozen values, and asked on each request."""
