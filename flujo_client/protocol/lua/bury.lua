--[[ bury — forget a process whose deadline is past and which holds nothing any more; from then on it is dead for good.
KEYS  1 zset of deadlines (incarnations, or managers)   2 owned set of the manager, or held zset of the incarnation
ARGV  1 member
REPLY {1} forgotten | {0} unknown, alive again, or it still holds something ]]
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not deadline or tonumber(deadline) >= now_ms() or redis.call('EXISTS', KEYS[2]) == 1 then return {0} end
redis.call('ZREM', KEYS[1], ARGV[1])
return {1}
