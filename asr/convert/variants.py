"""Which of a peer's settings our encoders have a form for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr.errors import BundleError

__all__ = ["settle"]


def settle(
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    supported: Mapping[str, tuple[Any, ...]],
    where: str,
) -> dict[str, Any]:
    """The settings with the peer's defaults. Raises BundleError for one whose value is none of those supported."""
    settings = {**defaults, **given}
    for name, values in supported.items():
        if settings[name] not in values:
            known = ", ".join(repr(value) for value in values)
            raise BundleError(
                f"{where}.{name}: {settings[name]!r} has no counterpart here; converted are: {known}"
            )
    return settings
