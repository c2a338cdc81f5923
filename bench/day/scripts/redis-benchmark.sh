. /day/common.sh
until redis-cli -h cache.test ping 2>/dev/null; do sleep 0.5; done
redis-benchmark -h cache.test -q -n $((ROUNDS * 40000)) -c 50 -t set,get,incr,lpush,lrange_100
redis-cli -h cache.test bgsave
redis-cli -h cache.test bgrewriteaof
redis-cli -h cache.test info persistence
redis-cli -h cache.test --scan --pattern 'key:*' | head -3
