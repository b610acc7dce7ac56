"""Text files of other people's programs."""

import json


def decoded(content: bytes) -> str:
    """The text in UTF-8 or UTF-16, with or without a byte order mark; anything else is read as Windows' Latin."""
    try:
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
