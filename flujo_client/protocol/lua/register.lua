--[[ register — announce a process by a deadline in Redis time, or move its deadline on.
KEYS  1 zset of deadlines (incarnations, or managers)
ARGV  1 member   2 ttl_ms
REPLY {1, deadline_ms} ]]
local deadline = int(now_ms() + tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], deadline, ARGV[1])
return {1, deadline}
