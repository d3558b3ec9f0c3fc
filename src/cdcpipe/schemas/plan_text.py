"""A plan as text for a terminal, as JSON, and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdcpipe.schemas.compatibility import Mode
from cdcpipe.schemas.migration import Plan, SubjectPlan, TablePlan

__all__ = ["to_json", "to_markdown", "to_text"]

_OUTCOME = {
    "unchanged": "unchanged",
    "new-version": "a new version is registered",
    "refused": "REFUSED: the source's task fails at the next row",
    "new-subject": "a new subject",
    "no-key": "records have no key",
    "gone": "no more records",
}


def _summary(plan: Plan) -> str:
    refused = [table.name for table in plan.tables if table.refused]
    if refused:
        return f"{', '.join(refused)}: refused in mode {plan.mode}; the source will stop"
    if not plan.ok:
        return f"registered in mode {plan.mode}, but data will be misread or lost"
    if not plan.tables:
        return "nothing that change events show"
    return f"registered in mode {plan.mode}"


def _modes(subject: SubjectPlan) -> str:
    return "  ".join(f"{mode} {'yes' if verdict.compatible else 'NO'}" for mode, verdict in subject.verdicts.items())


def _reasons(plan: Plan, subject: SubjectPlan) -> list[str]:
    return list(dict.fromkeys(conflict.sentence for conflict in subject.conflicts(plan.mode)))


def _readers(subject: SubjectPlan) -> Iterator[str]:
    for word, found in (
        ("readers with the present schema fail on new records", subject.old_readers),
        ("readers with the new schema fail on old records", subject.new_readers),
    ):
        if found:
            yield f"{word}: {', '.join(dict.fromkeys(item.column for item in found))}"


def to_text(plan: Plan) -> str:
    """Lines for a terminal, 110 columns where the words allow it."""
    lines = [_summary(plan), ""]
    for number, step in enumerate(plan.steps, 1):
        lock = f"  [{step.lock}]" if step.lock else ""
        lines.append(f"{number}. {' '.join(step.text.split())}{lock}")
        lines += [f"     {hazard.code}: {hazard.text}" for hazard in step.hazards]
    for table in plan.tables:
        lines += ["", *_table_lines(plan, table)]
    if plan.safer:
        lines += ["", f"instead, in mode {plan.mode}:", *(f"  {line}" for line in plan.safer)]
    return "\n".join(lines)


def _table_lines(plan: Plan, table: TablePlan) -> Iterator[str]:
    was = f" (was {table.old_name})" if table.old_name not in (None, table.name) else ""
    yield f"{table.name}{was} -> {table.topic}"
    for word, subject in (("key", table.key), ("value", table.value)):
        yield f"  {word}: {_OUTCOME[subject.outcome]}"
        if subject.versions and subject.outcome != "new-subject":
            yield f"    {_modes(subject)}"
        yield from (f"    {reason}" for reason in _reasons(plan, subject))
        yield from (f"    misread: {item.sentence}" for item in subject.misreadings)
        yield from (f"    {line}" for line in _readers(subject))
    yield from (f"  archive: {change.column}: {change.text}" for change in table.archive)
    yield from (f"  note: {note}" for note in table.notes)


def to_markdown(plan: Plan) -> str:
    """A comment for a pull request."""
    mark = "✅" if plan.ok else "❌"
    lines = [
        f"### {mark} Change data: {_summary(plan)}",
        "",
        "| # | statement | lock | to know |",
        "| --- | --- | --- | --- |",
    ]
    for number, step in enumerate(plan.steps, 1):
        text = " ".join(step.text.split()).replace("|", "\\|")
        hazards = "<br>".join(f"**{hazard.code}** {hazard.text}".replace("|", "\\|") for hazard in step.hazards)
        lines.append(f"| {number} | `{text}` | {step.lock or '-'} | {hazards or '-'} |")
    for table in plan.tables:
        lines += ["", f"#### `{table.name}` → `{table.topic}`", ""]
        lines += [f"- {line.strip()}" for line in list(_table_lines(plan, table))[1:]]
    if plan.safer:
        lines += ["", f"Instead, in mode {plan.mode}:", "", "```sql", *plan.safer, "```"]
    return "\n".join(lines)


def to_json(plan: Plan) -> dict[str, Any]:
    """Everything, for a machine."""
    return {
        "ok": plan.ok,
        "mode": plan.mode.value,
        "summary": _summary(plan),
        "steps": [
            {
                "statement": step.text,
                "lock": step.lock or None,
                "in_transaction": step.in_transaction,
                "effects": [
                    {
                        "code": effect.code,
                        "table": effect.table,
                        "column": effect.column or None,
                        "what": effect.what,
                        "rewrites": effect.rewrites,
                        "scans": effect.scans,
                    }
                    for effect in step.effects
                ],
                "hazards": [{"code": hazard.code, "text": hazard.text} for hazard in step.hazards],
            }
            for step in plan.steps
        ],
        "tables": [_table_json(table) for table in plan.tables],
        "safer": list(plan.safer),
    }


def _table_json(table: TablePlan) -> dict[str, Any]:
    return {
        "table": table.name,
        "was": table.old_name,
        "topic": table.topic,
        "task": table.task,
        "key": _subject_json(table.key),
        "value": _subject_json(table.value),
        "archive": [{"column": c.column, "action": c.action, "text": c.text} for c in table.archive],
        "notes": list(table.notes),
    }


def _subject_json(subject: SubjectPlan) -> dict[str, Any]:
    return {
        "subject": subject.subject,
        "outcome": subject.outcome,
        "compatible": {mode.value: subject.verdicts[mode].compatible for mode in Mode if mode in subject.verdicts},
        "conflicts": {
            mode.value: [
                {
                    "kind": conflict.problem.kind.value,
                    "column": conflict.problem.column,
                    "direction": conflict.direction,
                    "version": conflict.version,
                    "sentence": conflict.sentence,
                }
                for conflict in verdict.conflicts
            ]
            for mode, verdict in subject.verdicts.items()
            if verdict.conflicts
        },
        "misreadings": [item.sentence for item in subject.misreadings],
        "schemas": list(subject.versions),
    }
