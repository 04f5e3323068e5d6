--[[ resume — store the answer to a pause and wake the run's manager; the first answer wins, also before the pause is committed.
KEYS  1 run hash   2 attempts hash   3 payloads hash   4 event stream   5 dirty zset   6 inbox list
ARGV  1 run id   2 path of the step that pauses   3 operation id   4 answer payload
REPLY {1, event id} stored | {0, how} answered before: given or expired | {-1, status} the run has ended, was cancelled, or is unknown ]]
local answered = words(redis.call('HGET', KEYS[2], ARGV[2] .. '|answer'))
if answered[2] == ARGV[3] then return {1, answered[3]} end
local run = redis.call('HMGET', KEYS[1], 'gate', 'status')
if run[1] ~= 'open' then return {-1, run[2] or 'unknown'} end
if answered[1] then return {0, answered[1]} end
redis.call('HSET', KEYS[3], 'ans:' .. ARGV[2], ARGV[4])
local id = append(KEYS[1], KEYS[4], KEYS[5], KEYS[6], ARGV[1], {'kind', 'answered', 'path', ARGV[2], 'how', 'given'})
redis.call('HSET', KEYS[2], ARGV[2] .. '|answer', table.concat({'given', ARGV[3], id}, ' '))
return {1, id}
