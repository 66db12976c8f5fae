"""Figures from scratch: SVG is text, and a line chart is a hundred lines of it.

A sheet of 780 by 386 units, as wide as the page makes it. In SVG y grows downwards.
"""
import html, math
from dataclasses import dataclass

import numpy as np

# Okabe and Ito's colours, told apart by colour-blind readers too; dashes for print in grey.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
DASHES = ["", "8 3", "2 2", "10 3 2 3", "5 2", "14 4"]
LEFT, RIGHT, TOP, BOTTOM = 66, 630, 14, 320  # the plot; the legend stands to its right

@dataclass
class Line:
    """One line of a chart, with what the legend calls it."""

    name: str
    x: np.ndarray  # (m)
    y: np.ndarray  # (m), nan where the line is cut
    # "plain": colour and dashes by its place among the lines. "same": the colour of the line
    # before it, dashed. "bold": black and thick. "grey": thin; the first stands for all in the
    # legend. "dots": points without a line.
    style: str = "plain"
    titles: list | None = None  # of each point, shown when the pointer rests on it

def text(x, y, words, anchor="middle", more=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>'
            f"{html.escape(str(words))}</text>")

def polyline(points, style):
    return f'<polyline fill="none" points="{points}" {style}/>'

def svg(parts, width, height, title):
    """The whole drawing; its title is what a screen reader says."""
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="13">')
    return (f'{head}<title>{html.escape(title)}</title><rect width="100%" height="100%" '
            'fill="#fff"/>' + "\n".join(parts) + "</svg>\n")

# ---------------------------------------------------------------- axes

def ticks(low, high, n=6):
    """About n round numbers from low to high: ticks(0, 10) = 0 2 4 6 8 10."""
    rough = max(high - low, 1e-12) / n
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 5, 10):
        step = factor * power
        if (high - low) / step <= n:
            break
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]

class Axis:
    """Turns numbers into places between `start` and `end` of the sheet."""

    def __init__(self, values, log, start, end, margin=0.0):
        values = np.concatenate([np.asarray(v, dtype=float) for v in values])
        values = values[np.isfinite(values) & ((values > 0) | (not log))]
        if log:
            values = np.log10(values)
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        space = margin * (high - low)
        self.log, self.start, self.end = log, start, end
        self.low, self.high = low - space, high + space

    def place(self, value):
        """Where a number stands, nan if it has no place."""
        if self.log:
            value = math.log10(value) if value > 0 else math.nan
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self):
        """[(number, label)] at round numbers; of a logarithmic axis 1, 2 and 5 of each power."""
        if not self.log:
            return [(v, f"{v:.6g}") for v in ticks(self.low, self.high)]
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1, 2, 5) if self.high - self.low < 3 else (1,)
        numbers = [f * 10.0**power for power in powers for f in factors]
        inside = [v for v in numbers if self.low <= math.log10(v) <= self.high]
        return [(v, f"{v:g}".replace("e+", "e").replace("e-0", "e-")) for v in inside]

def draw_axes(x_axis, y_axis, x_label, y_label, second):
    """Both axes, their grid, and if asked for a second row of numbers below the first."""
    parts = []
    for value, label in y_axis.ticks():
        y = y_axis.place(value)
        parts.append(polyline(f"{LEFT},{y:.1f} {RIGHT},{y:.1f}", 'stroke="#ddd"'))
        parts.append(text(LEFT - 7, y + 4, label, "end"))
    for value, label in x_axis.ticks():
        x = x_axis.place(value)
        parts.append(polyline(f"{x:.1f},{BOTTOM} {x:.1f},{BOTTOM + 5}", 'stroke="#333"'))
        parts.append(text(x, BOTTOM + 19, label))
    if second:
        label, factor = second
        for value in ticks(x_axis.low * factor, x_axis.high * factor):
            x = x_axis.place(value / factor)
            parts.append(polyline(f"{x:.1f},{BOTTOM} {x:.1f},{BOTTOM - 5}", 'stroke="#777"'))
            parts.append(text(x, BOTTOM + 36, f"{value:.6g}", more='fill="#777"'))
        x_label = f"{x_label}, below: {label}"
    frame = f"{LEFT},{TOP} {LEFT},{BOTTOM} {RIGHT},{BOTTOM}"
    parts.append(polyline(frame, 'stroke="#333"'))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 58, x_label))
    turned = f'transform="translate(15 {(TOP + BOTTOM) / 2}) rotate(-90)"'
    parts.append(text(0, 0, y_label, more=turned))
    return parts

# ---------------------------------------------------------------- lines

def draw_line(line, x_axis, y_axis, stroke, colour, points):
    """The parts of one line: its pieces (nan cuts it), and its points with their titles."""
    pieces, circles = [[]], []
    for i, (x, y) in enumerate(zip(line.x, line.y)):
        place = x_axis.place(x), y_axis.place(y)
        if not np.isfinite(place).all():
            pieces.append([])
            continue
        pieces[-1].append(f"{place[0]:.1f},{place[1]:.1f}")
        if points or line.style == "dots":
            title = line.titles[i] if line.titles else f"{line.name}: {y:.4g} at {x:.4g}"
            seen = 'fill-opacity="0"' if line.style != "dots" else f'fill="{colour}"'
            size = 5 if line.style == "dots" else 7
            circles.append(f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{size}" {seen}>'
                           f"<title>{html.escape(title)}</title></circle>")
    if line.style == "dots":
        return circles
    # (The circles come last, on top, so that the pointer finds them.)
    return [polyline(" ".join(piece), stroke) for piece in pieces] + circles

def stroke_of(line, place):
    """(colour, stroke) of a line that is the `place`-th of those with colours."""
    colour, dash, width = COLOURS[place % 6], DASHES[place // 6 % 6], 1.8
    if line.style == "same":
        dash = "5 3"
    if line.style == "bold":
        colour, width = "#000", 3
    if line.style == "grey":
        colour, width = "#888", 0.7
    return colour, f'stroke="{colour}" stroke-dasharray="{dash}" stroke-width="{width}"'

def line_chart(lines, x_label, y_label, second=None, log_y=False, log_x=False, mark=None,
               points=False):
    """An SVG drawing of a list of Line.

    second: (label, factor), a second row of numbers below the axis at round values of x * factor.
    log_x, log_y: logarithmic axes. mark: (x, y, words) of one point. points: all points tell
    their numbers when the pointer rests on them.
    """
    x_axis = Axis([line.x for line in lines], log_x, LEFT, RIGHT)
    y_axis = Axis([line.y for line in lines], log_y, BOTTOM, TOP, margin=0.04)
    parts = draw_axes(x_axis, y_axis, x_label, y_label, second)
    row, place, grey, longest = TOP + 12, -1, False, 0  # row: of the legend
    for line in lines:
        place += line.style in ("plain", "dots")
        colour, stroke = stroke_of(line, max(place, 0))
        parts += draw_line(line, x_axis, y_axis, stroke, colour, points)
        if line.style != "grey" or not grey:
            sample = polyline(f"{RIGHT + 10},{row} {RIGHT + 38},{row}", stroke)
            if line.style == "dots":
                sample = f'<circle cx="{RIGHT + 24}" cy="{row}" r="5" fill="{colour}"/>'
            parts.append(sample)
            parts.append(text(RIGHT + 44, row + 4, line.name, "start"))
            row, longest = row + 20, max(longest, len(line.name))
        grey = grey or line.style == "grey"
    if mark:
        x, y, words = x_axis.place(mark[0]), y_axis.place(mark[1]), mark[2]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#000"/>')
        parts.append(text(x, y - 12, words, more='font-weight="bold"'))
    width = max(780, round(RIGHT + 70 + 7.5 * longest))
    height = max(BOTTOM + 66, row)
    return svg(parts, width, height, f"{y_label} against {x_label}")

def token_axis(most):
    """(the unit of an axis that goes up to so many tokens, its label)."""
    if most >= 2e6:
        return 1e6, "training tokens (millions)"
    return 1e3, "training tokens (thousands)"
