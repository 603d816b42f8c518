"""The developer's hand on a running local cloud; see docs/development.md."""
