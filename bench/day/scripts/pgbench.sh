# A load, a dump and what an operator does beside it.
. /day/common.sh
export PGHOST=db.test PGUSER=postgres
until pg_isready -q; do sleep 0.5; done
createdb bench
pgbench -q -i -s $((ROUNDS * 2)) bench 2>/dev/null
pgbench -c 8 -j 2 -T $((ROUNDS * 4)) bench
psql -q bench -c 'CREATE INDEX ON pgbench_history (mtime)' -c 'VACUUM ANALYZE' -c 'CHECKPOINT'
pg_dump -Fc bench >/tmp/bench.dump
createdb copy && pg_restore -d copy /tmp/bench.dump
psql -q copy -c "COPY pgbench_branches TO '/tmp/branches.csv' CSV" -c 'CREATE EXTENSION pgcrypto'
[ "$ROUNDS" -eq 1 ] || pgbench -C -c 4 -T 5 -S bench # a connection, so a process, a query
dropdb copy
psql -Atc 'SELECT count(*) FROM pg_stat_activity'
