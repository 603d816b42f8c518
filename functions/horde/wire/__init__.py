"""A thin client of AWS for the functions that users wait for (docs/decisions.md).

Botocore was 91 % of the CPU of an accepted request and half of a cold start. ``horde.aws`` makes
the clients. Nothing here imports botocore before it is needed.
"""
