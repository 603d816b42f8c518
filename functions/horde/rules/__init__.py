"""The rules: prices, permissions, limits and refusals, as pure functions.

A rule imports only the records and the standard library (``tests/infra/test_rooms.py``). Rules
decide from records as they were read. Where kudos, sharing or a limit depend on a rule, the write
repeats it as a condition: the rule gives the reason for a refusal, the condition enforces it.
"""
