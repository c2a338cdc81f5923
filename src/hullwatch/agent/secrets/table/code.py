"""Code hosts, registries of packages and images, CI, and tools of developers."""

from __future__ import annotations

from hullwatch.agent.secrets.checks import basic_auth, crc32_suffix
from hullwatch.agent.secrets.kind import Kind, assigned

__all__ = ["CODE"]

CODE = (
    # github.blog 2021-04-05 (the checksum); 2026-04-24: tokens of apps are ghs_APPID_JWT.
    Kind(
        "github_app_token",
        "GitHub",
        "ghs_ ghu_",
        r"\b(gh[su]_[0-9]{1,12}_eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{20,})",
        "ghs_{d7}_{jwt}",
    ),
    Kind(
        "github_token",
        "GitHub",
        "ghp_ gho_ ghu_ ghs_ ghr_",
        r"\b(gh[pousr]_[A-Za-z0-9]{36})\b",
        "ghp_{crc}",
        3.5,
        crc32_suffix,
    ),
    Kind(
        "github_fine_grained_token",
        "GitHub",
        "github_pat_",
        r"\b(github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b",
        "github_pat_{w22}_{w59}",
        3.5,
    ),
    # docs.gitlab.com, "Token prefixes"; the routable form ends in a length and a CRC.
    Kind(
        "gitlab_token",
        "GitLab",
        "glpat- gldt- glrt- glrtr- glcbt- glptt- glft- glimt- glagent- gloas- glsoat- glffct-"
        " glwt- GR1348941",
        r"\b((?:gl(?:pat|dt|rtr?|cbt|ptt|ft|imt|agent|oas|soat|ffct|wt)-|GR1348941)[\w-]{20,}"
        r"(?:\.[0-9a-z]{2}\.?[0-9a-z]{7})?)",
        "glpat-{s20}",
        3.3,
    ),
    Kind(
        "atlassian_api_token",
        "Atlassian",
        "ATATT3 ATCTT3 ATBB BBDC-",
        r"\b(AT[AC]TT3[\w=-]{100,}|ATBB[A-Za-z0-9]{32}|BBDC-[A-Za-z0-9+/]{40,60})",
        "ATATT3{s186}",
        3.5,
    ),
    # Registries.
    Kind(
        "npm_token",
        "npm",
        "npm_",
        r"\b(npm_[A-Za-z0-9]{36})\b",
        "npm_{crc}",
        3.5,
        crc32_suffix,
    ),
    # A macaroon whose location is pypi.org (or test.pypi.org), in base64.
    Kind(
        "pypi_token",
        "PyPI",
        "pypi-AgEIcHlwaS5vcmc pypi-AgENdGVzdC5weXBpLm9yZw",
        r"\b(pypi-(?:AgEIcHlwaS5vcmc|AgENdGVzdC5weXBpLm9yZw)[\w-]{50,})",
        "pypi-AgEIcHlwaS5vcmc{s150}",
        3.5,
    ),
    Kind(
        "rubygems_api_key",
        "RubyGems",
        "rubygems_",
        r"\b(rubygems_[0-9a-f]{48})\b",
        "rubygems_{h48}",
    ),
    Kind(
        "crates_io_token",
        "crates.io",
        "cargo crates",
        r"(?i)(?:cargo|crates)[^\r\n]{0,60}?\b((?-i:cio[A-Za-z0-9]{32}))\b",
        "CARGO_REGISTRY_TOKEN=cio{w32}",
        3.5,
    ),
    Kind("nuget_api_key", "NuGet", "oy2", r"\b(oy2[a-z0-9]{43})\b", "oy2{l43}", 3.5),
    Kind(
        "docker_hub_token",
        "Docker",
        "dckr_pat_ dckr_oat_",
        r"\b(dckr_(?:pat_[\w-]{27}|oat_[\w-]{32}))(?:[^\w-]|$)",
        "dckr_pat_{s27}",
        3.5,
    ),
    Kind(
        "docker_config_auth",
        "Docker",
        '"auth"',
        r"\"auth\"\s*:\s*\"([A-Za-z0-9+/]{12,}={0,2})\"",
        '"auth": "{basic}"',
        3.0,
        basic_auth,
    ),
    Kind(
        "jfrog_token",
        "JFrog",
        "AKCp cmVmdGtu",
        r"\b(AKCp[A-Za-z0-9]{69}|cmVmdGtu[A-Za-z0-9]{56})\b",
        "AKCp{w69}",
        3.5,
    ),
    # CI and quality.
    Kind(
        "circleci_token",
        "CircleCI",
        "CCIPAT_ CCIPRJ_",
        r"\b(CCIP(?:AT|RJ)_[A-Za-z0-9]{22}_[0-9a-z]{40})\b",
        "CCIPAT_{w22}_{h40}",
        3.5,
    ),
    Kind(
        "buildkite_token",
        "Buildkite",
        "bkua_ bkaa_ bkaj_ bkar_ bkct_ bkpt_ bkpat_ bkps_",
        r"\b(bk(?:ua|aa|aj|ar|ct|pt|pat|ps)_[\w-]{40,})",
        "bkua_{l40}",
        3.5,
    ),
    Kind(
        "sonar_token",
        "Sonar",
        "sqp_ squ_ sqa_",
        r"\b(sq[pua]_[0-9a-f]{40})\b",
        "squ_{h40}",
    ),
    Kind(
        "snyk_token",
        "Snyk",
        "snyk",
        assigned("snyk", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
        "SNYK_TOKEN={h8}-{h4}-4{h3}-a{h3}-{h12}",
    ),
    Kind(
        "postman_api_key",
        "Postman",
        "PMAK-",
        r"\b(PMAK-[0-9a-f]{24}-[0-9a-f]{34})\b",
        "PMAK-{h24}-{h34}",
    ),
    Kind("figma_token", "Figma", "figd_", r"\b(figd_[\w-]{38,42})", "figd_{s40}", 3.5),
    Kind(
        "linear_api_key",
        "Linear",
        "lin_api_",
        r"\b(lin_api_[A-Za-z0-9]{40})\b",
        "lin_api_{w40}",
        3.5,
    ),
    Kind(
        "notion_token",
        "Notion",
        "ntn_",
        r"\b(ntn_[0-9]{11}[A-Za-z0-9]{35})\b",
        "ntn_{d11}{w35}",
        3.5,
    ),
    Kind(
        "airtable_token",
        "Airtable",
        "pat",
        r"\b(pat[A-Za-z0-9]{14}\.[0-9a-f]{64})\b",
        "pat{w14}.{h64}",
        3.5,
    ),
)
