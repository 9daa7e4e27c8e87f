"""Draw the figures of the concept pages: docs/overview.svg and docs/concepts/*.svg.

uv run docs/_site/figures.py
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).resolve().parents[1]
FROZEN, TRAINED, YOURS, PLAIN = "#cfe3f5", "#fbd9a8", "#e4e7ea", "#ffffff"
INK = "#1f2d3a"


class Drawing:
    """An SVG of boxes, arrows and texts on a white ground, so that it is readable in light and dark mode."""

    def __init__(self, width: int, height: int):
        self.size = width, height
        self.parts: list[str] = []

    def box(self, x: int, y: int, w: int, h: int, lines: str, fill: str = PLAIN) -> None:
        """Draw a box with centred lines of text."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="8" fill="{fill}" stroke="{INK}"/>')
        rows = lines.split("\n")
        for i, row in enumerate(rows):
            self.text(x + w / 2, y + h / 2 + 5 + 18 * (i - (len(rows) - 1) / 2), row, "middle", bold=i == 0)

    def text(self, x: float, y: float, text: str, anchor: str = "start", bold: bool = False) -> None:
        """Draw one line of text."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def arrow(self, *points: tuple[int, int]) -> None:
        """Draw an arrow along some points."""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.6" marker-end="url(#a)"/>'
        )

    def save(self, path: Path) -> None:
        """Write the file."""
        w, h = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
            f'font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">\n'
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{w}" height="{h}" fill="#ffffff"/>\n'
        )
        path.write_text(head + "\n".join(self.parts) + "\n</svg>\n", encoding="utf-8")


def overview() -> None:
    """Draw what is frozen, what trains, and what plugs in where."""
    d = Drawing(860, 270)
    d.box(20, 100, 130, 70, "observations\nimages, state, text")
    d.box(190, 100, 150, 70, "encoder or VLM\nyours", YOURS)
    d.box(380, 100, 130, 70, "adapter\ntrains", TRAINED)
    d.box(560, 100, 150, 70, "action head\nfrozen", FROZEN)
    d.box(750, 100, 90, 70, "chunk\nof actions")
    for x, end in ((150, 188), (340, 378), (510, 558), (710, 748)):
        d.arrow((x, 135), (end, 135))
    d.text(359, 90, "condition", "middle")
    d.text(535, 90, "modulation", "middle")
    d.box(575, 20, 120, 36, "noise")
    d.arrow((635, 56), (635, 98))
    d.arrow((690, 170), (690, 205), (580, 205), (580, 172))
    d.text(635, 225, "a few denoising steps", "middle")
    d.box(20, 220, 22, 22, "", TRAINED)
    d.text(50, 236, "trains on your task")
    d.box(200, 220, 22, 22, "", FROZEN)
    d.text(230, 236, "pretrained, never changes")
    d.box(420, 220, 22, 22, "", YOURS)
    d.text(450, 236, "your choice")
    d.save(DOCS / "overview.svg")


def two_stages() -> None:
    """Draw both stages."""
    d = Drawing(860, 300)
    d.text(20, 30, "Stage 1: once, on motion without observations", bold=True)
    d.box(20, 50, 150, 60, "joint motion\nof any robot")
    d.box(220, 50, 150, 60, "forward kinematics\nchunks of poses")
    d.box(420, 50, 180, 60, "action head\nlearns to denoise", TRAINED)
    d.arrow((170, 80), (218, 80))
    d.arrow((370, 80), (418, 80))
    d.arrow((510, 110), (510, 198))
    d.text(520, 158, "frozen")
    d.text(20, 180, "Stage 2: for each task, on demonstrations", bold=True)
    d.box(20, 200, 150, 60, "observations")
    d.box(195, 200, 90, 60, "encoder\ntrains or not", YOURS)
    d.box(310, 200, 85, 60, "adapter\ntrains", TRAINED)
    d.box(420, 200, 180, 60, "action head\nfrozen", FROZEN)
    d.box(650, 200, 180, 60, "chunk of actions\nlike the demonstrated")
    for x, end in ((170, 193), (285, 308), (395, 418), (600, 648)):
        d.arrow((x, 230), (end, 230))
    d.save(DOCS / "concepts" / "two-stages.svg")


def block() -> None:
    """Draw the modulation of one block."""
    d = Drawing(860, 240)
    d.text(20, 170, "x")
    for x, w, text, fill in (
        (60, 100, "enter\nscale, shift", TRAINED),
        (200, 100, "W1, GELU\nfrozen", FROZEN),
        (340, 110, "hidden\nscale, shift", TRAINED),
        (490, 90, "W2\nfrozen", FROZEN),
        (620, 80, "leave\ngate", TRAINED),
    ):
        d.box(x, 135, w, 60, text, fill)
    for x, end in ((35, 58), (160, 198), (300, 338), (450, 488), (580, 618), (700, 738), (758, 788)):
        d.arrow((x, 165), (end, 165))
    d.parts.append(f'<circle cx="748" cy="165" r="10" fill="#ffffff" stroke="{INK}"/>')
    d.text(748, 170, "+", "middle")
    d.box(790, 145, 60, 40, "norm", FROZEN)
    d.arrow((45, 165), (45, 215), (748, 215), (748, 177))
    d.box(300, 20, 190, 50, "modulation\nstep + code + own map", TRAINED)
    for x in (110, 395, 660):
        d.arrow((395, 70), (395, 100), (x, 100), (x, 133))
    d.save(DOCS / "concepts" / "block.svg")


def ticks() -> None:
    """Draw how chunks are executed, one action for each tick."""
    d = Drawing(860, 190)
    d.text(
        20, 30, "A chunk has 16 actions. Eight are executed, then the policy is asked for the next chunk.", bold=True
    )
    for row, start in enumerate((0, 8)):
        for i in range(16):
            x, y = 60 + 32 * (start + i), 50 + 45 * row
            fill = FROZEN if i < 8 else PLAIN
            d.parts.append(f'<rect x="{x}" y="{y}" width="28" height="28" rx="4" fill="{fill}" stroke="{INK}"/>')
    d.text(20, 69, "first")
    d.text(272, 114, "next", "end")
    d.arrow((60, 150), (840, 150))
    d.text(60, 172, "ticks of the robot, for example 20 in a second")
    d.save(DOCS / "concepts" / "ticks.svg")


if __name__ == "__main__":
    overview()
    two_stages()
    block()
    ticks()
