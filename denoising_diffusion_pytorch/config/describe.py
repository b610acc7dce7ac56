"""`--help_config [WORD]`: every setting with its default, its meaning and its range."""

import argparse
import json
import sys
from contextlib import suppress
from textwrap import wrap
from typing import Any

from .schema import Config

BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}
TYPES = {"integer": "whole number", "boolean": "true or false", "string": "text", "null": ""}


def help_config() -> None:
    """Print the settings and exit, if the command line asks for it; to be called before torch, which is slow to import."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help_config", nargs="?", const="")
    word = parser.parse_known_args()[0].help_config
    if word is not None:
        with suppress(BrokenPipeError):  # head has seen enough
            print(settings_table(word) or f"no setting's name or meaning contains {word!r}", flush=True)
        sys.exit(0)


def settings_table(word: str = "") -> str:
    """The settings whose dotted key or meaning contains `word`, by section, in lines of at most 120 columns."""
    schema = Config.model_json_schema()

    def lines(section: dict[str, Any], path: str, title: str) -> list[str]:
        rows, inner = [], []
        for name, field in section["properties"].items():
            key = f"{path}.{name}".lstrip(".")
            if "$ref" in field:
                inner += lines(schema["$defs"][field["$ref"].rpartition("/")[2]], key, field["description"])
            elif word.lower() in f"{key} {field['description']}".lower():
                text = f"{name + ' = ' + _plain(field['default']):<36}{field['description']} ({_kind(field)})"
                rows += wrap(text, 120, initial_indent="  ", subsequent_indent=" " * 40)
        return ([f"{path}: {title}", *rows, ""] if rows else []) + inner

    return "\n".join(lines(schema, "", "")).rstrip()


def _plain(value: Any) -> str:
    return json.dumps(value).replace('"', "")


def _kind(field: dict[str, Any]) -> str:
    """Type and range of a field of a JSON schema, in words; that null is allowed goes without saying."""
    if "anyOf" in field:
        return " or ".join(filter(None, map(_kind, field["anyOf"])))
    if "enum" in field or "const" in field:
        return ", ".join(map(_plain, field.get("enum", [field.get("const")])))
    if field["type"] == "array":
        return f"list of: {_kind(field['items'])}"
    bounds = [f"{sign} {field[name]:g}" for name, sign in BOUNDS.items() if name in field]
    return " ".join([TYPES.get(field["type"], field["type"]), *bounds])
