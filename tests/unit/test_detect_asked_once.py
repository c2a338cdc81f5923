"""What is asked once for many: bits by program, and texts through shared look-ups."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.enriched import ProcessImage
from hullwatch.detect.accounts import HostAccounts, User
from hullwatch.detect.fields import TABLE, Type, Where
from hullwatch.detect.fields.args import argument, argument_names
from hullwatch.detect.fields.field import Field
from hullwatch.detect.parts import Parts
from hullwatch.detect.row import Env, Object
from hullwatch.detect.ruleset import RuleSet, load_texts
from hullwatch.detect.scene import make_image

ENV = Env(HostAccounts({0: User("root", "/root", "/bin/sh")}, {0: "root"}))
ARGUMENTS = [found for name in argument_names() for raw in (True, False)
             if (found := argument(name, raw)) is not None]  # fmt: skip
OF_IMAGE = [field for field in (*TABLE.values(), *ARGUMENTS) if field.image is not None]
IDS = {"workload", "uid", "gid", "euid", "egid", "cap_effective", "cap_permitted"}
OWN = {*ProcessImage.__slots__, "ppid"} - IDS - {"program", "parent"}


class Guard:
    """An image that refuses to tell what is one process's own; its ancestors, their ids too."""

    def __init__(self, image: ProcessImage, refused: set[str]) -> None:
        self._image, self._refused = image, refused

    def __getattr__(self, name: str) -> Any:
        if name in self._refused:
            raise AssertionError(f"reads {name}")
        found = getattr(self._image, name)
        return Guard(found, OWN | IDS) if name == "parent" and found is not None else found


def tree(depth: int) -> ProcessImage:
    image = None
    for number in range(depth):
        image = make_image(
            parent=image, name="bash", argv=("bash", "-c", "x"), exepath="/bin/bash", known=True,
            pid=number + 1, vpid=number + 1, sid=1, namespaces=(7,) * 7, cwd="/",
        )  # fmt: skip
    assert image is not None
    return image


@pytest.mark.parametrize("field", OF_IMAGE, ids=lambda field: field.name)
def test_a_field_that_is_not_own_reads_nothing_that_is(field: Field) -> None:
    assert field.image is not None
    for argument_ in (None, 0, 1, 3, 9) if field.arg == "index?" else (None,):
        guarded: Any = Guard(tree(5), OWN)
        if not field.own:
            assert field.image(guarded, ENV, argument_) == field.image(tree(5), ENV, argument_)
    if field.own:
        with pytest.raises(AssertionError, match="reads"):
            field.image(Guard(tree(5), OWN), ENV, 1)


def rules(conditions: list[str]) -> RuleSet:
    text = "".join(
        f"- rule: r{at}\n  desc: d\n  output: o\n  priority: INFO\n  condition: >\n    {one}\n"
        for at, one in enumerate(conditions)
    )
    found = load_texts([(text, "t.yaml")])
    assert not found.errors, found.errors
    return found


VALUES = {
    Type.INT: ("= 0", "!= 1", "in (1, 2)", "> 1"),
    Type.BOOL: ("= true", "= false"),
    Type.STRING: ("= a", "!= b", "contains a", "startswith /a", "endswith b", "glob a*b", "exists"),
}


def every_image_field() -> list[str]:
    names = [field.name for field in OF_IMAGE]
    names += [f"{field.name}[{n}]" for field in OF_IMAGE if field.arg == "index?" for n in (1, 2)]
    of = {field.name: field.type for field in OF_IMAGE}
    return [
        f"evt.type = execve and {name} {check}"
        for name in names
        for check in VALUES[of[name.partition("[")[0]]]
    ]


EVERYTHING = rules(every_image_field())
WORDS = st.sampled_from(("", "a", "b", "ab", "/a/b", "bash", "sh"))
SMALL = st.integers(0, 2)
PROGRAMS = st.fixed_dictionaries(
    {
        "name": WORDS, "exepath": WORDS, "cwd": WORDS, "script": WORDS, "tty": SMALL,
        "argv": st.lists(WORDS, max_size=3).map(tuple), "marks": st.integers(0, 7),
        "env_names": st.lists(WORDS, max_size=2).map(tuple), "known": st.booleans(),
        "namespaces": st.sampled_from(((0xEFFFFFFC,) * 7, (5,) * 7)), "exe_ino": SMALL,
        "cap_inheritable": SMALL, "loginuid": SMALL,
    }
)  # fmt: skip
NUMBERS = st.fixed_dictionaries(
    dict.fromkeys(sorted(OWN - {"slot", "key", "ended", "children", "ppid"} | IDS), SMALL)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(PROGRAMS, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8), NUMBERS), max_size=12),
)
def test_bits_of_a_program_are_those_of_each_image(
    programs: list[dict[str, Any]], story: list[tuple[int, int, dict[str, int]]]
) -> None:
    """Over random trees, where what runs the same below the same shares a program."""
    parts = Parts(EVERYTHING.program, ENV)
    shared: dict[tuple[int, int], ProcessImage] = {}
    images: list[ProcessImage] = []
    for which, above, numbers in story:
        parent = images[above] if above < len(images) else None
        program = programs[which % len(programs)]
        image = make_image(parent=parent, **program | numbers)
        key = (which % len(programs), id(parent.program) if parent else 0)
        image.program = shared.setdefault(key, image).program
        images.append(image)
    # Twice, as ids change and are changed back.
    for change in (0, 1, 0):
        for image in images:
            image.euid ^= change
            assert parts.image(image) == Parts(EVERYTHING.program, ENV).image(image)


TEXT_CHECKS = [
    f"evt.type in (openat, renameat, mkdir, symlinkat, mount) and {name} {check}"
    for name in (
        *("fd.name", "fd.nameraw", "fd.directory", "fd.filename", "fs.path.name"),
        *("fs.path.source", "evt.arg.name", "evt.arg.oldpath", "tolower(fd.name)"),
    )
    for check in (
        *("= /a/b", "!= /a/b", "in (/a, b, /a/b/c)", "contains /b", "contains ''", "exists"),
        *("startswith /a", "startswith /a/", "endswith b", "endswith /b/c", "icontains A/"),
        *("glob '*a/*b*'", "glob '/a*b'", "glob '*[ab]c'", "glob '?a/b'", "glob '@(/a|/b)/*'"),
        *("glob '*'", "iglob '*A/*'", "regex '.*a/b'", "pmatch (/a/b)", "glob '*a\\\\*b*'"),
        *("startswith anyof (/a, b)", "contains allof (a, b)"),
    )
]
TEXTS = rules(TEXT_CHECKS)
OF_TEXTS = Parts(TEXTS.program, ENV)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="/abcA*\n", max_size=12))
def test_a_text_has_the_bits_of_each_single_predicate(text: str) -> None:
    obj = Object(text)
    plain = 0
    for column in OF_TEXTS.objects:
        value = column.source.read(Where.OBJ, obj, ENV)
        for predicate in column.predicates:
            if value is not None and predicate.test.run(value):
                plain |= predicate.bit
    assert OF_TEXTS.object(obj) == (plain, 0)
