--[[ hints — who of those who wait need not be looked at, as their place among the waiters tells; prepended at load after the floors.
A hint = "<account above its own>:<meter>=<amount>,...": what the waiter lacks beyond its own account at least; "-" if nothing is above. The
own account's thread stands still meanwhile; should budget come back to it all the same, the hint is made anew (`refresh`). ]]
local function hint_of(desk, attempt)
  if not attempt.chain[2] then return '-' end
  local text = {}
  for meter, need in pairs(lacking(desk, attempt.chain, 1, attempt.estimate)) do text[#text + 1] = meter .. '=' .. int(need) end
  table.sort(text)
  return attempt.chain[2].id .. ':' .. table.concat(text, ',')
end

-- Makes a waiter's hint anew; its member.
local function refresh(desk, attempt)
  local member, hint = members(attempt)[1], hint_of(desk, attempt)
  if hint == attempt.hint then return member end
  redis.call('ZREM', desk.waiters, member)
  attempt.hint = hint
  redis.call('ZADD', desk.waiters, 0, members(attempt)[1])
  redis.call('HSET', desk.attempts, attempt.path .. '|blocked', table.concat({attempt.queue, attempt.stamp, hint, attempt.claim}, ' '))
  return members(attempt)[1]
end

-- Budget came free in the account at a level of a chain: who waits in that very account lacks less.
local function refresh_own(desk, chain, level)
  if not chain[level + 1] then return end
  for _, member in ipairs(under(desk, chain[level].id, 10000000)) do
    if string.match(member, ' ([^ :]+):%S*$') == chain[level + 1].id then
      local attempt = waiter(desk, path_in(member))
      shortage(desk, attempt)  -- brings its rows into the book
      refresh(desk, attempt)
    end
  end
end

-- The accounts from a waiter's second on, which those of one parent share, and how much is within reach there.
local function parent_of(desk, parent, path)
  local found = desk.parents[parent]
  if not found then
    desk.meters = desk.meters or words(redis.call('HGET', desk.book.key, 'meters'))
    found = {chain = waiter(desk, path).chain, reach = {}}
    for _, meter in ipairs(desk.meters) do
      local rows = lineage(desk.book, {text = '', unpack(found.chain, 2)}, meter)
      found.reach[meter] = #rows > 0 and reachable(rows) or nil
    end
    desk.parents[parent] = found
  end
  return found
end

-- What a waiter lacks in an account, if that alone shows that it cannot go on; else nil.
local function ruled_out(desk, member, account)
  local path, parent, text = string.match(member, '^%S+ (%S+) ([^:]+):(.*)$')
  if not parent then return nil end
  local above, needs, short = parent_of(desk, parent, path), {}, false
  for meter, number in string.gmatch(text, '([^=,]+)=(%d+)') do
    needs[meter] = tonumber(number)
    short = short or needs[meter] > (above.reach[meter] or needs[meter])
  end
  return short and lacking_in(desk, account, above.chain, 2, needs) or nil
end
