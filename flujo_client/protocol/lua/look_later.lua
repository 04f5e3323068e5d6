--[[ look_later — a dispatch that was published again is looked at again after its back-off, if nothing has become of it meanwhile.
KEYS  1 dispatches zset   2 published hash
ARGV  1 member, "run path attempt queue"   2 what redispatch.lua wrote of this publication, "<ms> <copies>"   3 when, ms
REPLY {1} noted | {0} leased, declined, called or published by another since then, each of which has a time of its own ]]
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return {0} end
redis.call('ZADD', KEYS[1], 'XX', ARGV[3], ARGV[1])
return {1}
