--[[ cancel — close a run's gate to every step that has not started and ask for its end; first of cancel, abort and end wins.
KEYS  1 run hash   2 event stream   3 dirty zset   4 cancelled zset   5 inbox list   6 attempts hash   7 accounts hash   8 waiters zset
ARGV  1 run id   2 reason   3 status that the run ends with: cancelled or aborted
REPLY {1} cancelled now | {0} cancelled before | {-1, status} the run had ended, or is unknown ]]
local run = redis.call('HMGET', KEYS[1], 'gate', 'status')
if run[1] == 'cancelled' then return {0} end
if run[1] ~= 'open' then return {-1, run[2] or 'unknown'} end
redis.call('HSET', KEYS[1], 'gate', 'cancelled', 'reason', ARGV[2], 'ending', ARGV[3])
redis.call('ZADD', KEYS[4], int(now_ms()), ARGV[1])
local desk = desk_open({book = book_open(KEYS[7]), attempts = KEYS[6], waiters = KEYS[8]})
disband(desk)
desk_close(desk)
append(KEYS[1], KEYS[2], KEYS[3], KEYS[5], ARGV[1], {'kind', 'cancelled', 'path', 'root', 'reason', ARGV[2], 'status', ARGV[3]})
return {1}
