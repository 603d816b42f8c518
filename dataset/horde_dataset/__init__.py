"""Use a release of the Horde Commons image data set: download, check, withdraw, look at it."""

__version__ = "0.1.0"
