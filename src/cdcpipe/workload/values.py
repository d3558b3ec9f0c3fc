"""Pools of values, drawn once from a seed, that statements pick from.

Most rows are made inside PostgreSQL, by expressions over a hash of the row's id (`statements.py`): the generator then
sends a few numbers for a hundred rows and costs next to nothing. The pools stand in those expressions as constants.
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Pools", "array_of", "literal"]

_FIRST = (
    "Ada",
    "Grace",
    "Linus",
    "Barbara",
    "Edsger",
    "Katherine",
    "Alan",
    "Margaret",
    "Zoë",
    "José",
    "Søren",
    "Łucja",
    "Þóra",
    "François",
    "Ngũgĩ",
    "Dvořák",
    "Σωκράτης",
    "Анна",
    "山田太郎",
    "王小明",
    "김민수",
    "محمد",
    "שרה",
    "प्रिया",
    "สมชาย",
)
_LAST = (
    "Müller",
    "O'Neill",
    "García-López",
    "Ibn Sīnā",
    "Nguyễn",
    "Østergård",
    "Ōe",
    "D’Arcy",
    "Smith",
    "李",
    "Петров",
)
_ODD_NAMES = (
    "",  # empty is not null
    "NULL",
    "null",
    "quote \" and ' and \\ backslash",
    "tab\there, newline\nthere",
    "trailing space ",
    "👩‍🚀 Zoë 🏳️‍🌈",  # joined with U+200D
    "e\u0301 is not \u00e9",  # the same to the eye, not the same bytes
    "\u202eright to left\u202c",
    "𝕬stral 𐍈",  # outside the basic plane
    "percent % and {braces}",
)
_WORDS = (
    "steel",
    "copper",
    "velvet",
    "paper",
    "garden",
    "travel",
    "winter",
    "summer",
    "kitchen",
    "studio",
    "compact",
    "royal",
    "silent",
    "rapid",
    "solid",
    "classic",
    "lamp",
    "chair",
    "kettle",
    "bottle",
    "jacket",
    "cable",
    "frame",
    "basket",
    "mirror",
    "carpet",
    "drill",
    "lens",
    "wheel",
    "pillow",
    "helmet",
    "tray",
)
_ODD_TAGS = ("{}", '{"a,b",""}', '{NULL,"NULL"}', '{"two words","\\"{}\\\\"}')
_NOTES = (
    "leave at the door",
    "gift wrap, please",
    "ring twice — the bell is faint",
    "ohne Rechnung",
    "受付に預けてください",
    "please\ncall\nfirst",
    "fragile: 50% glass",
    "",
)


def literal(text: str) -> str:
    """`text` as an SQL literal inside a psycopg query (quotes and percent signs doubled)."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def array_of(values: Iterable[str], type_: str) -> str:
    """An SQL array constant."""
    return f"(ARRAY[{', '.join(literal(value) for value in values)}]::{type_}[])"


@dataclass(frozen=True, slots=True)
class Pools:
    """The values of one seed. Sizes are powers of two, so that bits of a hash pick one."""

    names: tuple[str, ...]  # 64
    titles: tuple[str, ...]  # 64
    notes: tuple[str, ...]  # 8
    documents: tuple[str, ...]  # 16, JSON objects
    tags: tuple[str, ...]  # 16, array literals
    payments: tuple[bytes, ...]  # 256, the rest of a row of payments after id and order_id, in COPY's text form
    portraits: tuple[bytes, ...]  # 16, incompressible, 2.2 to 9 KB: always stored out of line
    texts: tuple[str, ...]  # 16, the same as text

    @classmethod
    def from_seed(cls, seed: int) -> Pools:
        rng = random.Random(f"pools/{seed}")
        names = [f"{rng.choice(_FIRST)} {rng.choice(_LAST)}" for _ in range(64 - len(_ODD_NAMES))]
        names += _ODD_NAMES
        rng.shuffle(names)
        portraits = tuple(rng.randbytes(rng.randint(2_200, 9_000)) for _ in range(16))
        return cls(
            names=tuple(names),
            titles=tuple(" ".join(rng.choices(_WORDS, k=rng.randint(3, 10))) for _ in range(64)),
            notes=_NOTES,
            documents=tuple(_document(rng) for _ in range(16)),
            tags=(*_ODD_TAGS, *(_tags(rng) for _ in range(16 - len(_ODD_TAGS)))),
            payments=tuple(_payment(rng) for _ in range(256)),
            portraits=portraits,
            # PostgreSQL compresses by repeats alone (pglz, lz4), and random base64 has none.
            texts=tuple(base64.b64encode(portrait).decode() for portrait in portraits),
        )


def _document(rng: random.Random) -> str:
    document: dict[str, object] = {
        "z": rng.randint(-(2**53), 2**53),
        "a": [rng.choice(_WORDS), None, {"deep": [1, [2, [3]]]}],
        "unicode": rng.choice(_FIRST) + " ☃",
        "ratio": rng.choice([0.1, 1e-7, 12345678.875, 1e21]),
        "flag": rng.random() < 0.5,
    }
    if rng.random() < 0.3:
        document["text"] = 'a "quoted" \\ line\nand another'
    return json.dumps(document, ensure_ascii=rng.random() < 0.5)


def _tags(rng: random.Random) -> str:
    return "{" + ",".join(rng.choices(_WORDS, k=rng.randint(1, 4))) + "}"


def _payment(rng: random.Random) -> bytes:
    """From method to received_on, in the order of `Statements.copy_payments`: tab-separated, `\\N` for null."""
    answer = json.dumps({"code": rng.choice(["00", "05", "N7"]), "avs": rng.choice([True, None])})
    fields = [
        rng.choice(["card", "transfer", "wallet", "voucher"]),
        f"{rng.randint(1, 9_999_999) / 100:.2f}",
        "\\N" if rng.random() < 0.2 else repr(rng.random() * 10),
        rng.choice(["t", "f", "\\N"]),
        str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "\\\\x" + rng.randbytes(rng.choice([0, 8, 16])).hex(),
        "\\N" if rng.random() < 0.5 else answer,
        " ".join(rng.choices(_WORDS, k=rng.randint(4, 16))),
        f"20{rng.randint(10, 39)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    ]
    return "\t".join(fields).encode()
