--[[ sweep — announce a manager, and give it a page of what may need mending; of all managers one a period gets it. After a gap in which none was seen, everybody alive is granted a fresh deadline first.
KEYS  1 sweep hash   2 incarnations zset   3 managers zset   4 dispatches zset   5 published hash   6 dirty zset   7 intake hash
      8 cancelled zset   9 finished zset   10 advances hash   11 unarchived zset   12 alarms zset   13 named_due zset
ARGV  1 manager   2 decisions that it stored so far   3 period_ms   4 gap_ms   5 ttl_ms   6 ms after which a dirty run is woken
      7 most rows of each kind; 0 for none: the manager is mending still
REPLY {0} announced | {1, now_ms, dead incarnations, dead managers, dispatches due as member, published, ..., stale dirty runs, intake as field, value, ..., alarms due,
      named accounts due} ]]
local now, ttl, most = now_ms(), tonumber(ARGV[5]), tonumber(ARGV[7])
local last = redis.call('HMGET', KEYS[1], 'seen', 'at')
if now - tonumber(last[1] or 0) > tonumber(ARGV[4]) then  -- Redis or every manager stood still: judge nobody by it
  for _, zset in ipairs({KEYS[2], KEYS[3]}) do
    for _, member in ipairs(redis.call('ZRANGE', zset, 0, -1)) do redis.call('ZADD', zset, int(now + ttl), member) end
  end
end
redis.call('HSET', KEYS[1], 'seen', int(now))
redis.call('ZADD', KEYS[3], int(now + ttl), ARGV[1])
redis.call('HSET', KEYS[10], ARGV[1], ARGV[2])
if most == 0 or now - tonumber(last[2] or 0) < tonumber(ARGV[3]) then return {0} end
redis.call('HSET', KEYS[1], 'at', int(now))
redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', int(now - 3600000))
redis.call('ZREMRANGEBYSCORE', KEYS[9], '-inf', int(now))
redis.call('ZREMRANGEBYSCORE', KEYS[11], '-inf', int(now))
local function due(zset, until_ms)
  return redis.call('ZRANGEBYSCORE', zset, '-inf', int(until_ms), 'LIMIT', 0, most)
end
local dispatches = {}
for _, member in ipairs(due(KEYS[4], now)) do
  dispatches[#dispatches + 1] = member
  dispatches[#dispatches + 1] = redis.call('HGET', KEYS[5], member) or '0 0'
end
local stale = due(KEYS[6], now - tonumber(ARGV[6]))
for _, run_id in ipairs(stale) do redis.call('ZADD', KEYS[6], int(now), run_id) end  -- the next page has others
return {1, int(now), due(KEYS[2], now - 1), due(KEYS[3], now - 1), dispatches, stale, redis.call('HGETALL', KEYS[7]),
  due(KEYS[12], now), due(KEYS[13], now)}
