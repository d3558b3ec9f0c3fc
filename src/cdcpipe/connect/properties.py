"""Java properties, as Kafka's command-line tools read them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["write_properties"]

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}


def write_properties(config: Mapping[str, str]) -> str:
    """`config` as a properties file, a line a key, in order; ASCII only, as Java 8 reads it."""
    return "".join(f"{_escape(key, ' :=#!')}={_escape(text, '')}\n" for key, text in config.items())


def _escape(text: str, special: str) -> str:
    out = []
    for index, char in enumerate(text):
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char in special or (char == " " and index == 0):
            out.append("\\" + char)
        elif " " <= char <= "~":
            out.append(char)
        else:
            data = char.encode("utf-16-be", "surrogatepass")
            out.extend(f"\\u{data[at : at + 2].hex()}" for at in range(0, len(data), 2))
    return "".join(out)
