--[[ define_account — define a named account, or define it anew: what it has taken stays taken, unless its window is another, and those who wait
are looked at again.
KEYS  1 named hash   2 named_queue zset   3 named_due zset
ARGV  1 account   2 definition, "<wait or refuse> <total, calendar or sliding> <window_ms> <grain_ms> <span> <meter>=<limit> ..."
      3 starts of its windows, ms   4 patterns of the pipelines whose runs it pays for   5 shards that share it
REPLY {1} defined ]]
local before, kept, names = redis.call('HMGET', KEYS[1], 'rules', 'names', 'def|' .. ARGV[1], 'row|' .. ARGV[1], 'slab|' .. ARGV[1]), {}, {}
for pattern, account in string.gmatch(before[1] or '', '(%S+) (%S+)') do
  if account ~= ARGV[1] then kept[#kept + 1] = pattern .. ' ' .. account end
end
for _, pattern in ipairs(words(ARGV[4])) do kept[#kept + 1] = pattern .. ' ' .. ARGV[1] end
for _, name in ipairs(words(before[2] or '')) do
  if name ~= ARGV[1] then names[#names + 1] = name end
end
names[#names + 1] = ARGV[1]
local slab = before[5] or (ARGV[5] ~= '1' and int(now_ms()) .. ' open 0 0 ')  -- of which it holds nothing yet
local function window_of(def) return string.match(def or '', '^%S+ (%S+ %S+ %S+ %S+)') end
if before[3] and window_of(before[3]) ~= window_of(ARGV[2]) then
  local at = 'b' .. ARGV[1] .. ' '
  for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. at, '(' .. at .. ':', 'LIMIT', 0, 1000)) do
    redis.call('ZREM', KEYS[2], member)
    redis.call('HDEL', KEYS[1], 'bucket|' .. string.sub(member, 2))
  end
  local slots = string.match(before[4] or '', 'slots %d+ %d+ %d+')  -- held whatever the window
  redis.call('HSET', KEYS[1], 'row|' .. ARGV[1], '0 0' .. (slots and ' ' .. slots or ''))
  slab = slab and int(now_ms()) .. ' open 0 0 ' .. (string.match(slab, 'slots=%d+') or '')
end
if slab then redis.call('HSET', KEYS[1], 'slab|' .. ARGV[1], slab) end
redis.call('HSET', KEYS[1], 'names', table.concat(names, ' '), 'rules', table.concat(kept, ' '), 'def|' .. ARGV[1], ARGV[2],
  'calendar|' .. ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[3], int(now_ms()), ARGV[1])
return {1}
