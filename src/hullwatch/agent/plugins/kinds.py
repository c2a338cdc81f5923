"""The kinds of code that is loaded at run time: one row each, what its files are called and what
loads them."""

from __future__ import annotations

import re
from typing import NamedTuple

from hullwatch.agent.classes import Classes

__all__ = ["KINDS", "LIKELY", "Kind", "kind_of", "loads"]

_MAX_PATH = 4096

_PYTHON = r"(python|pypy)[0-9.]*[a-z]?|uwsgi|ipython3?|jupyter.*"
_NODE = r"node|nodejs|deno|bun|electron|claude|codex|gemini|opencode|cursor.*|code|MainThread"
_AGENT = rf"{_PYTHON}|{_NODE}|goose|aider|amp|q|copilot"
_ANY = ".*"


class Kind(NamedTuple):
    """name: stored and shown, never renamed. files: patterns, see `Classes`; one that begins with
    neither `/` nor `**` holds in any folder. loaders: of the program's name."""

    name: str
    what: str
    files: str
    loaders: str


KINDS: dict[str, Kind] = {
    row.name: row
    for row in (
        Kind(
            "agent_extension",
            "skills, plugins, hooks and MCP configuration of assistants",
            "SKILL.md .mcp.json mcp.json mcp_config.json mcp_settings.json"
            " claude_desktop_config.json **/.claude/skills/** **/.claude/plugins/**"
            " **/.claude/hooks/** **/.claude/agents/** **/.claude/commands/**"
            " .claude/settings*.json .codex/config.toml .codex/hooks.json **/.codex/skills/**"
            " **/.codex/prompts/** **/.gemini/extensions/** .gemini/settings.json"
            " **/.cursor/rules/** .cursor/hooks.json **/.cursor/extensions/**"
            " **/.vscode/extensions/** **/.opencode/plugin/** **/.config/opencode/plugin/**",
            _AGENT,
        ),
        Kind(
            "python_startup",
            "code that Python runs at every start",
            "**/site-packages/*.pth **/dist-packages/*.pth sitecustomize.py usercustomize.py"
            " __pycache__/sitecustomize.*.pyc __pycache__/usercustomize.*.pyc"
            " **/.ipython/profile_*/startup/*.py .pythonrc.py",
            _PYTHON,
        ),
        Kind(
            "entry_points",
            "what an installed package offers as a plugin to others",
            "*.dist-info/entry_points.txt *.egg-info/entry_points.txt",
            _PYTHON,
        ),
        Kind(
            "notebook_kernel",
            "kernels and configuration of notebooks",
            "kernels/*/kernel.json jupyter_*config.py jupyter_*config.json",
            _PYTHON,
        ),
        Kind("python_module", "Python modules", "*.py *.pyc *.pyo *.egg *.pyz *.whl", _PYTHON),
        Kind("native_addon", "Node's native addons", "*.node", _ANY),
        Kind(
            "node_module",
            "JavaScript modules",
            "*.js *.cjs *.mjs *.jsx *.ts *.cts *.mts *.tsx **/node_modules/**/package.json",
            _NODE,
        ),
        Kind("wasm", "WebAssembly", "*.wasm *.cwasm", _ANY),
        Kind(
            "pickle",
            "files whose loading may run code: pickles, and models that are pickles",
            "*.pkl *.pickle *.pk *.joblib *.dill *.cloudpickle *.pt *.pth *.ckpt"
            " pytorch_model*.bin adapter_model.bin training_args.bin",
            _PYTHON,
        ),
        Kind("java_class", "Java archives and classes", "*.jar *.war *.class", "java|.*jvm.*"),
        Kind("shared_object", "native code that was mapped", "*.so *.so.*", _ANY),
    )
}

_CLASSES = Classes(tuple((row.name, row.files) for row in KINDS.values()), any_folder=True)
LIKELY = _CLASSES.pattern
"""RE2, with `s`: all paths that have a kind."""
_LOADERS = {row.name: re.compile(row.loaders) for row in KINDS.values()}


def kind_of(path: str, mapped: bool = False) -> str | None:
    """The kind by the path, as the kernel names it; None: no code that is known. mapped: the file
    was mapped to be executed, so that it is code whatever it is called."""
    kind = _CLASSES.find(path[-_MAX_PATH:])
    if not mapped or kind == "native_addon":
        return kind
    return "shared_object"


def loads(kind: str, *programs: str) -> bool:
    """Whether one of these, by name or path, loads such code. What a `cat` opens is read."""
    return any(
        _LOADERS[kind].fullmatch(program.rpartition("/")[2]) is not None for program in programs
    )
