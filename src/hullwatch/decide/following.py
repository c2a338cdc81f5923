"""The set in force, followed: `follow` once a second tells of each change, and of what is wrong.

A set that cannot be used changes nothing: the one before stays in force until there is a better
one.
"""

from __future__ import annotations

import os

from hullwatch.decide.applied import Applied, AppliedError, Entry
from hullwatch.decide.engine import Engine
from hullwatch.decide.policy import PolicyError

__all__ = ["Following"]

_Seen = tuple[int, int, int]  # of the log's file: inode, bytes, ns


class Following:
    """entry: the change that put the set into force which `follow` gave last; None before the
    first. problem: why what is there now is not in force; '' where it is.

    Not for several threads at once. A look costs one `stat` unless something changed."""

    def __init__(self, applied: Applied) -> None:
        self._applied = applied
        self._seen: _Seen | None = None
        self.entry: Entry | None = None
        self.problem = ""
        self._none = f"no set is in {applied.folder}; `hullwatch policy apply` puts one into force"

    @property
    def none(self) -> bool:
        """Nothing was ever put into force here."""
        return self.problem == self._none

    def follow(self) -> Engine | None:
        """The set that is in force from now on, where it is another one than before. Never raises:
        see `problem`."""
        try:
            # Before it is read: what is appended meanwhile is seen the next time.
            seen = self._look()
            if seen == self._seen and not self.problem:
                return None
            made = self._read()
        except AppliedError as error:
            self.problem = str(error)
        except PolicyError as error:  # of a set that another version took
            self.problem = str(error.problems[0])
        except FileNotFoundError:
            self.problem = self._none
        except OSError as error:
            self.problem = f"{error.filename}: {error.strerror or error}"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # a panic in Cedar is no Exception
            self.problem = f"the set cannot be used: {type(error).__name__}"
        else:
            self._seen, self.problem = seen, ""
            return made
        return None

    def _look(self) -> _Seen:
        found = os.stat(self._applied.path)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> Engine | None:
        entries = self._applied.log()
        if not entries:
            raise AppliedError(self._none)
        if self.entry is not None and self.entry not in entries:
            raise AppliedError(
                f"{self._applied.path}: the change that is in force is no longer in it: it was"
                " replaced or cut off; to take it as it is now, start anew"
            )
        last = entries[-1]
        if self.entry is not None and last.version == self.entry.version:
            self.entry = last
            return None
        engine = self._applied.engine(last.version)
        if engine is None or not engine.policies:
            raise AppliedError(f"set {last.version[:12]} has no policy in it")
        self.entry = last
        return engine
