"""The form of ids in calls."""

import uuid


def is_uuid(text: str) -> bool:
    """Return whether a text is a UUID in its hyphenated form."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
