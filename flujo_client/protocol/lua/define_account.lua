--[[ define_account — define a named account, or define it anew: what it has taken stays taken, and those who wait are looked at again.
KEYS  1 named hash   2 named_due zset
ARGV  1 account   2 definition, "<wait or refuse> <total, calendar or sliding> <window_ms> <grain_ms> <meter>=<limit> ..."
      3 starts of its windows, ms   4 patterns of the pipelines whose runs it pays for
REPLY {1} defined ]]
local kept, names = {}, {}
for pattern, account in string.gmatch(redis.call('HGET', KEYS[1], 'rules') or '', '(%S+) (%S+)') do
  if account ~= ARGV[1] then kept[#kept + 1] = pattern .. ' ' .. account end
end
for _, pattern in ipairs(words(ARGV[4])) do kept[#kept + 1] = pattern .. ' ' .. ARGV[1] end
for _, name in ipairs(words(redis.call('HGET', KEYS[1], 'names'))) do
  if name ~= ARGV[1] then names[#names + 1] = name end
end
names[#names + 1] = ARGV[1]
redis.call('HSET', KEYS[1], 'names', table.concat(names, ' '), 'rules', table.concat(kept, ' '), 'def|' .. ARGV[1], ARGV[2],
  'calendar|' .. ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], int(now_ms()), ARGV[1])
return {1}
