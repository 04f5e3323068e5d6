--[[ serve — who waits for budget, and who goes on when some comes free; prepended at load after the hints. ]]
local PAGE = 64  -- places of waiters that are read at a time

-- Enters an attempt among the waiters. From here on the script has written.
local function wait(desk, attempt, queue)
  attempt.queue, attempt.stamp, attempt.hint, desk.waiting = queue, int(desk.grants), hint_of(desk, attempt), true
  lower(desk, attempt.chain, 1, attempt.estimate)
  for _, member in ipairs(members(attempt)) do redis.call('ZADD', desk.waiters, 0, member) end
  redis.call('HSET', desk.attempts, attempt.path .. '|blocked', table.concat({queue, attempt.stamp, attempt.hint, attempt.claim}, ' '))
  if not attempt.claim then redis.call('HSET', desk.attempts, attempt.path .. '|state', 'blocked') end
  rest(desk.book, attempt.path, attempt.chain)
end

-- Reserves a waiter's estimate and dispatches it again, as the same attempt.
local function grant(desk, attempt)
  desk.parents = {}
  if attempt.claim then return answer(desk, attempt) end
  book_estimate(desk, attempt)
  leave(desk, attempt)
  redis.call('ZADD', desk.waiters, 0, 'p' .. attempt.path)
  desk.ahead = desk.ahead + 1
  local now = now_ms()
  local member = table.concat({desk.run_id, attempt.path, attempt.attempt, attempt.queue}, ' ')
  later(desk, 'HSET', desk.attempts, attempt.path .. '|state', 'dispatched', attempt.path .. '|nonce', '')
  later(desk, 'ZADD', desk.dispatches, int(now + 2000), member)  -- from then on its message may be lost
  later(desk, 'HSET', desk.published, member, int(now) .. ' 1')
  rouse(desk.book, attempt.path)
  note(desk, 'kind', 'unblocked', 'path', attempt.path, 'attempt', attempt.attempt)
end

-- The chain of those who wait below an account, and its level there; nil if nobody does.
local function queue_below(desk, account)
  local head = under(desk, account, 1)[1]
  local chain, level = head and waiter(desk, path_in(head)).chain, 1
  while chain and chain[level] and chain[level].id ~= account do level = level + 1 end
  return chain and chain[level] and chain, level
end

-- The next waiter below an account, in declared order, who may be able to go on; nil after the last. Those before it go into `least`.
local function look(desk, account, after, least)
  repeat
    local page = under(desk, account, PAGE, after)
    for _, member in ipairs(page) do
      local needs = ruled_out(desk, member, account)
      if not needs then return path_in(member), after, least end
      after, least = member, lowest(least, needs)
    end
  until #page < PAGE
  return nil, after, least
end

-- Lets exactly those below an account go on whom its budget suffices for: who was passed over too often first, then in declared order.
local function serve(desk, account)
  local chain, level = queue_below(desk, account)
  local after, least, tried
  desk.parents = {}  -- budget may have been pooled since
  while chain and desk.ahead < MOST_AHEAD and above_floor(desk, chain, level) do
    local path, first = oldest(desk, account)
    first = first and path ~= tried and not desk.stuck
    if not first then path, after, least = look(desk, account, after, least) end
    local attempt = path and waiter(desk, path)
    if not path then  -- all have been looked at
      put_floor(floor_of(desk, account), least)
      break
    elseif not shortage(desk, attempt) then
      grant(desk, attempt)
      if first then after, least = nil, nil end  -- nothing is kept for it any more
    elseif first then
      if lacks_any(desk, account) then break end
      tried = path  -- those who need nothing that is kept for it
    else
      after = refresh(desk, attempt)
      least = lowest(least, lacking_in(desk, account, attempt.chain, 1, attempt.estimate))
    end
  end
  if chain then lower_above(desk, chain, level) end
end

-- Serves the accounts in which budget came free, but for those that lie below another of them.
local function serve_freed(desk)
  local freed, accounts = desk.book.freed, {}
  desk.book.freed = {}
  for account in pairs(freed) do accounts[#accounts + 1] = account end
  table.sort(accounts, function(one, other) return #one > #other end)  -- innermost first
  for _, account in ipairs(accounts) do
    local chain, level = queue_below(desk, account)
    if chain then
      refresh_own(desk, chain, level)
      lower_above(desk, chain, level)
    end
  end
  table.sort(accounts, function(one, other) return padded(one) < padded(other) end)
  for _, account in ipairs(accounts) do
    local covered = account ~= 'root' and freed.root
    for above in pairs(freed) do covered = covered or string.sub(account, 1, #above + 1) == above .. '.' end
    if not covered then serve(desk, account) end
  end
end
