"""The highest quality of a lossy codec that stays within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable

HIGHEST_QUALITY = 100


def highest_quality(
    encode: Callable[[int], bytes],
    limit: int,
    lowest: int = 1,
    highest: int = HIGHEST_QUALITY,
) -> tuple[int, bytes] | None:
    """Searches by bisection, assuming that files grow with the quality.

    Args:
        encode: Function that returns the file for a quality.
        limit: Maximum number of bytes.
        lowest: Lowest quality to try.
        highest: Highest quality to try.

    Returns:
        The quality and its file; None if the file of the lowest quality exceeds `limit`.
    """
    found = None
    if len(content := encode(highest)) <= limit:
        return highest, content
    highest -= 1
    while lowest <= highest:
        quality = (lowest + highest) // 2
        content = encode(quality)
        if len(content) <= limit:
            found, lowest = (quality, content), quality + 1
        else:
            highest = quality - 1
    return found
