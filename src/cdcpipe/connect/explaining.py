"""What a key means: what its plugin says, which field of a builder it is, and which guards look at it."""

from __future__ import annotations

from dataclasses import dataclass

from cdcpipe.connect.guards import Guard, guards
from cdcpipe.connect.plugins import KeyInfo, known_classes, nearest, plugin

__all__ = ["Explanation", "explain"]

_SLOTS = ("key.converter.", "value.converter.", "header.converter.")


@dataclass(frozen=True, slots=True)
class Explanation:
    """`plugins` are (class, version, what it says of the key); `fields` (model, field, docstring)."""

    key: str
    plugins: tuple[tuple[str, str, KeyInfo], ...]
    fields: tuple[tuple[str, str, str], ...]
    guards: tuple[Guard, ...]
    nearest: str | None = None

    @property
    def known(self) -> bool:
        """Somebody knows the key."""
        return bool(self.plugins or self.fields or self.guards)


def explain(key: str) -> Explanation:
    """Everything that is known of `key`; with `nearest` where that is nothing."""
    bare = next((key[len(slot) :] for slot in _SLOTS if key.startswith(slot)), key)
    if bare.startswith(("transforms.", "predicates.")) and bare.count(".") >= 2:
        bare = bare.split(".", 2)[2]
    told = [(java_class, keys) for java_class in known_classes() if (keys := plugin(java_class)) is not None]
    found = tuple((java_class, keys.version, keys.keys[bare]) for java_class, keys in told if bare in keys.keys)
    looking = tuple(rule for rule in guards() if key in rule.keys or bare in rule.keys)
    fields = _fields(bare)
    near = None
    if not (found or looking or fields):
        everything = {name for _, keys in told for name in keys.keys} | {
            name for rule in guards() for name in rule.keys
        }
        near = nearest(bare, sorted(everything))
    return Explanation(key, found, fields, looking, near)


def _fields(key: str) -> tuple[tuple[str, str, str], ...]:
    from cdcpipe.connect.docs import field_docs
    from cdcpipe.connect.model import Key, codecs
    from cdcpipe.connect.typed import models

    return tuple(
        (name, field, field_docs(model)[field])
        for name, model in models().items()
        for field, codec in codecs(model).items()
        if isinstance(codec, Key) and codec.name == key
    )
