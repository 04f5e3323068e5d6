--[[ learn — note what an attempt used among the last of its step, from which estimates are learned.
KEYS  1 settles hash
ARGV  1 claim nonce   2 usage, "meter=amount ..."   3 how many are kept   4 ttl_ms
REPLY {1} noted | {0} noted just before ]]
local last = redis.call('HMGET', KEYS[1], 'nonce', 'count')
if last[1] == ARGV[1] then return {0} end
local count = tonumber(last[2] or 0)
redis.call('HSET', KEYS[1], 'nonce', ARGV[1], 'count', int(count + 1), int(count % tonumber(ARGV[3])), ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1}
