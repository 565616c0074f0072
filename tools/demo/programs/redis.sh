# Start a server of our own on a socket in this directory, fill it, load it, read everything back.
set -e
redis-server --port 0 --unixsocket redis.sock --save '' --appendonly no --dir . \
    --enable-debug-command yes --jemalloc-bg-thread no --logfile server.log >/dev/null &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
waited=0
until [ -S redis.sock ]; do
    waited=$((waited + 1))
    if [ "$waited" -gt 500 ]; then
        echo 'the redis server opened no socket within 10 seconds' >&2
        exit 1
    fi
    sleep 0.02
done

redis-cli -s redis.sock --pipe <"$INPUT/fill.txt" | grep errors
redis-benchmark -s redis.sock -c 20 -P 50 -d 64 -n "$REQUESTS" --csv \
    -t set,get,incr,lpush,rpush,lpop,sadd,hset,zadd,mset | sed 's/,.*//'
redis-cli -s redis.sock <"$INPUT/read.txt" >data.out
redis-cli -s redis.sock debug digest
redis-cli -s redis.sock dbsize

redis-cli -s redis.sock shutdown nosave
trap - EXIT
wait "$server"
