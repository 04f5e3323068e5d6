--[[ finish — store a terminal run's result, tell its followers and start the retention of everything it left; once.
KEYS  1 run hash   2 nodes hash   3 attempts hash   4 accounts hash   5 payloads hash   6 event stream   7 dirty zset   8 active zset
      9 finished zset   10 owned set   11 unarchived zset   12 spec_runs hash   13 spec_uses zset
ARGV  1 run id   2 result   3 retention_ms   4 ms after which no attempt of the run can report any more
REPLY {1} finished now | {0} finished before | {-1, status} the run is not terminal ]]
local run = redis.call('HMGET', KEYS[1], 'gate', 'status', 'final', 'spec', 'counted')
if run[1] ~= 'closed' then return {-1, run[2] or 'unknown'} end
if run[3] then
  redis.call('ZREM', KEYS[7], ARGV[1])
  redis.call('SREM', KEYS[10], ARGV[1])  -- whoever finished it may have known it under another owner
  return {0}
end
redis.call('HSET', KEYS[1], 'final', '1')
redis.call('HSET', KEYS[5], 'result', ARGV[2])
redis.call('XADD', KEYS[6], '*', 'kind', 'finished', 'path', 'root', 'status', run[2])
for i = 1, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
redis.call('PEXPIRE', KEYS[3], int(math.min(tonumber(ARGV[3]), tonumber(ARGV[4]))))
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
redis.call('ZADD', KEYS[9], int(now_ms() + tonumber(ARGV[3])), ARGV[1])
redis.call('ZADD', KEYS[11], int(now_ms() + tonumber(ARGV[3])), ARGV[1])
redis.call('SREM', KEYS[10], ARGV[1])
if run[5] and redis.call('HINCRBY', KEYS[12], run[4], -1) <= 0 then  -- runs of a release that did not count are not in it
  redis.call('HDEL', KEYS[12], run[4])
end
redis.call('ZADD', KEYS[13], 'GT', int(now_ms() + tonumber(ARGV[3])), run[4])
return {1}
