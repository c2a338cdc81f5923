# Sourced by the others. ROUNDS (1 to 5) is how much there is to do.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG=C.UTF-8 PIP_INDEX_URL=http://pypi.test/simple/ PIP_TRUSTED_HOST=pypi.test
export PIP_DISABLE_PIP_VERSION_CHECK=1 UV_DEFAULT_INDEX=http://pypi.test/simple/
export UV_INSECURE_HOST=pypi.test npm_config_offline=true npm_config_cache=/root/.npm
export npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false

# Until a server answers, as a container waits for the service it depends on.
reach() { curl -fsS -o /dev/null --retry 60 --retry-delay 1 --retry-connrefused "$1"; }
