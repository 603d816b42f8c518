"""The rules and the table of Horde Commons, shared by every Lambda in ``functions/``."""
