"""The edge: HTTP in and out, keys, rate limits, and what clients send and are answered."""
