#!/bin/bash
# The image of the benign day: Debian with what operators install, MCP servers from PyPI and npm,
# and the downloads that the workloads install from. Needs debootstrap, root, and the registries of
# Debian, PyPI and npm, once.
#
#   image.sh HERE ROOT CACHE      HERE: this folder; ROOT, CACHE: folders to fill
#
# Everything is fetched by the registries' own clients, inside ROOT. `== ` lines are progress.
set -euo pipefail
here=$1 root=$2 cache=$3
step() { printf '== %s\n' "$*"; }
trap 'umount "$root/cache" "$root/here" "$root/proc" 2>/dev/null || true' EXIT

inside() { # with the host's trust in certificates and its proxy, and none of its other settings
    env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 \
        PIP_CERT=/tmp/ca.crt SSL_CERT_FILE=/tmp/ca.crt NODE_EXTRA_CA_CERTS=/tmp/ca.crt \
        npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        chroot "$root" "$@"
}

step Debian
debootstrap --variant=minbase bookworm "$root" http://deb.debian.org/debian
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service starts in here
chmod +x "$root/usr/sbin/policy-rc.d"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/tmp/ca.crt"
mkdir -p "$root/cache" "$root/here" "$cache"/{simple,flat,npm,project,debs/partial,source,git}
mount --bind "$cache" "$root/cache"
mount --bind "$here" "$root/here"
mount -t proc proc "$root/proc"

step "Debian packages"
inside apt-get install -qq -y --no-install-recommends \
    ca-certificates curl procps less vim-tiny file xz-utils gcc make libc6-dev patch git \
    python3 python3-dev python3-pip python3-venv pipx nodejs npm \
    postgresql postgresql-contrib redis-server redis-tools nginx-light logrotate
inside chown _apt /cache/debs/partial /cache/source
inside apt-get install -qq -y --no-install-recommends --download-only \
    -o Dir::Cache::archives=/cache/debs tree jq
echo 'deb-src http://deb.debian.org/debian bookworm main' >"$root/etc/apt/sources.list.d/src.list"
inside apt-get update -qq
inside sh -c 'cd /cache/source && apt-get source -qq --download-only hello'
rm "$root/etc/apt/sources.list.d/src.list"

step "PyPI: what the workloads install"
inside pip download -q -d /cache/flat -r /here/wheels.txt
inside pip download -q -d /cache/flat --no-deps --no-binary :all: -r /here/sdists.txt
inside python3 /here/index.py /cache/flat /cache/simple
for release in 4.2 5.0 5.2; do
    inside pip download -q -d /cache/flat --no-deps --no-binary :all: "django==$release"
done

step "PyPI: MCP servers"
inside python3 -m venv /opt/mcp
inside /opt/mcp/bin/pip install -q -r /here/servers.txt
inside python3 -m venv /opt/mcp1 # made for the first SDK
inside /opt/mcp1/bin/pip install -q mcp-server-sqlite==2025.4.25 'mcp<2'
ln -s /opt/mcp/bin/uv /opt/mcp/bin/uvx "$root/usr/local/bin/"

step "npm: MCP servers"
mkdir -p "$root/opt/mcp-node"
cp "$here/servers.json" "$root/opt/mcp-node/package.json"
inside npm install --silent --prefix /opt/mcp-node

step "npm: what the workloads install"
cp "$here/project.json" "$cache/project/package.json"
inside npm install --silent --prefix /cache/project --cache /cache/npm --ignore-scripts
inside npm exec --silent --yes --cache /cache/npm \
    --package=@modelcontextprotocol/server-filesystem@2026.8.31 -- true
rm -rf "$cache/project/node_modules" "$cache/npm/_npx" "$cache/npm/_logs"

step "a repository of a public package's releases"
inside sh -eu -c '
    git config --global user.name day
    git config --global user.email day@example.org
    git init -q -b main /tmp/django
    cd /tmp/django
    for archive in /cache/flat/[Dd]jango-*.tar.gz; do
        git rm -rfq --ignore-unmatch .
        tar -xzf "$archive" --strip-components=1
        git add -A
        git commit -qm "$(basename "$archive" .tar.gz)"
    done
    git clone -q --bare /tmp/django /cache/git/django.git
    git -C /cache/git/django.git update-server-info
    rm -rf /tmp/django /root/.gitconfig'

# Names of the servers that stand in for the world, see workloads.py.
cat >"$root/etc/hosts" <<'HOSTS'
127.0.0.1 localhost
198.51.100.10 pypi.test git.test www.test llm.test db.test cache.test
HOSTS
rm -rf "$root/usr/sbin/policy-rc.d" "$root/tmp/ca.crt" "$root/root/.npm" "$root/root/.cache"
