"""The exit code that all commands share."""

WRONG = 2
"""Wrong usage, wrong configuration, unreadable input and internal errors, and where nothing could be measured."""
