--[[ redispatch — take the right to publish a dispatch (again); one of several sweeps gets it.
KEYS  1 dispatches zset   2 published hash   3 run hash   4 accounts hash
ARGV  1 member, "run path attempt queue"   2 copies published so far   3 ms until it is suspect again
REPLY {1} publish it | {0} leased, gone, taken by another sweep, or of a run whose gate is closed and dropped ]]
if redis.call('HGET', KEYS[3], 'gate') ~= 'open' then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return {0}
end
local published = redis.call('HGET', KEYS[2], ARGV[1])
if not published or words(published)[2] ~= ARGV[2] then return {0} end
local now, book = now_ms(), book_open(KEYS[4])
rouse(book, words(ARGV[1])[2])  -- it may have waited for its time
book_write(book)
redis.call('HSET', KEYS[2], ARGV[1], int(now) .. ' ' .. int(tonumber(ARGV[2]) + 1))
redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[3])), ARGV[1])
return {1}
