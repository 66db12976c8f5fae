"""Work in processes of its own: started afresh, heard through a pipe, never left behind.

What goes to and fro is drawn in run_all.py, "one process a seed".
"""
import contextlib, multiprocessing, os, signal, sys, threading
from multiprocessing.connection import wait

def start(function, *given):
    """(our end of a pipe, process): function(pipe, *given) at work in a process of its own."""
    # Spawned, which means started afresh, not forked: so it is alike on every system.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=live, args=(function, sender, *given), daemon=True)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for us alone
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
    sender.close()  # our copy: while that is open, a dead worker's pipe has no end
    return receiver, process

def live(function, pipe, *given):
    """The life of such a process."""
    # A Ctrl-C reaches every process of a terminal; what to do then is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # the parent is dead: there is nobody to tell
        function(pipe, *given)

def end_with_parent():
    """A worker whose parent has died has nobody to work for."""
    multiprocessing.parent_process().join()
    os._exit(1)  # (sys.exit would end this thread alone)

def hear(running):
    """Sleep until workers have news or have ended: [(pipe, news, or None if it has ended)].

    running: pipe -> (what it works on, process).
    """
    # (The pipe alone does not tell: on Windows a worker that dies early leaves its own open.)
    ready = wait([*running, *(process.sentinel for _, process in running.values())])
    heard = []
    for pipe, (_, process) in running.items():
        if pipe in ready or process.sentinel in ready:
            try:
                heard.append((pipe, pipe.recv() if pipe.poll() else None))
            except (EOFError, OSError):
                heard.append((pipe, None))
    return heard

def end_all(running):
    """After Ctrl-C or an error: nobody works on."""
    for _, process in running.values():
        process.terminate()
        process.join()

def can_spawn(function):
    """Whether a new Python process could find `function`, by what this one says of itself.

    A process that is spawned imports __main__ anew, under its name or from its file, and looks
    the function up. Inside a profiler, a debugger or a second %run neither leads to it.
    """
    module, main = sys.modules[function.__module__], sys.modules["__main__"]
    if getattr(module, function.__name__, None) is not function or not hasattr(main, "__spec__"):
        return False
    if main.__spec__ is not None:  # python -m NAME
        return main.__spec__.name != "__main__"
    path = getattr(main, "__file__", None)
    if path is None:  # python -c, or a prompt: there is nothing to import anew
        return module is not main
    return type(path) is str and os.path.isfile(path)
