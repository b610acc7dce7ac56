"""YAML text -> plain Python values: YAML 1.2 scalars, bounded in size, never an object of another kind.

Differs from `yaml.safe_load` where that surprises: `5e-5` is a number, `yes`, `no`, `on` and `off` are text, `None` is
null, 010 and 12:30 are text, and a key that is given twice must have the same value both times.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000  # counted with aliases expanded, so that a few lines of nested aliases cannot fill the memory
MAX_DEPTH = 30
MAX_INT = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)\Z"
    r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_RESOLVERS = (
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), "tTfF"),
    ("null", re.compile(r"(?:~|null|Null|NULL|None|)\Z"), ["~", "n", "N", ""]),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+)\Z"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
)


class ForeignText(str):
    """A text from elsewhere than `read_text`: `yaml.safe_load` leaves numbers such as 5e-5 as texts."""

    def number(self) -> float | None:
        """The number that YAML 1.2 sees in it, if any."""
        return float(self) if re.fullmatch(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+", self) else None


class _Reader(yaml.SafeLoader):
    """PyYAML's scanner and composer with our scalars and limits; `value` takes the place of its constructor."""

    yaml_implicit_resolvers: dict = {}

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        self._enter(self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _enter(self, mark: yaml.Mark) -> None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem="too many or too deeply nested values", problem_mark=mark)

    def value(self, node: yaml.Node) -> Any:
        """The Python value of a node: None, bool, int, float, str, list or dict."""
        self._enter(node.start_mark)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            result: Any = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode) and kind == "seq":
            result = [self.value(child) for child in node.value]
        elif isinstance(node, yaml.ScalarNode):
            result = self._scalar(node, kind)
        else:
            raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark)
        self.depth -= 1
        return result

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = node.value
        if kind == "null":
            return None
        try:
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                number = int(text.replace("_", ""), 0)
                if abs(number) > MAX_INT:
                    raise OverflowError
                return number
            if kind == "float":
                return float(re.sub(r"\.(?=[iInN])", "", text))  # .inf and .nan as Python spells them
        except (KeyError, ValueError, OverflowError) as error:
            problem = f"cannot read {text[:40]!r} as {kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error
        if kind == "str":
            return text
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not allowed", problem_mark=node.start_mark)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        explicit: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            value = self.value(value_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key_node.start_mark)
            key = key_node.value
            if key == "<<":  # merge key: defaults for what is not given explicitly
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise yaml.MarkedYAMLError(problem="<< needs a mapping", problem_mark=value_node.start_mark)
                    merged = part | merged
            elif key in explicit and not same(explicit[key], value):
                raise yaml.MarkedYAMLError(
                    problem=f"{key[:40]!r} is given twice, as {show(explicit[key])} and as {show(value)}; keep one",
                    problem_mark=key_node.start_mark,
                )
            else:
                explicit[key] = value
        return merged | explicit


class _Writer(yaml.SafeDumper):
    """Quotes every text that PyYAML or this module would read as something else; lists stay on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    _Reader.add_implicit_resolver(_TAG + _name, _pattern, list(_first))
    _Writer.add_implicit_resolver(_TAG + _name, _pattern, list(_first))
_Writer.add_representer(list, lambda writer, data: writer.represent_sequence(f"{_TAG}seq", data, flow_style=True))


def read_file(path: str | Path) -> Any:
    """The value of a YAML file; None for an empty one.

    Raises:
        ConfigError: beginning with the file's name (and the line), for anything that is not a small YAML text.
    """
    source = Path(path)
    try:
        if source.is_dir():
            raise ConfigError(f"{path}: is a folder; name a YAML file")
        if not source.exists():
            raise ConfigError(f"{path}: no such file")
        if not source.is_file():
            raise ConfigError(f"{path}: is not a regular file; name a YAML file")
        with source.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, UnicodeEncodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES // 1024} KiB; a configuration is a few KiB of YAML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: is not UTF-8 text; save it as UTF-8") from error
    return read_text(text, str(path))


def read_text(text: str, name: str = "") -> Any:
    """The value of a YAML text; errors are ConfigErrors that begin with `name` and the line."""
    prefix = f"{name}: " if name else ""
    try:
        reader = _Reader(text)
        node = reader.get_single_node()
        reader.nodes = reader.depth = 0
        return None if node is None else reader.value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context or "not valid YAML"
        raise ConfigError(f"{prefix}{line}{one_line(problem)}") from error
    except yaml.YAMLError as error:  # the reader's: a character that YAML forbids
        raise ConfigError(f"{prefix}is not valid YAML ({one_line(getattr(error, 'reason', None) or error)})") from error
    except (ValueError, OverflowError) as error:  # PyYAML lets escapes and directives out of range through
        raise ConfigError(f"{prefix}is not valid YAML ({one_line(error)})") from error


def write_text(value: dict[str, Any]) -> str:
    """YAML that this module and `yaml.safe_load` read alike, one key a line in the given order."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of values that Python code or `yaml.safe_load` made, of the types that `read_text` gives.

    Tuples become lists, paths text, dataclasses mappings; texts become `ForeignText`.

    Raises:
        ConfigError: nested too deeply, or an integer beyond 64 bits.
    """
    if depth > MAX_DEPTH:
        raise ConfigError("the settings are nested too deeply")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else show(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return ForeignText(value)
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise ConfigError("a number is beyond 64 bits")
    return value


def same(a: Any, b: Any) -> bool:
    """Equality that tells true from 1, in lists and mappings too."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a is b or a == b  # a value that is not a number equals itself only by identity


def show(value: Any) -> str:
    """A value for a message, as YAML spells it, at most 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > MAX_INT:
        return "a huge number"
    if isinstance(value, dict):
        return "a mapping"
    text = "[" + ", ".join(show(item) for item in value[:20]) + "]" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(text: object) -> str:
    """Text for a message: one printable line."""
    return " ".join(str(text).split()).encode("ascii", "backslashreplace").decode()
