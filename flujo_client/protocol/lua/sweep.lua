--[[ sweep — a page of what may need mending; of all managers one a period is answered, and after a gap everybody alive is granted a fresh deadline instead.
KEYS  1 sweep hash   2 incarnations zset   3 managers zset   4 dispatches zset   5 published hash   6 dirty zset   7 intake hash
      8 cancelled zset   9 finished zset
ARGV  1 period_ms   2 gap_ms   3 ttl_ms   4 ms after which a dirty run is woken   5 most rows of each kind
REPLY {0} not due | {1, now_ms, dead incarnations, dead managers, dispatches due as member, published, ..., stale dirty runs, intake as field, value, ...} ]]
local now = now_ms()
local last = tonumber(redis.call('HGET', KEYS[1], 'at') or 0)
if now - last < tonumber(ARGV[1]) then return {0} end
redis.call('HSET', KEYS[1], 'at', int(now))
if now - last > tonumber(ARGV[2]) then  -- Redis or every manager stood still: judge nobody by it
  for _, zset in ipairs({KEYS[2], KEYS[3]}) do
    for _, member in ipairs(redis.call('ZRANGE', zset, 0, -1)) do
      redis.call('ZADD', zset, int(now + tonumber(ARGV[3])), member)
    end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', int(now - 3600000))
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', int(now))
local function due(zset, until_ms)
  return redis.call('ZRANGEBYSCORE', zset, '-inf', int(until_ms), 'LIMIT', 0, ARGV[5])
end
local dispatches = {}
for _, member in ipairs(due(KEYS[4], now)) do
  dispatches[#dispatches + 1] = member
  dispatches[#dispatches + 1] = redis.call('HGET', KEYS[5], member) or '0 0'
end
return {1, int(now), due(KEYS[2], now - 1), due(KEYS[3], now - 1), dispatches, due(KEYS[6], now - tonumber(ARGV[4])),
  redis.call('HGETALL', KEYS[7])}
