"""Settings that say each thing once: a dataclass whose fields carry meaning and limits.

From its lines come the options, the words of --help and the checks.
"""
from dataclasses import field, fields

from support.files import need

def setting(default, what, low=None, high=None, choices=None):
    """A field of a dataclass: default, what it is, lowest and highest value or the choices."""
    metadata = {"what": what, "low": low, "high": high, "choices": choices}
    if isinstance(default, list):  # every object gets a list of its own
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)

def settings_of(kind):
    """The fields of a dataclass, or of an object of it, that `setting` has made."""
    return [f for f in fields(kind) if "what" in f.metadata]

def check_limits(config):
    """InputError unless every setting of an object lies within its limits."""
    for f in settings_of(config):
        low, high, choices = f.metadata["low"], f.metadata["high"], f.metadata["choices"]
        value = getattr(config, f.name)
        if choices:
            need(value in choices, f"{f.name} is {value!r}; it must be {' or '.join(choices)}")
        elif low is not None:
            for one in value if isinstance(value, list) else [value]:
                # (A nan is refused here too: it is not larger than anything.)
                need(isinstance(one, (int, float)) and low <= one <= high,
                     f"{f.name} is {one}; it must lie between {low} and {high}")

def add_options(parser, kind):
    """Give an argparse parser an option for every setting of a dataclass."""
    defaults = kind()
    for f in settings_of(kind):
        words = [f.metadata["what"]]
        if f.metadata["choices"]:
            words.append(" or ".join(f.metadata["choices"]))
        elif f.metadata["low"] is not None:
            words.append(f"{f.metadata['low']} to {f.metadata['high']}")
        default = getattr(defaults, f.name)
        option = {"type": f.type}
        if f.type is list:  # several values after an option, which may come again
            option = {"type": type((default or [""])[0]), "nargs": "+", "action": "extend"}
            default = " ".join(map(str, default)) or "none"
        words.append(f"default {default}")
        parser.add_argument(f"--{f.name}", metavar="X", help="; ".join(words), **option)

def given(args, kind):
    """name -> value of the settings that stand in the parsed options."""
    values = {f.name: getattr(args, f.name) for f in settings_of(kind)}
    return {name: value for name, value in values.items() if value is not None}
