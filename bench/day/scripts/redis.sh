. /day/common.sh
install -d -o redis -g redis /srv/data && cd /srv/data
exec setpriv --reuid=redis --regid=redis --init-groups \
    redis-server --bind 0.0.0.0 --protected-mode no --appendonly yes --save 5 100
