--[[ ring — tell a run, once, that the time of a pause's alarm has come: a reminder, or the end of the wait, which takes the place of an answer.
KEYS  1 run hash   2 attempts hash   3 event stream   4 dirty zset   5 alarms zset   6 inbox list
ARGV  1 run id   2 path of the step that pauses   3 what: expired, or reminded and a number
REPLY {1} told | {0} dropped: told before, answered, or the run has ended | {-1} not due yet ]]
local member = table.concat({ARGV[1], ARGV[2], ARGV[3]}, ' ')
local due = redis.call('ZSCORE', KEYS[5], member)
if not due then return {0} end
if tonumber(due) > now_ms() then return {-1} end
local open = redis.call('HGET', KEYS[1], 'gate') == 'open' and not redis.call('HGET', KEYS[2], ARGV[2] .. '|answer')
redis.call('ZREM', KEYS[5], member)
if not open then return {0} end
if ARGV[3] == 'expired' then
  local id = append(KEYS[1], KEYS[3], KEYS[4], KEYS[6], ARGV[1], {'kind', 'answered', 'path', ARGV[2], 'how', 'expired'})
  redis.call('HSET', KEYS[2], ARGV[2] .. '|answer', table.concat({'expired', '-', id}, ' '))
else
  append(KEYS[1], KEYS[3], KEYS[4], KEYS[6], ARGV[1], {'kind', 'reminded', 'path', ARGV[2], 'number', string.match(ARGV[3], '%d+$')})
end
return {1}
