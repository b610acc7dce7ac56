"""Every Python example of the documentation runs as it is printed, and every file that it names is there."""

import re

import pytest

from tests.processes import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "released/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, tmp_path, monkeypatch):
    for name in ("configs", "released"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})


def anchors(page):
    """What a link to a heading of a page may be, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        name, _, anchor = target.partition("#")
        if not name.startswith("http"):
            file = page.parent / name if name else page
            assert file.exists() and (not anchor or anchor in anchors(file)), target
