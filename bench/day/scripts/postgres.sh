# The server, as an official image's entry point does it: as root, then as its own user.
. /day/common.sh
bin=/usr/lib/postgresql/15/bin
install -d -o postgres -g postgres /srv/data
as() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/var/lib/postgresql "$@"; }
as $bin/initdb -D /srv/data --auth=trust >/dev/null
echo 'host all all 0.0.0.0/0 trust' >>/srv/data/pg_hba.conf
exec setpriv --reuid=postgres --regid=postgres --init-groups \
    $bin/postgres -D /srv/data -c listen_addresses='*' -c max_wal_size=2GB
