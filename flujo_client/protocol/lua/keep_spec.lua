--[[ keep_spec — store a spec where a run of it is about to be made, for a while if none is; once.
KEYS  1 specs hash   2 spec_uses zset
ARGV  1 spec hash   2 spec   3 ms that it stays without a run
REPLY {1} it is stored ]]
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 then redis.call('ZADD', KEYS[2], int(now_ms() + tonumber(ARGV[3])), ARGV[1]) end
return {1}
