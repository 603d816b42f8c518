"""The log of every function: one JSON line per event, and no prompt, key or address in it."""

from aws_lambda_powertools import Logger

logger = Logger(service="horde-commons", use_rfc3339=True)
