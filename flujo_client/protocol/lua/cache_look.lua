--[[ cache_look — read what is cached, or take the right to make it, or learn how long somebody else still has it.
KEYS  1 cache hash
ARGV  1 lease id   2 lease_ms
REPLY {1, value, context} cached | {0, ms} somebody makes it | {2} yours to make ]]
local stored = redis.call('HMGET', KEYS[1], 'value', 'context', 'lease', 'until')
if stored[1] then return {1, stored[1], stored[2] or ''} end
local now = now_ms()
if stored[3] and stored[3] ~= ARGV[1] and tonumber(stored[4]) > now then return {0, int(tonumber(stored[4]) - now)} end
redis.call('HSET', KEYS[1], 'lease', ARGV[1], 'until', int(now + tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {2}
