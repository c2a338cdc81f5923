"""Seccomp user notification: the kernel asks before a system call is done, and waits.

    filter.py     which calls are asked about, refused or left alone: one table, for BPF and OCI
    listener.py   the kernel's side of it: install, receive, answer
    caller.py     the process that waits: its memory, folders, sockets, rights
    walk.py       a path as the caller would reach it
    wish.py       a notified call as what it wants, and how it is done on the caller's behalf
    tracing.py    the one call that the kernel has to do itself: an exec, and what comes of it
    calls.py      the table of them: files, names, programs, sockets, messages

No policy here: `hullwatch.holding` joins it.
"""
