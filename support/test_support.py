"""What must hold of support/: `python test_all.py support` runs these.

Files, programs and terminals as they are elsewhere: full disks, closed streams, small containers.
"""
import contextlib, io, math, multiprocessing, os, re, subprocess, sys, time
import xml.etree.ElementTree
from unittest.mock import Mock, patch

import numpy as np

import run_all, telemetry
from support import figures, files, page, program, workers
from support.progress import Bars, can_draw
from support.tables import read_table
from test_all import HERE, command, folder, refused, run_folder, said, table_file

def test_support_a_file_is_whole_or_absent():
    """A full disk, or Ctrl-C, in the middle of writing leaves the old file and nothing else; what
    a killed process left is swept away, what a living one writes is not."""
    at = folder()
    files.write_whole(at / "a.txt", "old")
    for error in (OSError(28, "No space left"), KeyboardInterrupt()):
        with patch.object(os, "fsync", side_effect=error), \
                contextlib.suppress(OSError, KeyboardInterrupt):
            files.write_whole(at / "a.txt", "new")
        assert os.listdir(at) == ["a.txt"] and (at / "a.txt").read_text() == "old"
    _, sentence = said(files.write_whole, at, "x")
    assert "not an ordinary file" in sentence
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    temporary = {}
    for process in (dead.pid, os.getpid()):
        with patch.object(os, "getpid", return_value=process):
            temporary[process] = files.temporary_name(at / "a.txt")
        temporary[process].write_text("half")
    with patch.object(files, "this_host", return_value="01234567"), patch.object(
            os, "getpid", return_value=dead.pid):
        elsewhere = files.temporary_name(at / "a.txt")  # another machine's, who knows how it is
    elsewhere.write_text("half")
    files.sweep(at)
    assert set(at.iterdir()) == {at / "a.txt", temporary[os.getpid()], elsewhere}

def test_support_only_code_counts_as_an_edit():
    """Comments, blank lines and line ends do not change the sum of a file; code and strings do."""
    path = folder() / "a.py"

    def sum_of(source):
        path.write_bytes(source)
        return files.code_sha256(path)

    text = b'y = f"""# no {x} comment  \n\n"""\n'  # a comment, spaces, a blank line in a string
    plain = sum_of(b"x = 1\n" + text)
    assert plain == sum_of(b"# why\r\nx = 1  # one\r\n\r\n" + text.replace(b"\n", b"\r\n"))
    for edited in (b"x = 2\n" + text, b"x = 1\n" + text.replace(b"no", b"a"), b"x = (1\n",
                   b"x = 1\n" + text.replace(b"  \n", b"\n"),
                   b"x = 1\n" + text.replace(b"\n\n", b"\n")):
        assert sum_of(edited) != plain, edited

def test_support_tables_and_documents_are_read_or_refused():
    """csv: the row with the mistake is named, other separators are told; documents are separated
    by lines of <|endoftext|>, and one that does not stand alone is named with its line."""
    rows = [["a", 0.1], [math.nan, 1e300]]
    path = folder() / "t.csv"
    files.write_csv(path, ["x", "y"], rows)
    assert files.read_rows(path) == [(1, ["x", "y"]), (2, ["a", "0.1"]), (3, ["", "1e+300"])]
    for content, *words in (('a,b\n1,"2\n', "line 2"), ("seed;val\n", "semicolons"),
                            ("seed\tval\n", "tabs"), (b"a\nb\n\xff", "line 3", "UTF-8")):
        refused(lambda: files.read_rows(table_file(content)), *words)
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n<|endoftext|>\r\n\n<|endoftext|>\nthree")
    assert files.read_documents(path) == ["one\ntwo", "three"]
    assert files.read_documents(path, 1) == ["one\ntwo"]
    for content, *words in (("", "no text"), (b"a\xff", "not UTF-8"),
                            ("a\nthe door.<|endoftext|>\nb", "line 2", "alone")):
        refused(lambda: files.read_documents(table_file(content)), "t.csv", *words)
    for absent in (path.parent, path.with_name("none.txt")):
        refused(lambda: files.read_documents(absent), "cannot read", absent.name)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')  # some editors begin a file with such a mark
    assert files.read_json(path) == {"a": 1}
    for damaged in ("{", "[" * 10**5, "9" * 5000):  # (Python refuses such a number)
        refused(lambda: files.read_json(table_file(damaged)), "damaged")

def test_support_programs_survive_their_surroundings():
    """Closed streams, a reader that leaves, a narrow encoding, a full disk, Ctrl-C: the work is
    done or one sentence says what failed, the exit status tells, and there is no traceback."""
    body = ("import support.program as p\ndef main():\n    {}\n    print('\\u2588' * 9)\n"
            "    open({!r}, 'a').write('x')\np.run(main)")
    work = folder() / "work"

    def start(line="pass", **more):
        code = body.format(line, str(work))
        return subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True,
                              encoding="utf-8", env={**os.environ, **more})

    assert start(PYTHONIOENCODING="ascii").stdout == "\\u2588" * 9 + "\n"
    for line, status, sentence in (
            ("raise OSError('no\\x1b[2J room')", 2, "no\\x1b[2J room"),
            ("raise KeyboardInterrupt", 130, "Stopped."),
            ("raise FloatingPointError('nan at step 2')", 2, "nan at step 2"),
            ("p.Parser().parse_args(['--hel', '\\x07'])", 2, "unrecognized")):
        done = start(line)
        assert done.returncode == status and sentence in done.stderr, done
        assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
    program = [sys.executable, "-c", body.format("pass", str(work))]
    left = subprocess.Popen(program, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    left.stdout.close()  # as `| head` does
    assert left.stderr.read() == b"" and left.wait() == 0
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run([sys.executable, "-c", body.format("pass", os.devnull)], cwd=HERE,
                                  stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2 and b"cannot write the output: No space" in done.stderr, done
    if os.name == "posix":
        for streams in (">&-", "2>&-", ">&- 2>&- <&-"):
            shell = subprocess.run(["/bin/sh", "-c", f'"$0" "$@" {streams}', *program],
                                   cwd=HERE, stdout=subprocess.DEVNULL)
            assert shell.returncode == 0
    assert work.read_text() == "x" * (2 + (3 if os.name == "posix" else 0))

def test_support_ctrl_c_is_never_a_traceback():
    """While a program of ours still imports, and inside a callback, where Python would print it and
    go on: "Stopped." and the end. Other errors, and other people's programs, are left alone."""
    dropped = "class A:\n    def __del__(self): raise {}\nA()\nprint('went on')"
    for line, status, expected in (
            ("raise KeyboardInterrupt", (130, -2), "\nStopped.\n"),
            (dropped.format("KeyboardInterrupt"), (130,), "\nStopped.\n"),
            (dropped.format("KeyError"), (0,), "Exception ignored"), ("1 / 0", (1,), "Traceback")):
        code = f"import support.program\n{line}"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True,
                              encoding="utf-8")
        assert done.returncode in status and expected in done.stderr, done
        assert (done.stdout == "went on\n") == (status == (0,))
        assert ("Traceback" in done.stderr) == ("Stopped" not in done.stderr)
    hooks = "import sys, support.program\nprint(sys.excepthook is sys.__excepthook__)"
    stranger = subprocess.run([sys.executable, "-c", hooks], cwd=folder(), capture_output=True,
                              env={**os.environ, "PYTHONPATH": str(HERE)})
    assert stranger.stdout.strip() == b"True", stranger
    venv = "import sys\nsys.prefix = '.venv'\nsys.argv[0] = '.venv/bin/jupyter'\n"
    installed = subprocess.run([sys.executable, "-c", venv + hooks], cwd=HERE, capture_output=True)
    assert installed.stdout.strip() == b"True", installed

def test_support_figures_are_whole_and_point_the_right_way():
    """Every figure is well-formed XML, also of missing values, flat lines and 40 grey ones; what
    rises goes right and up; ticks are round; a point tells its numbers."""
    x = np.arange(1.0, 31)
    grey = [figures.Line(f"seed {i}", x, np.sin(x + i), "grey") for i in range(40)]
    missing = figures.Line("mean <all>", x, x * np.nan, "bold")
    flat = figures.Line("flat", x, np.ones(30), "dots")
    up = figures.Line("up", x, x**2)
    gap = figures.Line("gap", x, np.where(x == 9, np.nan, x), "dots")
    for drawing in (figures.line_chart([*grey, missing], "x", "y & z"),
                    figures.line_chart([flat], "x", "y", ("epochs", 2.5), log_y=True),
                    figures.line_chart([up, missing], "x", "y", log_x=True, mark=(3, 4, "<"))):
        root = xml.etree.ElementTree.fromstring(drawing)
        assert root.tag.endswith("svg") and not re.search(r"\bnan\b", drawing)
    assert f'stroke="{figures.COLOURS[0]}"' not in figures.line_chart([gap], "x", "y")  # no line
    drawing = figures.line_chart([up], "x", "y", points=True)
    points = re.search(f'points="([^"]*)" stroke="{figures.COLOURS[0]}"', drawing)[1].split()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in (points[0], points[-1]))
    assert x1 > x0 and y1 < y0  # in SVG y grows downwards
    assert "<title>up: 900 at 30</title>" in drawing
    # Where numbers stand on logarithmic axes: 1, 10 and 100 at equal distances; nan cuts a line.
    powers = figures.Line("p", 10.0 ** np.arange(5), np.array([1, 10, np.nan, 1000, 1e4]))
    drawing = figures.line_chart([powers], "x", "y", log_x=True, log_y=True, mark=(10, 10, "here"))
    pieces = re.findall(f'points="([^"]*)" stroke="{figures.COLOURS[0]}"', drawing)[:2]
    places = [float(n) for piece in pieces for n in re.split("[ ,]", piece)]
    x, y = np.diff(places[::2]), np.diff(places[1::2])
    assert len(pieces) == 2 and np.ptp(x / [1, 2, 1]) < 0.2 and np.ptp(y / [1, 2, 1]) < 0.2, places
    assert f'<circle cx="{places[2]}" cy="{places[3]}" r="6"' in drawing
    assert (places[0], places[-2]) == (figures.LEFT, figures.RIGHT), places
    # Epochs stand at their own places: 2 epochs of 5 tokens each are where 10 tokens are.
    drawing = figures.line_chart([up], "x", "y", ("epochs", 0.2))
    place = {n: re.search(f'<text x="([^"]*)" y="{y}"[^>]*>{n}<', drawing)[1]
             for n, y in ((10, "339.0"), (2, "356.0"))}
    assert place[10] == place[2]
    assert figures.ticks(0, 10) == [0, 2, 4, 6, 8, 10]

def test_support_pages_show_numbers_as_people_write_them():
    """Three digits, no exponents of a computer, p never with digits below .001; whatever a model
    wrote stands escaped."""
    numbers = [page.number(x) for x in (0.47493, 1234.5, 12, 1.07e-11, 9.999, math.nan, 0.0)]
    assert numbers == ["0.475", "1,234", "12", "1.07 × 10⁻¹¹", "10.0", "–", "0"]
    assert "<td class=n>1,234</td>" in page.table(["losses"], [[1234.5]])
    assert [page.p_text(p) for p in (0.5412, 0.0142, 3e-9, 1.0, math.nan)] == [
        "p = .54", "p = .014", "p < .001", "p > .99", "p undefined"]
    path = folder() / "a.html"
    page.write_page(path, "a < b", {"One": page.paragraphs("<b>\x1b"), "None": ""})
    text = path.read_text(encoding="utf-8")
    assert page.escape("95 % <") == "95\N{NO-BREAK SPACE}% &lt;"
    assert "&lt;b&gt;\\x1b" in text and "None" not in text and "<h1>a &lt; b</h1>" in text

def test_support_uses_as_many_cores_as_a_container_may():
    """The quota of either version of cgroups, rounded down, but at least one core."""
    here = folder()
    (here / "cpu").mkdir()
    with patch.object(program, "CGROUP", here), patch.object(
            os, "sched_getaffinity", lambda _: range(8), create=True):
        for name, content, expected in (
                ("cpu.max", "max 100000", 8), ("cpu.max", "50000 100000", 1),
                ("cpu.max", "350000 100000\n", 3), ("cpu.max", "9900000 100000", 8),
                ("cpu.max", "", 8), ("cpu/cpu.cfs_quota_us", "-1\n", 8),
                ("cpu/cpu.cfs_quota_us", "400000\n", 4)):
            (here / name).write_text(content)
            (here / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
            assert program.cores() == expected, (name, content)

class Terminal(io.StringIO):
    """What a terminal is to Bars; screen() gives its lines after all that was written."""
    encoding, isatty = "utf-8", lambda self: True

    def screen(self):
        lines, at = {}, 0
        for up, words in re.findall(r"(?:\x1b\[(\d+)F)?\x1b\[K(.*)\n", self.getvalue()):
            at += 1 - int(up or 0)
            lines[at] = words
        return list(lines.values())

@contextlib.contextmanager
def a_terminal(columns, rows, **environment):
    """Yields (what a terminal of this size shows, its clock)."""
    screen, clock = Terminal(), Mock(return_value=0.0)
    with patch.object(sys, "stdout", screen), patch.object(time, "monotonic", clock), \
            patch.dict(os.environ, COLUMNS=str(columns), LINES=str(rows), TERM="xterm"):
        yield screen, clock

def test_support_draws_one_bar_for_each_seed():
    """On a terminal each running seed has one line, drawn anew in its place, never too long; one
    that is done stays above, whole, with its last loss. What is left is told from the speed."""
    for columns in 30, 120:
        with a_terminal(columns, 24) as (screen, clock):
            bars = Bars(768)
            for seed, tokens, loss in (
                    (202, 256, None), (101, 64, None), (101, 256, 2.5), (101, 768, 1.5),
                    (303, 0, 5.25), (202, 512, None), (303, 256, None)):
                bars.show(f"seed {seed}", tokens, loss)
                clock.return_value += 0.5
        lines = screen.screen()
        assert [line[:8] for line in lines] == ["seed 101", "seed 202", "seed 303"], lines
        assert max(map(len, lines)) < columns and "░" not in lines[0]
        share = lines[1].count("█") / sum(map(lines[1].count, "█░"))
        assert abs(share - 2 / 3) < (0.1 if columns == 30 else 0.02), share
    for line, words in zip(lines, ("loss 1.500   0:00:00 left", "loss nan   0:00:03 left      85",
                                   "loss 5.250   0:00:02 left     256")):
        assert words in line, line

def test_support_draws_no_more_bars_than_the_screen_has_rows():
    """Of more seeds than rows the first are drawn; what moves up again never leaves the screen. A
    stream of IDLE and a dumb terminal get plain lines."""
    with a_terminal(80, 6) as (screen, _):
        bars = Bars(768)
        for tokens in (0, 256, 512):
            for seed in range(10):
                bars.show(f"seed {seed}", tokens)
        bars.show("seed 9", 768, 1.0)
    assert max(map(int, re.findall(r"\x1b\[(\d+)F", screen.getvalue()))) == 4
    assert [line[:6] for line in screen.screen()] == ["seed 9", "seed 0", "seed 1", "seed 2"]
    idle = type("StdOutputFile", (Terminal,), {"__module__": "idlelib.run"})
    xterm = Terminal()
    for other, term in ((xterm, "xterm"), (idle(), "xterm"), (Terminal(), "dumb")):
        with patch.dict(os.environ, TERM=term):
            assert can_draw(other) == (other is xterm)

def test_support_table_of_seeds_by_intervals():
    """Order, labels, gaps and extra columns do not matter; what cannot be read is one sentence."""
    head, rows = "seed,val_loss,interval,junk\n", [f"{row},z\n" for row in (
        "10,1.5,0 10.0,2,1 10,3,5 9,4,5 9,1e0,1 9,0,0 7,1,0 7,NaN,1 7,2,5 7,NA,2 9,nan,2").split()]
    for text in (head + "".join(rows), "\ufeff" + head + "".join(rows[::-1]) + "\n,,,\n"):
        Y, seeds, intervals, notes = read_table(table_file(text))
        assert (Y.tolist(), seeds, intervals) == ([[0, 1, 4], [1.5, 2, 3]], [9, 10], [0, 1, 5])
        assert len(notes) == 2 and "interval 2" in notes[0] and "seed 7" in notes[1]
    ok = "seed,interval,val_loss\n1,0,1\n1,1,2\n2,0,3\n"
    for text, *words in (
            ("", "empty"), (ok + "2,1,inf\n", "line 5", "val_loss"), (ok + "2,1,x\n", "'x'"),
            (ok + "2,0,3\n", "line 5", "line 4"), (ok + "2,1\n", "line 5"), (b"\xff\xfe", "UTF-8"),
            (ok + "2,,4\n", "interval"), (ok + ",1,4\n", "column seed"), (ok, "seed 2"),
            (ok + "NA,1,4\n", "line 5", "seed"), (ok + "2,NA,4\n", "line 5", "interval"),
            (ok[:23], "no row"), ("seed," + ok, "once each"),
            ("a,b\n", "seed, interval, val_loss", "a, b"),
            (ok + "2,1,1_0", "1_0"), (ok[:35], "fewer than 2", "add some"),
            (ok + "2,1,\x00\n", "line 5"), (ok + "2,1," + "9" * 200000, "line 5"),
            (ok.replace(",", ";"), "semicolons"), (ok.replace(",", "\t"), "tabs")):
        path = table_file(text)
        out, status = command("stats.py", path)
        assert status == 2 and out.count("\n") == 1, out
        assert all(word in out.replace(str(path), "PATH") for word in words), out
    for path in (HERE, HERE / "absent.csv"):
        refused(lambda: read_table(path), "cannot read")

def test_support_damaged_runs_are_one_sentence():
    """Of files that cannot be, the sentence names the file or the column."""
    at = run_folder(folder(), telemetry.published_run().loss)
    table, config, windows = (at / name for name in (
        "metrics.csv", "config.json", "seed_101/val_windows.npy"))
    right = {path: path.read_text(encoding="utf-8") for path in (table, config)}
    for path, old, new, *words in (
            (config, right[config], "[1]", "damaged"), (config, right[config], "{", "damaged"),
            (config, right[config], '{"seeds": 3}', "damaged"),
            (table, ",1001472", ",inf", "tokens_seen"), (table, "tokens_seen", "x", "tokens_seen"),
            (table, "101,1,1001472", "101,1,1001473", "alike"),
            (table, ",1001472", ",0", "tokens_seen"), (table, "101,3,", "101,2,", "twice"),
            (table, "101,3,", "101,3.5,", "whole"), (table, "2.8", "x", "val_loss"),
            (table, ",val_loss", ",x", "val_loss")):
        path.write_text(right[path].replace(old, new), encoding="utf-8")
        refused(lambda: telemetry.write_report(at), path.name, *words)
        path.write_text(right[path], encoding="utf-8")
    np.save(at / "zeros.npy", np.zeros((21, 9)))
    for content in ((at / "zeros.npy").read_bytes(), b"nothing of the kind"):
        windows.write_bytes(content)
        refused(lambda: telemetry.write_report(at), "val_windows.npy")
    windows.unlink()
    samples = at / "samples.json"
    for content in ("[]", '{"best": 5}', '{"best": {}}'):
        samples.write_text(content, encoding="utf-8")
        refused(lambda: telemetry.write_report(at), "samples.json is damaged")
    samples.unlink()
    # What is missing altogether is nan, and a report can do without.
    table.write_text(right[table].replace("epochs", "x"), encoding="utf-8")
    assert "after – epochs" in telemetry.write_report(at)[0]
    table.write_text(right[table], encoding="utf-8")
    config.unlink()
    refused(lambda: telemetry.write_report(at), "no config.json")
    refused(lambda: telemetry.write_report(at / "figures"), "metrics.csv")

def test_support_knows_whether_a_process_can_be_started():
    """A new process finds the function of a main program, but not where __main__ has lost its
    __spec__, as a debugger and a second %run leave it."""
    main = sys.modules["__main__"]
    with patch.dict(vars(main), __file__=__file__, worker=run_all.worker), patch.object(
            run_all.worker, "__module__", "__main__"):
        assert workers.can_spawn(run_all.worker)
        del main.__spec__
        assert not workers.can_spawn(run_all.worker)

def test_support_hears_of_a_worker_that_dies_early():
    """A worker that ends before it has touched its pipe is heard of, even if the pipe stays open,
    as it does on Windows."""
    pipe = multiprocessing.get_context("spawn").Pipe
    receiver, sender = pipe(duplex=False)
    sentinel, alive = pipe(duplex=False)  # (stands for that by which one waits for a process)
    alive.close()
    running = {receiver: (101, Mock(sentinel=sentinel))}
    assert workers.hear(running) == [(receiver, None)]
    sender.send("a sentence")
    assert workers.hear(running) == [(receiver, "a sentence")]
