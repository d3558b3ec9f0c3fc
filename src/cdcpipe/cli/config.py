"""`cdcpipe config`: judge, write, explain and compare the configs of a pipeline.

`lint` has to be quick enough for an editor's save: it loads the guards and click, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdcpipe.errors import ConfigError

if TYPE_CHECKING:
    from cdcpipe.connect.asking import Servers
    from cdcpipe.connect.facts import Facts
    from cdcpipe.connect.pipeline import Pipeline

__all__ = ["command"]

_FORMS = ("json", "properties", "strimzi")


@click.group()
def command() -> None:
    """Judge, write, explain and compare connector, worker and topic configs."""


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--profile",
    type=click.Choice(["exactly_once", "at_least_once"]),
    default="exactly_once",
    show_default=True,
    help="Which guarantee the pipeline is to hold.",
)
@click.option("--brokers", type=click.IntRange(min=1), help="How many brokers; under 3, replicas aren't judged.")
@click.option("--live", is_flag=True, help="Ask the servers, too: those given below, else the local stack's.")
@click.option("--postgres", envvar="CDCPIPE_POSTGRES", metavar="CONNINFO", help="Source database, without a password.")
@click.option("--kafka", envvar="CDCPIPE_KAFKA", metavar="HOST:PORT", help="Bootstrap servers.")
@click.option("--connect", envvar="CDCPIPE_CONNECT", metavar="URL", help="Kafka Connect.")
@click.option("--registry", envvar="CDCPIPE_REGISTRY", metavar="URL", help="Base of a Confluent-compatible API.")
@click.option("--stack", "stack_folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of the stack.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--sarif", is_flag=True, help="SARIF 2.1.0, for code review.")
@click.pass_context
def lint(ctx: click.Context, /, files: tuple[str, ...], profile: str, brokers: int | None, **options: Any) -> None:
    """Find what is known to lose, repeat or misfile data. Several files are one pipeline; `-` is stdin.

    A file is a connector (JSON, properties, Strimzi KafkaConnector), a worker's settings (properties, KafkaConnect),
    a topic (JSON, KafkaTopic) or the registry's compatibility (JSON).
    """
    from cdcpipe import __version__
    from cdcpipe.cli import _findings
    from cdcpipe.connect.guards import check, guards
    from cdcpipe.connect.reading import read_files

    if options["as_json"] and options["sarif"]:
        raise click.UsageError("`--json` and `--sarif` exclude each other")
    pipeline = read_files(files, brokers=brokers)
    facts = _facts(pipeline, options) if options["live"] else None
    assert profile in {"exactly_once", "at_least_once"}
    report = check(pipeline, profile="exactly_once" if profile == "exactly_once" else "at_least_once", facts=facts)
    silent = [] if facts is None else [name for name in facts.silences if facts.silence(name) != "was not asked"]
    failed = bool(report.findings if options["strict"] else report.errors)
    if options["as_json"]:
        shown = _findings.as_json(report, profile)
        shown["verdict"] = "fail" if failed else "inconclusive" if silent else "pass"
        click.echo(json.dumps(shown, indent=2))
    elif options["sarif"]:
        click.echo(json.dumps(_findings.as_sarif(report, guards(), __version__), indent=2))
    else:
        for found in report.findings:
            click.echo(_findings.as_text(found) + "\n")
    asked = sum(profile in rule.profiles and (facts is not None or not rule.needs) for rule in guards())
    for line in (*_findings.unanswered_text(report.unanswered), _findings.summary(report, asked)):
        click.echo(line, err=True)
    ctx.exit(1 if failed else 3 if silent else 0)


def _facts(pipeline: Pipeline, options: dict[str, Any]) -> Facts:
    from cdcpipe.connect.asking import Servers, gather

    names = ("postgres", "kafka", "connect", "registry")
    given = {name: options[name] for name in names if options[name]}
    return gather(pipeline, Servers(**given) if given else _of_stack(options["stack_folder"]))


def _of_stack(folder: Path | None) -> Servers:
    from cdcpipe.cli._shared import open_stack
    from cdcpipe.connect.asking import Servers

    endpoints = open_stack(folder).endpoints
    return Servers(
        postgres=endpoints.postgres.conninfo("witness"),
        kafka=endpoints.bootstrap_servers,
        connect=endpoints.connect_url,
        registry=endpoints.registry_url,
    )


@command.command()
@click.argument("source", metavar="FILE|MODULE:NAME")
@click.option(
    "--format", "form", type=click.Choice(["json", "properties", "strimzi"]), default="json", show_default=True
)
@click.option("--cluster", default="connect", show_default=True, help="With strimzi: the KafkaConnect it belongs to.")
def render(source: str, form: str, cluster: str) -> None:
    """Write a config as Kafka Connect takes it: out of a file of models (see `schema`), a builder in a Python
    module, or any config that `lint` reads."""
    from cdcpipe.connect.properties import write_properties

    rendered = _rendered(source)
    if form == "json":
        posted = [{"name": name, "config": one} if "connector.class" in one else one for name, one in rendered]
        click.echo(json.dumps(posted[0] if len(posted) == 1 else posted, indent=2))
        return
    if form == "properties" and len(rendered) > 1:
        raise ConfigError(
            f"{source}: {len(rendered)} configs can't be one properties file", hint="render them one by one"
        )
    for name, config in rendered:
        if form == "properties":
            click.echo(write_properties(config), nl=False)
        else:
            click.echo(("---\n" if len(rendered) > 1 else "") + _strimzi(name, config, cluster), nl=False)


def _rendered(source: str) -> list[tuple[str, dict[str, str]]]:
    from cdcpipe.connect.typed import build, load_attribute, model_of

    if ":" in source and not Path(source).exists():
        built: Any = load_attribute(source)
    else:
        data = _models_in(source)
        built = None if data is None else build(data)
    if built is not None:
        every = built if isinstance(built, tuple) else (built,)
        if not every or not all(hasattr(one, "to_config") for one in every):
            raise ConfigError(f"{source}: an entry names no `model`")
        return [(str(getattr(one, "name", "worker")), one.to_config()) for one in every]
    from cdcpipe.connect.reading import read_files

    found = []
    for part in read_files([source]).parts():
        model = model_of(part)
        config = dict(part.config) if model is None else model.from_config(part.config, keep_unknown=True).to_config()
        found.append((part.name, config))
    return found


def _models_in(path: str) -> object | None:
    """The content of a file of models, None for any other file."""
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    except yaml.YAMLError:
        return None  # properties, or something that `read_files` says more of
    first = data[0] if isinstance(data, list) and data else data
    return data if isinstance(first, dict) and "model" in first else None


def _strimzi(name: str, config: dict[str, str], cluster: str) -> str:
    import yaml

    if "connector.class" not in config:
        raise ConfigError("only connectors can be written as Strimzi resources")
    rest = {key: text for key, text in config.items() if key not in {"name", "connector.class", "tasks.max"}}
    resource = {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": "KafkaConnector",
        "metadata": {"name": name, "labels": {"strimzi.io/cluster": cluster}},
        "spec": {
            "class": config["connector.class"],
            "tasksMax": int(config.get("tasks.max", "1")),
            "config": rest,
        },
    }
    return str(yaml.safe_dump(resource, sort_keys=False, width=1000))


@command.command()
@click.argument("key", required=False)
@click.option("--classes", is_flag=True, help="List the plugins whose keys are known.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def explain(key: str | None, classes: bool, as_json: bool) -> None:
    """What a key means, what it is without a value, and which guards look at it."""
    from cdcpipe.connect.explaining import explain as explained
    from cdcpipe.connect.plugins import known_classes

    if classes:
        click.echo("\n".join(known_classes()))
        return
    if key is None:
        raise click.UsageError("which KEY?")
    found = explained(key)
    if not found.known:
        hint = (
            f"did you mean `{found.nearest}`?" if found.nearest else "`cdcpipe config explain --classes` lists plugins"
        )
        raise ConfigError(f"nothing is known of `{key}`", hint=hint)
    if as_json:
        click.echo(json.dumps(_explained_json(found), indent=2))
        return
    click.echo(key)
    for java_class, version, info in found.plugins:
        default = "required" if info.required else f"default {info.default or 'none'}"
        click.echo(f"\n{java_class} {version}\n  {info.type.lower()}, {default}")
        if info.values:
            click.echo(f"  one of {', '.join(info.values)}")
        if info.documentation:
            click.echo(click.wrap_text(info.documentation, 100, "  ", "  "))
    for model, field, text in found.fields:
        click.echo(f"\ncdcpipe.connect.{model}.{field}\n{click.wrap_text(' '.join(text.split()), 100, '  ', '  ')}")
    for rule in found.guards:
        click.echo(f"\n{rule.severity} {rule.id} ({', '.join(rule.profiles)})\n  {rule.sentence}")
        click.echo(f"  hint: {rule.cure}\n  {rule.source}")


def _explained_json(found: Any) -> dict[str, Any]:
    return {
        "key": found.key,
        "plugins": [
            {"class": name, "version": version, "type": info.type, "default": info.default, "doc": info.documentation}
            for name, version, info in found.plugins
        ],
        "fields": [{"model": model, "field": field, "doc": text} for model, field, text in found.fields],
        "guards": [
            {
                "id": rule.id,
                "severity": rule.severity,
                "sentence": rule.sentence,
                "cure": rule.cure,
                "source": rule.source,
            }
            for rule in found.guards
        ],
    }


@command.command()
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def diff(ctx: click.Context, old: str, new: str, as_json: bool) -> None:
    """What differs between two configs, and which differences move data. Exit 0 when nothing does, else 1."""
    from cdcpipe.connect.differing import differences
    from cdcpipe.connect.reading import read_files

    found = differences(read_files([old]), read_files([new]))
    if as_json:
        rows = [{name: getattr(one, name) for name in one.__slots__} for one in found]
        click.echo(json.dumps({"differences": rows}, indent=2))
        ctx.exit(1 if found else 0)
    place = ""
    for one in found:
        if place != (place := f"{one.kind} {one.name}"):
            click.echo(place)
        if not one.key:
            click.echo("  + only in B" if one.old is None else "  - only in A")
            continue
        for sign, text in (("-", one.old), ("+", one.new)):
            shown = text if text is not None else f"(not set{'' if one.default is None else f': {one.default}'})"
            click.echo(f"  {sign} {one.key} = {shown}")
        if one.risk:
            click.echo(f"    risk: {one.risk}")
    risks = sum(one.risk is not None for one in found)
    click.echo(f"{len(found)} difference{'' if len(found) == 1 else 's'}, {risks} of them may move data", err=True)
    ctx.exit(1 if found else 0)


@command.command()
@click.option("--connect", envvar="CDCPIPE_CONNECT", metavar="URL", help="Kafka Connect; else the local stack's.")
@click.option("--stack", "stack_folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of the stack.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to; else the package's.")
@click.option("--version", "versions", multiple=True, metavar="PLUGIN=VERSION", help="Of a plugin that doesn't say it.")
@click.option("--only", multiple=True, metavar="PLUGIN", help="Only these.")
def catalogue(
    connect: str | None, stack_folder: Path | None, out: Path | None, versions: tuple[str, ...], only: tuple[str, ...]
) -> None:
    """Ask the plugins of a running Kafka Connect for their keys, and write them down for `lint` and `explain`."""
    from cdcpipe.cli._shared import open_stack, pairs
    from cdcpipe.connect.cataloguing import generate
    from cdcpipe.connect.plugins import FOLDER
    from cdcpipe.connect.rest import ConnectClient

    url = connect or open_stack(stack_folder).endpoints.connect_url
    with ConnectClient(url) as client:
        for path in generate(client, out or FOLDER, versions=pairs(versions, "--version"), only=only):
            click.echo(str(path))


@command.command()
@click.argument("model", required=False)
def schema(model: str | None) -> None:
    """JSON Schema of the models that `render` reads, for editors; of one MODEL, or of all."""
    from cdcpipe.connect.typed import json_schema

    click.echo(json.dumps(json_schema(model), indent=2))
