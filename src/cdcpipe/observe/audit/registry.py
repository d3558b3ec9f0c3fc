"""What the registry noted: Apicurio's own audit records, which stand in its log, as JSON or as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from cdcpipe.observe.audit.trail import Fact
from cdcpipe.observe.logs import Line

__all__ = ["facts_of_log"]

_LOGGER: Final = "io.apicurio.registry.logging.audit.AuditLogService"
_PAIR: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ACTIONS: Final = {
    "createArtifact": "schema.registered",
    "createArtifactVersion": "schema.registered",
    "updateArtifact": "schema.registered",
    "registerSchemaUnderSubject": "schema.registered",
    "deleteSubject": "schema.deleted",
    "deleteSchemaVersion": "schema.deleted",
    "deleteArtifact": "schema.deleted",
    "deleteArtifacts": "schema.deleted",
    "deleteArtifactVersion": "schema.deleted",
    "updateGlobalConfig": "compatibility.changed",
    "updateGlobalRule": "compatibility.changed",
    "createGlobalRule": "compatibility.changed",
    "deleteGlobalRule": "compatibility.changed",
    "createArtifactRule": "compatibility.changed",
    "updateArtifactRule": "compatibility.changed",
    "updateSubjectConfig": "compatibility.changed",
    "deleteSubjectConfig": "compatibility.changed",
}


def facts_of_log(lines: Iterable[Line]) -> Iterator[Fact]:
    """Changes of schemas and rules, those that were refused too."""
    for line in lines:
        if line.at is None or _LOGGER not in line.text:
            continue
        message = line.text
        if message.startswith("{"):
            try:
                message = str(json.loads(message)["message"])
            except (ValueError, KeyError):
                continue
        pairs = {name: value for name, value in _PAIR.findall(message) if value != "null"}
        verb, result = pairs.pop("action", ""), pairs.pop("result", "")
        if not verb:
            continue
        host = pairs.pop("src_ip", "unknown")
        user = pairs.pop("principal_id", None) or pairs.pop("user", None)
        names = [pairs.pop(key, None) for key in ("artifact_id", "subject", "rule_type")]
        object_ = next((each for each in names if each), "registry")
        yield Fact(
            line.at,
            "registry",
            f"{user}@{host}" if user else host,
            _ACTIONS.get(verb, f"registry.{verb}"),
            object_,
            "ok" if result == "success" else "refused",
            {"call": verb, **pairs},
        )
