"""What is the same in every process: digests of settings and files, and random keys."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def digest(*parts: object) -> str:
    """A short hash of the arguments, bytes or what JSON can hold."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()[:16]


def file_digest(root: Path, names: Iterable[str]) -> str:
    """Digest of those files below a folder that exist: names, sizes, modification times; a copy (`cp -a`) has the same one."""
    states = ((name, (root / name).stat()) for name in names if (root / name).exists())
    return digest([(name, state.st_size, state.st_mtime_ns) for name, state in states])


def random_key(*parts: object) -> int:
    """A 63-bit random key determined by the arguments, e.g. a seed, an epoch and a sample's number."""
    found = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(found, "little") >> 1
