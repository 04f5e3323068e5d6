--[[ publish_spec — store a pipeline's spec by its hash, and point the pipeline's name, and its version if it has one, at it if the name never had it.
KEYS  1 specs hash   2 pipelines hash
ARGV  1 pipeline name   2 spec hash   3 spec   4 version, '' for none
REPLY {1} the name points at it | {0} the name points at a newer one ]]
redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3])
local fresh = redis.call('HSETNX', KEYS[2], ARGV[1] .. '@' .. ARGV[2], int(now_ms())) == 1
if fresh then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
if fresh and ARGV[4] ~= '' then redis.call('HSET', KEYS[2], ARGV[1] .. '==' .. ARGV[4], ARGV[2]) end
return {redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] and 1 or 0}
