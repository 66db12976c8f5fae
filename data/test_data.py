"""What must hold of data/: `python test_all.py data` runs these, against a server of their own.
"""
import contextlib, hashlib, io, itertools, json, os, random, re, shutil, socketserver
import subprocess, sys, threading, time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from data import download, stories, texts
from support.files import InputError
from test_all import HERE, SMOKE, command, folder, refused, said

@contextlib.contextmanager
def a_server(body, refuse=(), ranges=True, cuts=0, kind="text/plain", hang=0):
    """Serve `body` on 127.0.0.1: yields (its url, a path to fetch to, the ranges asked for).

    refuse: status of the first answers; cuts: so many end after 90,000 bytes and `hang` seconds."""
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            request = b"".join(iter(self.rfile.readline, b"\r\n")).decode()
            asked.append(re.search("bytes=([0-9-]*)", request)[1])
            number, (first, last) = len(asked), map(int, asked[-1].split("-"))
            piece = body[first : last + 1] if ranges else body
            code = 200 if not ranges else 206 if piece else 416
            code = refuse[number - 1] if number <= len(refuse) else code
            head = (f"HTTP/1.0 {code} -\nContent-Length: {len(piece)}\nContent-Type: {kind}\n"
                    f"Content-Range: bytes {first}-{last}/{len(body)}\nRetry-After: 0\n\n")
            self.wfile.write(head.encode() + piece[: 90_000 if number <= cuts else None])
            time.sleep(hang if number <= cuts else 0)
    asked, server = [], socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    with server, contextlib.ExitStack() as end, patch.object(download, "WAIT", 0), \
            patch.dict(os.environ, no_proxy="127.0.0.1"):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        end.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_address[1]}/a.txt", folder() / "a.txt", asked

def fetched(url, path, *more):
    """What fetch returns or its sentence, and which files are there then."""
    try:
        result = said(download.fetch, url, path, *more)[1]
    except InputError as error:
        result = str(error)
    return result, os.listdir(path.parent)

def test_data_stories_are_the_same_everywhere_and_never_come_twice():
    """The first 200 have a known sha256, so every machine trains on the same text; 8,000 of each
    stream, more than a million tokens, are all different, share none and use many words."""
    train, valid = (stories.first_stories(stream, 8000) for stream in ("train", "valid"))
    assert hashlib.sha256("\n".join(train[:200]).encode("utf-8")).hexdigest() == (
        "defd1c56e4e1f299063276af8609c218d2a5dc4c73a447f936f366b1628575c0")
    assert len({*train, *valid}) == 16_000
    words = set(re.findall("[a-z']+", " ".join(train[:5000]).lower()))
    assert len(words) >= 1500, len(words)
    assert stories.tell("[[a|a]b|[a|a]b]", {}, {}, random.Random(1)) == "ab"
    with patch.object(stories, "candidate", side_effect=itertools.cycle("aabbccddeeffgghhii")):
        assert len({*stories.first_stories("train", 3)}) == 3
    assert command("data/stories.py", 2)[0] == "\n<|endoftext|>\n".join(train[:2]) + "\n"

def test_data_a_broken_download_continues_where_it_stopped():
    """Early ends are continued, by the next call too, and what a killed process has left; a living
    one's is not touched. A server that knows no ranges gives the whole again."""
    text = b"0123456789" * 30_000
    with a_server(text, cuts=5) as (url, path, asked):
        Path(f"{path}.part").write_bytes(text[:10])
        sentence, left = fetched(url, path, 500_000)
        assert "not the known 500000" in sentence and left == ["a.txt.part"]
        for _ in range(2):
            result, left = fetched(url, path, 300_000)
        assert (result, left) == (text, ["a.txt"])
        assert asked == ["10-499999"] + [f"{n}-299999" for n in (10, 90_010, 180_010, 270_010)]
    with a_server(text, cuts=1, hang=60) as (url, path, asked):
        code = f"from data.download import fetch; fetch({url!r}, {str(path)!r}, 300_000)"
        other = subprocess.Popen([sys.executable, "-c", code], cwd=HERE)
        while sum(part.stat().st_size for part in path.parent.iterdir()) < 90_000:
            time.sleep(0.01)
        assert download.parts_of_nobody(path) == []
        other.kill()
        other.wait()
        part, = path.parent.iterdir()
        shutil.copy(part, str(part).replace(".tmp", "")[:-8] + "01234567.tmp")  # killed twice
        assert fetched(url, path, 300_000) == (text, ["a.txt"]) and asked[1] == "90000-299999"
    for server, part, requests in (({"ranges": False}, b"stale", 1), ({"refuse": [416]}, b"x", 2),
                                   ({}, text[:100], 0)):  # that has all, and only lacked a look
        with a_server(text, **server) as (url, path, asked):
            Path(f"{path}.part").write_bytes(part)
            assert fetched(url, path, 99) == (text[:99], ["a.txt"]) and len(asked) == requests

def test_data_many_fetch_one_file_at_once():
    """Each gets the whole text, and no part is left; one of them continues an older part."""
    text = random.Random(1).randbytes(300_000)
    with a_server(text, cuts=4, hang=0.2) as (url, path, _), \
            contextlib.redirect_stderr(io.StringIO()):
        Path(f"{path}.part").write_bytes(text[:1000])
        contents = []
        call = lambda: contents.append(download.fetch(url, path, len(text)))
        threads = [threading.Thread(target=call) for _ in range(5)]
        for do in (threading.Thread.start, threading.Thread.join):
            list(map(do, threads))
        assert contents == [text] * 5 and os.listdir(path.parent) == ["a.txt"]

def test_data_every_failure_of_a_download_is_one_clear_sentence():
    """Refusals, web pages, another text, a network or a disk that fails: said, with advice that
    fits, tried again only where that may help, and nothing bad is kept."""
    right = hashlib.sha256(b"right").hexdigest()
    for body, server, expected, requests in (
            (b"right", {"refuse": [404]}, "moved", 1), (b"right", {"refuse": [503]}, b"right", 2),
            (b"right", {"refuse": [429]}, b"right", 2), (b"", {"refuse": [429] * 2}, "wait", 2),
            (b"right", {"kind": "text/html"}, "log in with a browser", 1),
            (b"righ", {}, "has 4 bytes and not the known 5", 1),
            (b"wrong", {}, f"the known one is {right}", 1)):
        with a_server(body, **server) as (url, path, asked):
            path.write_bytes(b"damaged by something")
            result, left = fetched(url, path, 5, right)
            assert expected in result and len(asked) == requests, (expected, result, asked)
            assert left == ["a.txt"] and (path.read_bytes() == b"right") == (result == b"right")
    for reason, expected, requests in (
            ("[SSL: CERTIFICATE_VERIFY_FAILED] x", "clock", 1),
            (download.socket.gaierror(-2, "unknown"), "no network", 1),
            ("unknown url type: https", "ssl", 1), ("Tunnel connection failed", "https_proxy", 1),
            (ConnectionResetError("reset"), "continues, or .*--train_file.*--valid_file", 4)):
        error = download.URLError(reason)
        with a_server(b"") as (url, path, _), patch.object(download, "getproxies", dict), \
                patch.object(download, "urlopen", side_effect=error) as asked:
            result, left = fetched(url, path, 5)
            assert re.search(expected, result) and "<" not in result, result
            assert (asked.call_count, left) == (requests, [])
    with a_server(b"right") as (url, path, asked):
        with patch.object(download, "write", side_effect=OSError(28, "No space left")):
            sentence, left = fetched(url, path, 5)
        assert "left; make room, and the same command continues" in sentence
        assert left == ["a.txt.part"] and len(asked) == 1
        path.mkdir()
        assert "is a folder, where a file should be" in fetched(url, path, 5)[0]
        refused(lambda: download.fetch(url, HERE / "model.py" / "a", 5), "move that away")

def test_data_texts_are_split_into_documents():
    """TinyStories at separators, paragraphs apart, the cut end dropped; Shakespeare 90/5/5; a text
    whose sum nobody knows is called unchecked, on the screen and in the facts."""
    text = ("A caf\u00e9.\nIt shut.\n\nEnd.\n<|endoftext|>\n" * 3 + "A cut \u00e9").encode()[:-1]
    right = hashlib.sha256(text).hexdigest()
    with a_server(text) as (url, path, _), patch.object(download, "DOWNLOADS", path.parent), \
            patch.dict(download.CORPORA, ptb=(url, {"a": (len(text), right)}),
                       tinystories=(url, {"a": (len(text), None)}),
                       tinyshakespeare=(url, {"input": (103, None)})):
        documents, files = said(download.load, "tinystories")[1]
        assert documents == {"a": ["A caf\u00e9.\n\nIt shut.\n\nEnd."] * 3}
        facts = {"bytes": len(text), "sha256": right, "checked": False}
        assert files == {"tinystories/a.txt": facts}
        raw, files = said(download.texts, "ptb")[1]
        assert raw == {"a": text.decode(errors="replace")}
        assert files == {"ptb/a.txt": facts | {"checked": True}}
        plays = said(download.load, "tinyshakespeare")[1][0]
        assert [len(plays[s][0]) for s in ("train", "valid", "test")] == [90, 5, 5]
        refused(lambda: download.load("ptv"), "no corpus 'ptv'")
        with patch.object(sys, "argv", ["download.py", "ptb", "tinystories"]):
            output = said(download.main)[0].splitlines()
        assert ["could not be checked" in line for line in output] == [False, True]
        output, _ = command("data/download.py", "ptv")
        assert "download.py: argument" in output and output.count("\n") == 1

def story_file(*tales, name="stories.txt"):
    path = folder() / name
    path.write_text("\n<|endoftext|>\n".join(tales), "utf-8")
    return str(path)

def test_data_says_what_is_wrong_with_a_text():
    """One file as both texts is refused, by whatever name, and so is a copy. Fewer stories than
    asked for, or a download that could not be checked: said, and kept in config.json. A file's
    name need not be Unicode, config.json is."""
    tales = [f"{n} " + " ".join(stories.first_stories("train", 3)) for n in range(6)]
    one, two = story_file(*tales), story_file(*tales[4:], "Another end.")
    link = folder() / "link.txt"
    os.link(one, link)
    read = lambda a, b, **more: texts.read_texts(replace(
        SMOKE, train_file=[a], valid_file=[b], **more))[1]
    for other in (one, str(link), os.path.join(os.path.dirname(one), ".", "stories.txt")):
        refused(lambda: read(one, other), "both training and validation")
    refused(lambda: read(one, story_file(*tales[4:])), "stands in the training text too")
    refused(lambda: read(one, str(folder() / "none.txt")), "none.txt")
    notes = said(read, one, two)[1]["notes"]
    assert [re.findall(r"train|valid|\d+", note) for note in notes] == [
        ["train", "6", "12"], ["valid", "3", "12"]]
    assert read(one, two, train_stories=6, tokenizer_stories=5, valid_stories=3)["notes"] == []
    with patch.object(texts, "load", return_value=(
            {"train": tales * 2, "valid": ["An end."] * 12}, {"a.txt": {"checked": False}})):
        out, (_, facts) = said(texts.read_texts, replace(SMOKE, corpus="tinystories"))
    assert "a.txt could not be checked" in out and len(facts["notes"]) == 1
    odd = os.fsdecode(os.fsencode(one)[:-4] + b"\xff.txt")
    with contextlib.suppress(OSError, UnicodeError):  # file systems that know Unicode alone
        os.rename(one, odd)
        json.dumps(said(read, odd, two)[1], ensure_ascii=False).encode("utf-8")
