--[[ drop_account — forget a named account: it limits nobody any more, and those who wait for it go on.
KEYS  1 named hash   2 named_queue zset   3 named_due zset
ARGV  1 account   2 shards that share it
REPLY {1} dropped | {0} there is no such account ]]
local function without(field, pattern, place)
  local kept = {}
  for one, other in string.gmatch(redis.call('HGET', KEYS[1], field) or '', pattern) do
    if (place == 1 and one or other) ~= ARGV[1] then kept[#kept + 1] = other and one .. ' ' .. other or one end
  end
  return table.concat(kept, ' ')
end
if not redis.call('HGET', KEYS[1], 'def|' .. ARGV[1]) then return {0} end
redis.call('HSET', KEYS[1], 'names', without('names', '(%S+)', 1), 'rules', without('rules', '(%S+) (%S+)', 2))
local at = 'b' .. ARGV[1] .. ' '
for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. at, '(' .. at .. ':', 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[1], 'bucket|' .. string.sub(member, 2))
end
for _, field in ipairs({'def|', 'row|', 'calendar|', 'closed|', 'slab|', 'want|', 'recall|', 'passed|'}) do redis.call('HDEL', KEYS[1], field .. ARGV[1]) end
for shard = 0, tonumber(ARGV[2]) - 1 do redis.call('HDEL', KEYS[1], 'lent|' .. ARGV[1] .. ' ' .. int(shard)) end
redis.call('ZADD', KEYS[3], int(now_ms()), ARGV[1])
return {1}
