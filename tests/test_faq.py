"""The code of docs/faq.md."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "faq.md"


def test_blocks_run_from_top_to_bottom():
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 6
    names = {}
    for block in found:
        exec(compile(block, str(PAGE), "exec"), names)
