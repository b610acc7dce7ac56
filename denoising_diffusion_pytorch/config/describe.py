"""`--help_config [WORD]`: every setting with its default, its meaning and its range."""

import json
from collections.abc import Iterator
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


def settings_table(word: str = "") -> str:
    """The settings whose line contains `word`: `trainer.seed=0  # meaning (type and range)`."""
    schema = Config.model_json_schema()

    def lines(section: dict[str, Any], path: str) -> Iterator[str]:
        for name, field in section["properties"].items():
            if "$ref" in field:
                yield from lines(schema["$defs"][field["$ref"].rpartition("/")[2]], f"{path}{name}.")
            else:
                yield f"{path}{name}={_plain(field['default'])}  # {field['description']} ({_kind(field)})"

    return "\n".join(line for line in lines(schema, "") if word.lower() in line.lower())


def _plain(value: Any) -> str:
    return json.dumps(value).replace('"', "").replace(", ", ",")  # as the command line takes it


def _kind(field: dict[str, Any]) -> str:
    """Type and range of a field of a JSON schema, in words; that null is allowed goes without saying."""
    if "anyOf" in field:
        return " or ".join(filter(None, map(_kind, field["anyOf"])))
    if "enum" in field or "const" in field:
        return " | ".join(map(_plain, field.get("enum", [field.get("const")])))
    if field["type"] == "array":
        return f"list of: {_kind(field['items'])}"
    bounds = [f"{sign} {field[name]:g}" for name, sign in BOUNDS.items() if name in field]
    return " ".join([TYPES.get(field["type"], field["type"]), *bounds])
