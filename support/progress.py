"""Bars that show how far several things have come, redrawn in their places on a terminal."""
import math, os, shutil, time

from support.program import is_terminal

def can_draw(stream):
    """Whether bars can be drawn on a stream: a terminal, and one that has their characters."""
    blocks = "█░".encode(stream.encoding or "ascii", errors="replace")
    return is_terminal(stream) and b"?" not in blocks

class Bars:
    """A bar for each thing that is on its way to `total` tokens; what is done stays above."""

    def __init__(self, total):
        self.total = total
        self.running = {}  # name -> [tokens and time at its first news, tokens now, last loss]
        self.n_lines = 0  # drawn last time, and to be drawn over
        if os.name == "nt":
            os.system("")  # makes an older Windows console obey the codes below

    def show(self, name, tokens, loss=None):
        """News of one thing: how many tokens it has come, and a loss if it has just measured. With
        the loss at the end it is done."""
        bar = self.running.setdefault(name, [tokens, time.monotonic(), tokens, math.nan])
        bar[2] = tokens
        if loss is not None:
            bar[3] = loss
        # The bar of what is done goes above the others, and stays there.
        done = loss is not None and tokens == self.total
        order = sorted(self.running, key=lambda other: not (done and other == name))
        # More lines than the screen has rows would scroll away and could not be drawn over.
        columns, rows = shutil.get_terminal_size()
        lines = [self.line(other, columns - 1) for other in order[: max(1, rows - 2)]]
        up = f"\x1b[{self.n_lines}F" if self.n_lines else ""  # back to the first line drawn
        print(up + "".join(f"\x1b[K{line}\n" for line in lines), end="", flush=True)
        self.n_lines = len(lines) - done
        if done:
            del self.running[name]

    def line(self, name, width):
        """One bar: how far, the loss, the time left, the speed."""
        first, since, tokens, loss = self.running[name]
        speed = (tokens - first) / max(time.monotonic() - since, 1e-9)
        left = (self.total - tokens) / speed if speed else 0
        words = (f"loss {loss:.3f} {left // 3600:3.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f} "
                 f"left {speed:7,.0f} tokens/s")
        # What the words leave free is the bar's, full up to where it has come.
        n = max(5, min(40, width - len(words) - max(10, len(name)) - 2))
        full = round(n * tokens / self.total)
        return f"{name:10s} {'█' * full}{'░' * (n - full)} {words}"[:width]
