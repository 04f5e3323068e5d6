--[[ decline — a dispatch comes back without an attempt, as its worker, or every worker, lacks the step; it is published again with back-off.
KEYS  1 attempts hash   2 dispatches zset   3 published hash   4 named hash   5 named_queue zset   6 named_due zset
ARGV  1 member, "run path attempt queue"   2 path   3 attempt   4 step name   5 most ms of back-off
REPLY {1, delay_ms} declined | {0} no longer dispatched ]]
local state = redis.call('HMGET', KEYS[1], ARGV[2] .. '|attempt', ARGV[2] .. '|state', ARGV[2] .. '|declined')
if state[1] ~= ARGV[3] or state[2] ~= 'dispatched' then return {0} end
local times = tonumber(words(state[3] or '0')[1])
local delay = math.min(tonumber(ARGV[5]), 200 * 2 ^ math.min(times, 10))
redis.call('HSET', KEYS[1], ARGV[2] .. '|declined', int(times + 1) .. ' ' .. ARGV[4])
redis.call('ZADD', KEYS[2], int(now_ms() + delay), ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], '0 0')
local named = named_open(KEYS[4], KEYS[5], KEYS[6])
local place = place_of(named, ARGV[1])
if place[1] == 'p' then  -- what it was called with is for others, until somebody has the step; it stays as old as it is
  named_drop(named, ARGV[1])
  redis.call('HSET', KEYS[4], 'place|' .. ARGV[1], 'q;;' .. place[3])
  named_write(named)
end
return {1, int(delay)}
