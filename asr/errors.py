"""Errors that a user can mend: each message names the file, line or field, and the remedy."""

from __future__ import annotations

__all__ = ["AudioError", "BundleError", "ConfigError", "DataError", "ProtocolError", "RillError"]


class RillError(Exception):
    """The base of all of Rill's own errors. The command line prints its message in one line, without a traceback."""


class AudioError(RillError):
    """Audio that cannot be read or understood."""


class BundleError(RillError):
    """A model on disk that is missing, truncated or of another kind."""


class ConfigError(RillError):
    """A configuration that names an unknown key or holds a value of the wrong type."""


class DataError(RillError):
    """A manifest, transcript or batch that cannot be trained on."""


class ProtocolError(RillError):
    """A message from the other side of a socket that its protocol does not allow."""
