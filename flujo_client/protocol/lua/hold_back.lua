--[[ hold_back — let nobody in by a named account for a while, as its provider asks; those who waited go on after it.
KEYS  1 named hash   2 named_due zset
ARGV  1 account   2 ms from now
REPLY {1, until_ms} held back until then | {0} there is no such account ]]
local stored = redis.call('HMGET', KEYS[1], 'def|' .. ARGV[1], 'closed|' .. ARGV[1])
if not stored[1] then return {0} end
local till = math.max(tonumber(stored[2] or 0), now_ms() + tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'closed|' .. ARGV[1], int(till))
redis.call('ZADD', KEYS[2], int(till), ARGV[1])
return {1, int(till)}
