"""The mutation tester of the rules and the store: ``make mutate``."""
