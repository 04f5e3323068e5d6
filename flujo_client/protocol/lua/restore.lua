--[[ restore — store a run as a backend or another run has it, and tell its manager what happens next; once per run id.
KEYS  1 run hash   2 nodes hash   3 attempts hash   4 accounts hash   5 payloads hash   6 event stream   7 dirty zset   8 owned set
      9 inbox list   10 active zset   11 specs hash   12 spec_runs hash
ARGV  1 run id   2 count of fields of the run   3 of nodes   4 of attempts   5 of accounts   6 of payloads   7 of events   8 spec hash
      9.. field, value per field, hash after hash; then kind, path, attempt, reason per event
REPLY {1} stored | {0} there is a run of this id | {-3} its spec is not kept ]]
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
if redis.call('HSTRLEN', KEYS[11], ARGV[8]) == 0 then return {-3} end

redis.call('HINCRBY', KEYS[12], ARGV[8], 1)
local at = 9
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[3]) do
  redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[4]) do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[5]) do
  redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[6]) do
  redis.call('HSET', KEYS[5], ARGV[at], ARGV[at + 1])
  at = at + 2
end
redis.call('HSET', KEYS[1], 'counted', '1')
redis.call('SADD', KEYS[8], ARGV[1])
redis.call('ZADD', KEYS[10], int(now_ms()), ARGV[1])
for _ = 1, tonumber(ARGV[7]) do
  append(KEYS[1], KEYS[6], KEYS[7], KEYS[9], ARGV[1],
    {'kind', ARGV[at], 'path', ARGV[at + 1], 'attempt', ARGV[at + 2], 'reason', ARGV[at + 3]})
  at = at + 4
end
return {1}
