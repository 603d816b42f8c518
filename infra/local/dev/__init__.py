"""The developer's commands for a running local cloud (docs/development.md)."""
