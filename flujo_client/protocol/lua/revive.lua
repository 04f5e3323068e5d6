--[[ revive — tell a run what becomes of a step that was given up and waits, or of a background body; the first to say so wins.
KEYS  1 run hash   2 attempts hash   3 event stream   4 dirty zset   5 inbox list
ARGV  1 run id   2 path   3 attempt that was lost   4 operation id   5 how: retry or drop; or cancel, of a background node
REPLY {1} told | {0} told before by somebody else | {-1, status} the run has ended, was cancelled, or is unknown ]]
local said = words(redis.call('HGET', KEYS[2], ARGV[2] .. '|revived'))
if said[1] == ARGV[3] then return {said[2] == ARGV[4] and 1 or 0} end
local run = redis.call('HMGET', KEYS[1], 'gate', 'status')
if run[1] ~= 'open' then return {-1, run[2] or 'unknown'} end
append(KEYS[1], KEYS[3], KEYS[4], KEYS[5], ARGV[1], {'kind', 'revived', 'path', ARGV[2], 'attempt', ARGV[3], 'how', ARGV[5]})
redis.call('HSET', KEYS[2], ARGV[2] .. '|revived', ARGV[3] .. ' ' .. ARGV[4])
return {1}
