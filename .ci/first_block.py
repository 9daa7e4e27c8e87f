"""Print the first Python block of a Markdown page."""

import re
import sys
from pathlib import Path

print(re.search(r"```python\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.DOTALL).group(1))  # type: ignore[union-attr]
