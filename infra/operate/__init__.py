"""The operator's commands, and the audit."""


class OperatorError(Exception):
    """The command cannot be carried out; the message says why."""
