"""Private keys, tokens with a structure, and addresses with a password in them."""

from __future__ import annotations

from hullwatch.agent.secrets.checks import basic_auth, jwt, jwt_with, key_in_base64, password
from hullwatch.agent.secrets.kind import Kind, pem

__all__ = ["KEYS"]

_JWT = r"\b(eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,})"
_SCHEMES = (
    "postgres(?:ql)?|mysqlx?|mariadb|mongodb|rediss?|amqps?|mssql|sqlserver|oracle|clickhouse(?:db)?"
    "|cockroachdb|cassandra|neo4j|bolt|nats|kafka|snowflake|ldaps?|smtps?|couchbases?|influxdb"
)


def _private_key(name: str, label: str, provider: str = "") -> Kind:
    shape = f"-----BEGIN {label}-----\n{{pem}}\n-----END {label}-----"
    return Kind(name, provider, f"{label}-----", f"({pem(label)})", shape, 4.0)


KEYS = (
    # RFC 7468 and its older like; RFC 4880 (6.2) for PGP.
    _private_key("rsa_private_key", "RSA PRIVATE KEY"),
    _private_key("ec_private_key", "EC PRIVATE KEY"),
    _private_key("dsa_private_key", "DSA PRIVATE KEY"),
    _private_key("openssh_private_key", "OPENSSH PRIVATE KEY", "OpenSSH"),
    _private_key("encrypted_private_key", "ENCRYPTED PRIVATE KEY"),
    _private_key("pgp_private_key", "PGP PRIVATE KEY BLOCK", "OpenPGP"),
    Kind(
        "private_key",
        "",
        "PRIVATE KEY",
        f"({pem('[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?')})",
        "-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----",
        4.0,
    ),
    Kind(
        "putty_private_key",
        "PuTTY",
        "PuTTY-User-Key-File-",
        r"(PuTTY-User-Key-File-[23]:[^\0]*?Private-Lines: [0-9]{1,3}\s+[A-Za-z0-9+/=\s]{40,}"
        r"Private-MAC: [0-9a-f]{40,64})",
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: runner\nPublic-Lines: 1\n"
        "{b64}\nPrivate-Lines: 1\n{b60}\nPrivate-MAC: {h64}",
        4.0,
    ),
    Kind(
        "age_secret_key",
        "age",
        "AGE-SECRET-KEY-1",
        r"\b(AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58})\b",
        "AGE-SECRET-KEY-1{z58}",
        3.5,
    ),
    Kind(
        "base64_private_key",
        "",
        "LS0tLS1CRUdJTi",
        r"(LS0tLS1CRUdJTi[A-Za-z0-9+/=]{80,})",
        "{keybase}",
        4.0,
        key_in_base64,
    ),
    # RFC 7519. The more specific claims first.
    Kind(
        "kubernetes_service_account_token",
        "Kubernetes",
        "eyJ",
        _JWT,
        "{podjwt}",
        4.0,
        jwt_with(b"kubernetes"),
    ),
    Kind("spiffe_jwt_svid", "SPIFFE", "eyJ", _JWT, "{svid}", 4.0, jwt_with(b"spiffe://")),
    Kind("jwt", "", "eyJ", _JWT, "{jwt}", 4.0, jwt),
    # RFC 3986, 3.2.1: userinfo.
    Kind(
        "database_url",
        "",
        "://",
        rf"(?i)\b(?:{_SCHEMES})(?:\+[a-z0-9_+]{{1,20}})?://[^\s:@/\"'<>]{{0,64}}:"
        r"([^\s@\"'<>/]{3,})@[\w.\[-]",
        "postgresql://app:{p16}@db.internal:5432/app",
        2.5,
        password,
    ),
    Kind(
        "url_password",
        "",
        "://",
        r"(?i)\b(?:https?|ftps?|sftp|ssh|git(?:\+https?)?|wss?|socks5h?|svn)://"
        r"[^\s:@/\"'<>]{0,64}:([^\s@\"'<>/]{4,})@[\w.\[-]",
        "https://deploy:{p16}@git.internal/app.git",
        2.5,
        password,
    ),
    # RFC 7617.
    Kind(
        "basic_auth_header",
        "",
        "basic",
        r"(?i)\bbasic[ \t]{1,4}((?-i:[A-Za-z0-9+/]{12,}={0,2}))",
        "Authorization: Basic {basic}",
        3.0,
        basic_auth,
    ),
    # crypt(5).
    Kind(
        "password_hash",
        "crypt",
        "$6$ $5$ $y$ $7$ $gy$ $2a$ $2b$ $2y$ $argon2",
        r"(\$(?:[56]\$(?:rounds=[0-9]{1,9}\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{43,86}"
        r"|g?y\$[./A-Za-z0-9]{1,12}\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
        r"|2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}"
        r"|argon2(?:id|i|d)\$v=[0-9]{1,3}\$[a-z0-9=,]{8,60}\$[A-Za-z0-9+/]{8,90}\$[A-Za-z0-9+/]{20,180}))",
        "$6${w16}${w86}",
        3.5,
    ),
)
