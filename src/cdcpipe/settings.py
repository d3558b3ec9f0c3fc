"""Settings of a project and of a user, and the one place that says which wins.

    command line  >  CDCPIPE_* in the environment  >  cdcpipe.toml  >  [tool.cdcpipe] in pyproject.toml  >  default

Files are looked for in the working directory. An unknown key is an error, so that a typing mistake is not
silently a default.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cdcpipe.errors import SettingsError

__all__ = ["Settings", "load_settings"]


class Settings(BaseSettings):
    """What can be set. Each field's environment variable is `CDCPIPE_` and its name in upper case."""

    model_config = SettingsConfigDict(
        env_prefix="CDCPIPE_",
        toml_file="cdcpipe.toml",
        pyproject_toml_table_header=("tool", "cdcpipe"),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    stack: Path = Path(".cdcpipe")
    """Folder of the local stack: its data, logs and credentials."""

    cache: Path = Field(default_factory=lambda: platformdirs.user_cache_path("cdcpipe"))
    """Folder of downloaded artefacts, shared by all stacks of this user."""

    maven_mirror: Annotated[str, Field(pattern=r"^(https?|file)://")] | None = None
    """Base address of a Maven repository to use instead of Maven Central."""

    runs: Path = Path("runs")
    """Where runs leave their folders."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            TomlConfigSettingsSource(settings_cls),
            PyprojectTomlConfigSettingsSource(settings_cls),
        )


def load_settings(**given: Any) -> Settings:
    """The settings in force; `given` are those of the command line, None means "not given".

    Raises `SettingsError` that names each wrong key.
    """
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        findings = []
        for item in error.errors(include_url=False, include_input=False):
            key = ".".join(str(part) for part in item["loc"])
            near = difflib.get_close_matches(key, Settings.model_fields, n=1)
            if item["type"] == "extra_forbidden":
                findings.append(f"`{key}`: unknown setting" + (f"; did you mean `{near[0]}`?" if near else ""))
            else:
                findings.append(f"`{key}`: {item['msg']}")
        raise SettingsError(
            "a setting is wrong (cdcpipe.toml, [tool.cdcpipe] or CDCPIPE_*)", detail="\n".join(findings)
        ) from error
    except (OSError, ValueError) as error:  # a file that isn't TOML
        raise SettingsError(f"cdcpipe.toml or pyproject.toml can't be read: {error}") from error
