"""A pytest plugin: alert rules without the one for a component that is down."""

from __future__ import annotations

import yaml

from cdcpipe.observe import alerts

_all = alerts.rules_text


def _some() -> str:
    content = yaml.safe_load(_all())
    for group in content["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "ComponentDown"]
    return yaml.safe_dump(content)


alerts.rules_text = _some
