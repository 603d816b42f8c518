"""The rules: what costs how much, who may do what, what is refused and why. All pure.

A rule imports the records and the standard library alone; a test holds that. What a rule refuses
from records as they were read is also a condition of the write where money, sharing or a limit
hangs on it: the rule says why, the condition sees to it.
"""
