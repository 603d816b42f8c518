"""Annotators: make the map that guides a ControlNet of a picture, one for each control type."""
