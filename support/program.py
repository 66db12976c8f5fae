"""How every program of the project begins and ends, whatever surrounds it.

    import support.program                    first of all: then Ctrl-C prints no traceback
    if __name__ == "__main__":
        support.program.run(main)

A student closes the terminal, pipes into `head`, presses Ctrl-C, mistypes an option: the answer is
one sentence and an exit status, never a traceback. A traceback is for a mistake in the code.
"""
import os, sys

def report_uncaught(kind, error, where):
    """sys.excepthook: Ctrl-C while torch is still being imported is one line too."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, where)
    try:
        print("\nStopped.", file=sys.stderr)
    except OSError:
        pass

def report_dropped(what):
    """sys.unraisablehook: Ctrl-C that meets a callback, where Python prints it and goes on."""
    if not issubclass(what.exc_type, KeyboardInterrupt):
        return sys.__unraisablehook__(what)
    report_uncaught(what.exc_type, None, None)
    os._exit(130)  # (nothing is lost: files are whole or absent)

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# Of our own programs alone: a stranger's that imports a chapter keeps its own hooks, and so does
# what is installed in a .venv inside the project (Jupyter's kernel, say, must outlive a Ctrl-C).
PROGRAM = os.path.realpath(sys.argv[0] or ".")
INSTALLED = PROGRAM.startswith(os.path.realpath(sys.prefix) + os.sep)
IS_OURS = PROGRAM.startswith(ROOT + os.sep) and not INSTALLED
sys.excepthook = report_uncaught if IS_OURS else sys.excepthook
sys.unraisablehook = report_dropped if IS_OURS else sys.unraisablehook

# Only now what takes a tenth of a second to import, in which somebody may press Ctrl-C already.
import argparse, contextlib, errno
from pathlib import Path

from support.files import InputError, printable

class Parser(argparse.ArgumentParser):
    """argparse without abbreviations (--restar is a mistake), and with errors of one line."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message):
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

def one_line(message):
    """A message as one line that can do no harm to a terminal."""
    return printable(" ".join(str(message).split()))

def is_terminal(stream):
    """Whether bars can be drawn on a stream. IDLE says that it is a terminal, and is none."""
    stream = getattr(stream, "stream", stream)  # what an Unbreakable one stands for
    if stream is None or type(stream).__module__.startswith("idlelib"):
        return False
    return stream.isatty() and os.environ.get("TERM") != "dumb"

class Unbreakable:
    """A stream whose reader may leave: after `| head -1` the work goes on, unheard."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self):
        self.attempt(self.stream.flush)

    def attempt(self, action, *what):
        try:
            action(*what)
        except OSError as error:
            # Whatever is written from here on, and what waits in the buffer, goes nowhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
            # (Windows calls a pipe without a reader an invalid argument.)
            if error.errno not in (errno.EPIPE, errno.EINVAL):
                raise OSError(f"cannot write the output: {error.strerror}") from None

def open_streams():
    """Give the program its three streams back if it was started with some of them closed.

    Else the next file that is opened gets the number of a stream, and is written into by prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))

def last_words(sentence):
    """Print it on stderr; where that cannot be, the exit status must do."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr)

def run(main):
    """Call main() and end the program with its exit status, 0 if it returns None.

    Status 2, after one sentence: the user's mistake, a file or disk that fails, or a loss that is
    no number. 130: Ctrl-C.
    """
    open_streams()
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            # A console that lacks a character shows an escape, and is no reason to stop.
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = map(Unbreakable, streams)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt as stop:  # raised anew, perhaps, with advice on how to go on
        last_words(f"\nStopped. {stop}".rstrip())
        status = 130
    except (InputError, OSError, FloatingPointError) as error:
        if getattr(error, "filename", None):  # the system's own words: [Errno 17] File exists: 'f'
            error = f"cannot use {error.filename}: {error.strerror}; choose another place"
        last_words(f"{Path(sys.argv[0]).name}: {one_line(error)}")
        status = 2
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams
    sys.exit(status or 0)

CGROUP = Path("/sys/fs/cgroup")  # where Linux tells a container what it may use

def cores():
    """How many cores this process may use, at least 1: perhaps not all that the machine has."""
    n = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        n = len(os.sched_getaffinity(0))
    # A container's share of time: so many microseconds of computing in each period of so many, in
    # one file ("max 100000" if there is no limit) or, in older systems, two (-1 if there is none).
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
            words = " ".join((CGROUP / name).read_text(encoding="ascii") for name in names)
            quota, period = map(int, words.split())
            if quota > 0:
                n = min(n, quota // period)
    return max(1, n)
