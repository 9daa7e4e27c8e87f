"""Progress bars in a terminal and in a log."""

import io
import sys
import time

import pytest

from action_heads._util.progress import progress_bar

pytest.importorskip("tqdm")


class Terminal(io.StringIO):
    """A stream that says whether somebody watches it."""

    def __init__(self, watched: bool):
        super().__init__()
        self.watched = watched

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return self.watched


@pytest.mark.parametrize(("watched", "fewest", "most"), [(True, 4, 40), (False, 1, 3)])
def test_a_bar_writes_few_lines_into_a_log(monkeypatch, watched, fewest, most):
    """A bar of a second moves in a terminal; in a log it shows its beginning and its end."""
    stream = Terminal(watched)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(range(100), desc="work") as bar:
        for i in bar:
            bar.set_postfix(loss=i, refresh=False)
            time.sleep(0.01)
    lines = [line for line in stream.getvalue().split("\r") if line.strip()]
    assert fewest <= len(lines) <= most
    assert "100/100" in lines[-1]
    assert "loss=9" in lines[-1]
