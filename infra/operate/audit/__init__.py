"""The audit: checks the whole table against the rules of its kudos and indexes."""
