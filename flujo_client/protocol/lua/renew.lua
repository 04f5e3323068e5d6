--[[ renew — move the deadline of an incarnation that is not buried on, and tell it which leases Redis thinks it holds and which of them to cancel.
KEYS  1 incarnations zset   2 held zset of the incarnation   3 cancelled zset
ARGV  1 incarnation   2 ttl_ms
REPLY {1, now_ms, held, cancelled}, both lists of "run path attempt nonce" | {0} worker dead: take a new incarnation ]]
local now = now_ms()
-- Past its deadline it may have been Redis that stood still; what a sweep took meanwhile is not in the reply's list.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {0} end
redis.call('ZREM', KEYS[1], '')  -- nothing: but after a write that needs no memory, Redis lets the others pass at maxmemory
redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[2])), ARGV[1])
local held, cancelled = redis.call('ZRANGE', KEYS[2], 0, -1), {}
for _, member in ipairs(held) do
  if redis.call('ZSCORE', KEYS[3], words(member)[1]) then cancelled[#cancelled + 1] = member end
end
return {1, int(now), held, cancelled}
