"""The operator's commands, and the audit."""
