--[[ publish_spec — store a pipeline's spec by its hash, and point the pipeline's name, and its version if it has one, at it if the name never had it.
KEYS  1 specs hash   2 pipelines hash   3 spec_uses zset
ARGV  1 pipeline name   2 spec hash   3 spec   4 version, '' for none   5 ms that it stays without a name or run
REPLY {1} the name points at it | {0} the name points at a newer one ]]
if redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3]) == 1 then redis.call('ZADD', KEYS[3], int(now_ms() + tonumber(ARGV[5])), ARGV[2]) end
local fresh = redis.call('HSETNX', KEYS[2], ARGV[1] .. '@' .. ARGV[2], int(now_ms())) == 1
if fresh then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
if fresh and ARGV[4] ~= '' then redis.call('HSET', KEYS[2], ARGV[1] .. '==' .. ARGV[4], ARGV[2]) end
return {redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] and 1 or 0}
