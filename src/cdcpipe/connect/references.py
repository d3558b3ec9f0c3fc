"""What a reference to a secret looks like in a flat config; apart from `secrets`, as a linter needs no pydantic."""

from __future__ import annotations

import re

__all__ = ["REFERENCE", "holds_password", "is_reference", "is_sensitive", "redacted", "references"]

REFERENCE = re.compile(r"\$\{([^}:]+):(?:([^}]*):)?([^}:]*)\}")
"""ConfigTransformer's own pattern: ${provider:[path:]key}. A path may hold colons, a key may not."""

_SECRET_WORDS = ("password", "secret", "access.key", "access-key", "user.info", "user_info", "token", "jaas.config")
_SECRET_WORDS_LAST = ("sslkey.password", "credentials.json", "connection.string", "_access_key_id")
_NO_SECRETS = (".class", ".provider", "secret.name", "token.endpoint.url", ".location", ".source")
_IN_ADDRESS = re.compile(r"(://[^/\s:@]+:)([^/\s@${}]+)(@)|([?&;](?:password|pwd)=)(?!\$\{)([^&;]+)", re.IGNORECASE)


def is_reference(text: str) -> bool:
    """True when `text` is nothing but one reference to a config provider."""
    return REFERENCE.fullmatch(text) is not None


def references(text: str) -> tuple[str, ...]:
    """The config providers that `text` refers to."""
    return tuple(found[1] for found in REFERENCE.finditer(text))


def is_sensitive(key: str) -> bool:
    """True for a key whose value is a credential by its name; a key that only names code or a file is none."""
    lowered = key.lower()
    if lowered.endswith(_NO_SECRETS):
        return False
    return any(word in lowered for word in _SECRET_WORDS) or lowered.endswith(_SECRET_WORDS_LAST)


def holds_password(text: str) -> bool:
    """True when an address in `text` holds a password: `//user:password@host`, `?password=...`."""
    return _IN_ADDRESS.search(text) is not None


def redacted(key: str, text: str) -> str:
    """`text` as it may be shown: a literal credential is `***`, a reference stays."""
    if is_sensitive(key) and text and not is_reference(text.strip()):
        return "***"
    return _IN_ADDRESS.sub(lambda found: f"{found[1]}***{found[3]}" if found[1] else f"{found[4]}***", text)
