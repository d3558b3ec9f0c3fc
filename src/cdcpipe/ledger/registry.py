"""Writer's schemas by id, from a Confluent-compatible registry."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx2

from cdcpipe.errors import EvidenceError, RegistryError

__all__ = ["SchemaSource"]


class SchemaSource:
    """Schemas by registry id, each asked for once. `known` holds schemas that needn't be asked for."""

    def __init__(self, url: str, *, known: dict[int, Any] | None = None, timeout_seconds: float = 20.0) -> None:
        self._url = url.rstrip("/")
        self._schemas: dict[int, Any] = dict(known or {})
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()

    def schema(self, number: int) -> Any:
        """The parsed Avro schema. EvidenceError when the registry has none of that id, RegistryError when it fails."""
        with self._lock:
            if number not in self._schemas:
                self._schemas[number] = self._ask(number)
            return self._schemas[number]

    def _ask(self, number: int) -> Any:
        url = f"{self._url}/schemas/ids/{number}"
        try:
            answer = httpx2.get(url, timeout=self._timeout_seconds, trust_env=False)
        except httpx2.HTTPError as error:
            raise RegistryError(f"the registry at {self._url} doesn't answer: {error}") from error
        if answer.status_code == 404:
            raise EvidenceError(
                f"the registry at {self._url} has no schema with id {number}",
                hint="records were written with a schema that was deleted, or with another registry",
            )
        if answer.status_code != 200:
            raise RegistryError(
                f"the registry refused schema {number}: HTTP {answer.status_code}",
                status=answer.status_code,
                detail=answer.text[:2000],
            )
        body = answer.json()
        if body.get("schemaType", "AVRO") != "AVRO" or body.get("references"):
            kind, references = body.get("schemaType", "AVRO"), body.get("references") or []
            raise EvidenceError(
                f"schema {number} is {kind} with {len(references)} references; only self-contained Avro is read"
            )
        return json.loads(body["schema"])
