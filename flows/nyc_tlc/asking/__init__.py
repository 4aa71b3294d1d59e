"""The door to a warehouse for people's and agents' own queries: read-only and within limits."""
