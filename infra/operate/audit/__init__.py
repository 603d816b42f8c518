"""The audit: proves from the whole table that the kudos are right."""
