"""The documents that a study trains on and is measured on, wherever they are from."""
import os, sys

from data.download import load
from data.stories import first_stories
from support.files import need, printable, read_documents

def read_texts(config):
    """({"train": documents, "valid": documents}, {what is known of where they are from}).

    config: any object with the settings corpus, train_file, valid_file, train_stories,
    valid_stories and tokenizer_stories. Of the training text there is enough for training and for
    the tokenizer. InputError if a text cannot be what it is asked to be.
    """
    n_train = max(config.train_stories, config.tokenizer_stories)
    files = {}
    if config.train_file:
        documents = read_files(config, n_train)
        source = printable(", ".join(config.train_file))
    elif config.corpus == "embedded":
        documents = {"train": first_stories("train", n_train),
                     "valid": first_stories("valid", config.valid_stories)}
        source = "the project's own stories"
    else:
        documents, files = load(config.corpus)
        source = config.corpus
    documents = {"train": documents["train"][:n_train],
                 "valid": documents["valid"][: config.valid_stories]}
    trained_on = documents["train"][: config.train_stories]
    need(not set(documents["valid"]) <= set(trained_on),
         "all of the validation text stands in the training text too; give another one")
    notes = unchecked(files) + too_few(documents, train=n_train, valid=config.valid_stories)
    for note in notes:
        print("note:", printable(note), file=sys.stderr)
    return documents, {"text": source, "files": files, "notes": notes}

def read_files(config, n_train):
    """{"train": documents, "valid": documents} of the user's own files."""
    documents = {"train": [], "valid": []}
    for path in config.train_file:
        documents["train"] += read_documents(path, n_train)
    for path in config.valid_file:
        documents["valid"] += read_documents(path, config.valid_stories)
        # By the file, not by its name: there are links, and more than one way to a folder.
        for other in config.train_file:
            need(not os.path.samefile(path, other),
                 f"{path} is both training and validation text; name two files")
    return documents

def unchecked(files):
    """A note for each downloaded file of which no sum has confirmed that it is the right one."""
    return [f"{name} could not be checked: no sum of its right content is known"
            for name, facts in files.items() if not facts.get("checked")]

def too_few(documents, **wanted):
    """A note for each part that has fewer documents than were asked for: it is no error, but one
    document where many were meant is how a wrong separator shows."""
    notes = []
    for name, n in wanted.items():
        found = len(documents[name])
        if found < n:
            notes.append(f"the {name} text has fewer stories than were asked for: {found}, not {n}")
    return notes
