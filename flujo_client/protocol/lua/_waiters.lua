--[[ waiters — attempts that wait for budget: who goes on when some comes free, and who is refused; prepended at load.
A desk holds a script's book and its run's keys. Members of the waiters zset, of score 0, paths padded to sort in declared order:
"d<path> <raw> <hint>" a waiter (see the hints); "a<account> <stamp> <path> <raw>" the same by age, per account above it; "p<raw>" one whose estimate is
reserved, dispatched and not leased yet. "grants" counts draws on shared budget; a waiter's stamp is that count when it came. ]]
local MOST_PASSED = 16  -- grants to others before a waiter has the first claim on what it could use
local MOST_AHEAD = 128  -- estimates reserved ahead of their lease: bounds what one script does

-- Who waits below an account, in declared order, from the first or `after` one of them.
local function under(desk, account, count, after)
  local from, to = '[d', '(e'
  if account ~= 'root' then from, to = '[d' .. padded(account) .. ' ', '(d' .. padded(account) .. '/' end
  return redis.call('ZRANGEBYLEX', desk.waiters, after and '[' .. after .. ' ' or from, to, 'LIMIT', 0, int(count))
end

local function path_in(member) return string.match(member, '^%S+ (%S+)') end

local function members(attempt)
  local place = padded(attempt.path) .. ' ' .. attempt.path
  local list, stamp = {'d' .. place .. ' ' .. attempt.hint}, string.rep('0', 16 - #attempt.stamp) .. attempt.stamp
  for _, account in ipairs(attempt.chain) do
    if not account.cap then list[#list + 1] = table.concat({'a' .. padded(account.id), stamp, place}, ' ') end
  end
  return list
end

-- One that waits. A running step that asks for more waits in its place: it has its `claim`, and asks for what stands there.
local function waiter(desk, path)
  local stored = redis.call('HMGET', desk.attempts, path .. '|attempt', path .. '|terms', path .. '|blocked')
  local terms, blocked = terms_of(stored[2]), words(stored[3])
  local asks = blocked[4] and redis.call('HGET', desk.attempts, 'claim|' .. blocked[4] .. '|asks')
  return {path = path, attempt = stored[1], chain = chain_of(terms[3]), estimate = amounts(asks or terms[4]), queue = blocked[1],
    stamp = blocked[2], hint = blocked[3], claim = blocked[4], counter = words(asks or '')[1]}
end

-- The one that has waited longest below an account, and whether it was passed over too often.
local function oldest(desk, account)
  local at = 'a' .. padded(account)
  local member = redis.call('ZRANGEBYLEX', desk.waiters, '[' .. at .. ' ', '(' .. at .. '!', 'LIMIT', 0, 1)[1]
  local stamp, path = string.match(member or '', ' (%d+) %S+ (%S+)$')
  return path, stamp and desk.grants - tonumber(stamp) >= MOST_PASSED
end

-- Whether what an account above has free is kept for one that was passed over too often.
local function kept(desk, rows, asked, path)
  local missing = asked - free(rows[1])
  for level = 2, rows.top do
    if missing <= 0 then return false end
    local other, first = oldest(desk, rows[level].account)
    if first and other ~= path then return true end
    missing = missing - free(rows[level])
  end
  return false
end

-- Why an attempt cannot have its estimate: account, meter, asked, free; nil if it can. Where several are short, cost is named.
local function shortage(desk, attempt)
  local lack
  for meter, asked in pairs(attempt.estimate) do
    local rows = lineage(desk.book, attempt.chain, meter)
    local most, account = reachable(rows)
    if #rows > 0 and (most < asked or (desk.waiting and not desk.stuck and kept(desk, rows, asked, attempt.path))) then
      if not lack or meter == 'cost_nanousd' or (lack[2] ~= 'cost_nanousd' and meter < lack[2]) then
        lack = {account, meter, int(asked), int(most)}
      end
    end
  end
  return lack
end

local function book_estimate(desk, attempt)
  local shared = 0
  for meter, asked in pairs(attempt.estimate) do
    local rows = lineage(desk.book, attempt.chain, meter)
    if #rows > 0 then
      if asked > free(rows[1]) then shared = 1 end
      take(rows, 'reserved', asked)
    end
  end
  desk.grants = desk.grants + shared
end

local function later(desk, ...) desk.book.writes[#desk.book.writes + 1] = {...} end

local function leave(desk, attempt)
  if desk.grants - tonumber(attempt.stamp) >= MOST_PASSED then desk.book.freed.root = true end  -- what was kept for it is for others
  redis.call('ZREM', desk.waiters, unpack(members(attempt)))
  redis.call('HDEL', desk.attempts, attempt.path .. '|blocked')
end

local function desk_open(desk)
  desk.outcomes, desk.floors, desk.parents, desk.waiting = {}, {}, {}, redis.call('EXISTS', desk.waiters) == 1
  local counts = redis.call('HMGET', desk.book.key, 'grants', 'ahead', 'opening')
  desk.grants, desk.ahead, desk.opening = tonumber(counts[1] or 0), tonumber(counts[2] or 0), counts[3] == '1'
  return desk
end
