"""Files that are whole or absent, tables, documents: what all chapters write and read through.

A program can be killed at any moment, and a user's file can hold anything. So whatever is written
here is there whole or not at all, and whatever cannot be read is one sentence, an InputError.
"""
import contextlib, csv, hashlib, io, json, math, os, platform, re, secrets, tokenize, unicodedata
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"  # how a text file separates its documents

class InputError(ValueError):
    """The user's text, file or setting is wrong. The message says what, where, and what to do."""

def need(condition, sentence):
    """Raise InputError(sentence) unless the condition holds."""
    if not condition:
        raise InputError(sentence)

def printable(text):
    """`text` with control characters as escapes (line ends stay), for terminals and pages."""
    shown = []
    for character in text:
        # Cc: control characters, which can move a cursor or clear a screen; Cs: half a character.
        if unicodedata.category(character) in ("Cc", "Cs") and character != "\n":
            character = character.encode("unicode_escape").decode("ascii")
        shown.append(character)
    return "".join(shown)

# ---------------------------------------------------------------- writing

def this_host():
    """Eight letters for this machine: several may write into one folder that all see."""
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]

def temporary_name(path):
    """A name beside `path` that nobody else uses; it tells machine and process (for sweep)."""
    maker = f"{this_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.parent / f".{path.name[:100]}.{maker}.tmp"

def write_whole(path, content, keep=None):
    """Write str or bytes so that at every moment there is the old file, whole, or the new one.

    keep: a name under which the old one stays (then `path` is absent for an instant). Raises
    OSError with a sentence for the user.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8", errors="replace")
    temporary = temporary_name(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError(None, "it is not an ordinary file")
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name: a power cut may come between
        if keep:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, keep)
        os.replace(temporary, path)  # renaming is one indivisible step
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; make room or choose another place "
                      "and give the same command again") from None
    finally:  # after an error, and after Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

def sweep(folder):
    """Remove the temporary files below `folder` whose process, of this machine, lives no more."""
    for path in Path(folder).rglob(".*.tmp"):
        if is_abandoned(path):
            with contextlib.suppress(OSError):
                path.unlink()

def is_abandoned(path):
    """Whether a file has a `temporary_name` of this machine, of a process that lives no more."""
    pattern = r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp$"
    its = re.search(pattern, path.name)
    return bool(its) and its[1] == this_host() and not is_alive(int(its[2]))

def is_alive(process):
    """Whether a process of this machine still runs (on Windows: whether it is this one)."""
    if os.name == "nt":  # there a file that somebody has open cannot be removed anyway
        return process == os.getpid()
    try:
        os.kill(process, 0)  # signal 0 sends nothing, it only asks
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's, but alive
    return True

def write_csv(path, header, rows):
    """A csv file, by write_whole; floats with every digit they have, nan as an empty cell."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = []
        for cell in row:
            undefined = not isinstance(cell, str) and math.isnan(cell)
            cells.append("" if undefined else cell)
        writer.writerow(cells)
    write_whole(path, table.getvalue())

# ---------------------------------------------------------------- reading

def read_text(path):
    """The whole of a UTF-8 file; a byte order mark is skipped. InputError names the bad line."""
    try:
        content = Path(path).read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}, is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be a name
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None

def read_rows(path):
    """[(line number, [cell, ...])] of a csv file without blank rows; InputError if it is none."""
    rows = []
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; mend it there") from None
    if rows and len(rows[0][1]) == 1:
        for sign, name in ((";", "semicolons"), ("\t", "tabs")):
            need(sign not in rows[0][1][0],
                 f"{path} is separated by {name}; save it with commas")
    return rows

def read_records(path):
    """The rows of a csv file as dicts: column -> text. InputError if it cannot be read."""
    rows = read_rows(path)
    header = rows[0][1] if rows else []
    return [dict(zip(header, cells)) for _, cells in rows[1:]]

def read_json(path):
    """What a JSON file holds. InputError if it cannot be read."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{path} is damaged: too deep") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise InputError(f"{path} is damaged: {error}") from None

def read_documents(path, limit=None):
    """The first `limit` documents of a UTF-8 text file, separated by lines of <|endoftext|>.

    Reads no further than it must. InputError if the file is missing, empty or not UTF-8, or if a
    separator does not stand alone on its line: what was meant to be many would be one document.
    """
    documents, lines = [], []
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip() != END_OF_TEXT:
                    need(END_OF_TEXT not in line, f"{path}, line {number}: {END_OF_TEXT} must "
                         "stand alone on its line; put what is beside it on other lines")
                    lines.append(line)
                    continue
                add_document(documents, lines)
                lines = []
                if len(documents) == limit:
                    break
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text after document {len(documents)}; save it as "
                         "UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    add_document(documents, lines)  # the last one needs no separator
    need(documents, f"{path} holds no text; give a file with at least one story")
    return documents

def add_document(documents, lines):
    """Append what the lines make, unless that is nothing."""
    document = "".join(lines).strip()
    if document:
        documents.append(document)

# ---------------------------------------------------------------- which code this is

def code_sha256(path):
    """sha256 of a Python file's code: comments, blank lines and line ends do not count."""
    source = Path(path).read_bytes().decode("utf-8-sig", errors="replace")
    return hashlib.sha256(code_text(source).encode("utf-8")).hexdigest()

def code_text(source):
    """Python source without comments and blank lines.

    The same under every version of Python: tokens would not do, since from 3.12 on an f-string is
    several; but all agree where comments stand. (ast.unparse changes with the version too.)
    """
    source = source.replace("\r\n", "\n")
    comment_at, open_rows = {}, set()  # row -> column of its comment; rows that end inside a string
    with contextlib.suppress(SyntaxError, tokenize.TokenError):  # half edited: the rest counts
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                comment_at[token.start[0]] = token.start[1]
            elif token.type not in (tokenize.NL, tokenize.NEWLINE):
                open_rows.update(range(token.start[0], token.end[0]))
    kept = []
    for row, line in enumerate(source.split("\n"), 1):
        line = line[: comment_at.get(row)]
        if row not in open_rows:
            line = line.rstrip()
        if line or row in open_rows:
            kept.append(line)
    return "\n".join(kept)
