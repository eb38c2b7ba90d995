"""Which exchanges a home fetches from, and with what credentials.

    HOME/exchanges/NAME.yaml   mode 0600: `kind`, and what the exchange of that kind asks for

Credentials are in the file, or in the environment variable of the kind.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kontext.errors import ExchangeError
from kontext.safety.exchanges.base import ExchangeSettings
from kontext.safety.secret_files import refuse_shared
from schemas.discovery import plugins
from schemas.yaml_text import YamlError, parse

CHANGES_RESULTS = False

FOLDER = "exchanges"
_KINDS = "kontext.safety.exchanges"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Exchange:
    """One exchange as the home names it. The list that it gives has its name."""

    name: str
    settings: ExchangeSettings

    def credentials(self, environment: Mapping[str, str] = os.environ) -> str:
        """What opens it. Raises ExchangeError where there is nothing."""
        variable = plugins(_KINDS, "deltas")[self.settings.kind].ENVIRONMENT
        found = self.settings.credentials.get_secret_value() or environment.get(variable, "")
        if variable and not found:
            raise ExchangeError(
                f"exchange {self.name} has no credentials: set {variable}, or credentials in "
                f"HOME/{FOLDER}/{self.name}.yaml"
            )
        return found

    def request(self) -> dict[str, Any]:
        """Its settings for the process that fetches, without the credentials."""
        return self.settings.model_dump(mode="json", exclude={"credentials"})


def configured(home: Path) -> dict[str, Exchange]:
    """Name -> exchange, by name. Raises ExchangeError where a file is not as it must be."""
    return {path.stem: _read(path) for path in sorted((home / FOLDER).glob("*.yaml"))}


def _read(path: Path) -> Exchange:
    where = f"{FOLDER}/{path.name}"
    if not _NAME.fullmatch(path.stem):
        raise ExchangeError(f"{where}: a name has small letters, digits and dashes")
    refuse_shared(path, ExchangeError)
    kinds = plugins(_KINDS, "deltas")
    try:
        data = parse(path.read_text("utf-8")).data
    except YamlError as error:
        raise ExchangeError(f"{where} line {error.line}: not YAML that is understood") from None
    except (OSError, UnicodeDecodeError):
        raise ExchangeError(f"{where} is not readable text") from None
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in kinds:
        raise ExchangeError(f"{where}: kind is one of {', '.join(kinds)}")
    try:
        return Exchange(path.stem, kinds[kind].Settings.model_validate(data))
    except ValidationError as error:  # its own text quotes what was written, credentials too
        found = error.errors(include_input=False, include_context=False, include_url=False)[0]
        key = ".".join(map(str, found["loc"]))
        raise ExchangeError(f"{where}: {key}: {found['msg']}") from None
