--[[ cache_store — cache what was made, or give up the right to make it; only for whoever has that right.
KEYS  1 cache hash
ARGV  1 lease id   2 value payload, '' to give up   3 context payload, '' for none   4 ttl_ms
REPLY {1} done | {0} the right is somebody else's, or gone ]]
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then return {0} end
redis.call('HDEL', KEYS[1], 'lease', 'until')
if ARGV[2] == '' then return {1} end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'context', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1}
