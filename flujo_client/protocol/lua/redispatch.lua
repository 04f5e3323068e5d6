--[[ redispatch — take the right to publish a dispatch (again); one of several sweeps gets it.
KEYS  1 dispatches zset   2 published hash   3 run hash   4 accounts hash   5 named hash   6 named_queue zset   7 named_due zset
ARGV  1 member, "run path attempt queue"   2 copies published so far   3 ms until it is suspect again
REPLY {1, now_ms} publish it | {0} leased, gone, taken by another sweep, waiting for a named account, or of a run whose gate is closed and dropped ]]
local named = named_open(KEYS[5], KEYS[6], KEYS[7])
local place = place_of(named, ARGV[1])
if redis.call('HGET', KEYS[3], 'gate') ~= 'open' then
  if place[1] ~= '' then
    named_leave(named, ARGV[1])
    named_write(named)
  end
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return {0}
end
local published = redis.call('HGET', KEYS[2], ARGV[1])
if not published or words(published)[2] ~= ARGV[2] then return {0} end
if place[1] == 'w' then  -- until it is called; in case that nobody does, its accounts are looked at
  redis.call('ZADD', KEYS[1], int(named.now + LOOK_AGAIN_MS), ARGV[1])
  for _, id in ipairs(words(place[2])) do redis.call('ZADD', KEYS[7], 'NX', int(named.now), id) end
  return {0}
end
local now, book = now_ms(), book_open(KEYS[4])
rouse(book, words(ARGV[1])[2])  -- it may have waited for its time
book_write(book)
redis.call('HSET', KEYS[2], ARGV[1], int(now) .. ' ' .. int(tonumber(ARGV[2]) + 1))
redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[3])), ARGV[1])
return {1, int(now)}
