--[[ adopt — move a run from an owner that is gone to another; compare-and-set of the owner, plus a wake-up.
KEYS  1 run hash   2 owned set of the old owner   3 owned set of the new owner   4 managers zset   5 dirty zset   6 inbox list of the new owner
ARGV  1 run id   2 old owner   3 new owner
REPLY {1} adopted | {0} somebody else owns it, or its owner lives ]]
local deadline = redis.call('ZSCORE', KEYS[4], ARGV[2])
if deadline and tonumber(deadline) >= now_ms() then return {0} end
redis.call('SREM', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[2] then return {0} end
redis.call('HSET', KEYS[1], 'owner', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'revision', 1)  -- whoever remembers the run under its old owner reads it again
if ARGV[2] ~= 'pool' then redis.call('HSET', KEYS[1], 'left', '1') end  -- its caller's hooks run no more
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[5], 'NX', int(now_ms()), ARGV[1])
redis.call('LPUSH', KEYS[6], ARGV[1])
redis.call('EXPIRE', KEYS[6], 60)
return {1}
