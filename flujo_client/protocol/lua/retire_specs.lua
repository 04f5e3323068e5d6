--[[ retire_specs — forget the specs of a shard whose time is over, if no run that has not ended is of them and no name points at them.
KEYS  1 specs hash   2 spec_uses zset   3 spec_runs hash   4 pipelines hash
ARGV  1 most to look at   2 ms after which one that has to stay is looked at again
REPLY {1, count} so many are forgotten ]]
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', int(now), 'LIMIT', 0, tonumber(ARGV[1]))
if #due == 0 then return {1, 0} end

local pointed = {}
local names = redis.call('HGETALL', KEYS[4])
for i = 2, #names, 2 do pointed[names[i]] = true end
local forgotten = 0
for _, spec in ipairs(due) do
  if pointed[spec] or redis.call('HGET', KEYS[3], spec) then
    redis.call('ZADD', KEYS[2], int(now + tonumber(ARGV[2])), spec)
  else
    redis.call('HDEL', KEYS[1], spec)
    redis.call('ZREM', KEYS[2], spec)
    forgotten = forgotten + 1
  end
end
return {1, forgotten}
