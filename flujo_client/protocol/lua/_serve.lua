--[[ serve — what a script that freed budget, or stopped a thread, owes to those who wait; prepended at load after the waiters. ]]
-- Reserves a waiter's estimate and dispatches it again, as the same attempt.
local function grant(desk, attempt)
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

-- Lets those under an account go on whom its budget now suffices for: who was passed over too often first, then in declared order.
local function serve(desk, account)
  local granted
  repeat
    granted = false
    for _, member in ipairs(under(desk, account, PAGE)) do
      local path, first = oldest(desk, account)
      path = first and path or string.match(member, ' (%S+)$')
      local attempt = not desk.left[path] and waiter(desk, path)
      if attempt and desk.ahead < MOST_AHEAD and not shortage(desk, attempt) then
        grant(desk, attempt)
        granted = true
      elseif first and desk.waiting == true then
        return
      end
    end
  until not granted
end

local function refuse(desk, attempt)
  local lack = shortage(desk, attempt)
  leave(desk, attempt)
  later(desk, 'HSET', desk.attempts, attempt.path .. '|state', 'closed')
  note(desk, 'kind', 'refused', 'path', attempt.path, 'attempt', attempt.attempt, 'account', lack[1], 'meter', lack[2], 'asked', lack[3],
    'free', lack[4])
  rouse(desk.book, attempt.path)  -- what follows is its manager's turn
  desk.refused, desk.lack = attempt.path, lack
end

-- Where nothing runs any more, what child accounts have free is everybody's; who cannot be paid by all there is is refused.
local function unstick(desk)
  local done = 0
  while done < #desk.book.idle and not desk.opening do
    done = done + 1
    local chain, level = desk.book.idle[done].chain, desk.book.idle[done].level
    local place, thread = chain[level], life(desk.book, chain[level].id)
    local top = level == #chain or place.strict
    if thread.running == 0 and (thread.live > 0 or top) and #under(desk, place.id, 1) > 0 then
      local above = {text = '', unpack(chain, level)}
      for _, meter in ipairs(words(redis.call('HGET', desk.book.key, 'meters'))) do pool(lineage(desk.book, above, meter), place.id) end
      serve(desk, place.id)
      if top and thread.running == 0 then
        desk.waiting = 'stuck'  -- whom nothing can be kept for
        serve(desk, place.id)
      end
      if top and thread.running == 0 then
        return refuse(desk, waiter(desk, string.match(under(desk, place.id, 1)[1], ' (%S+)$')))
      end
    end
  end
end

local function desk_close(desk)
  if desk.waiting then
    local freed = {}
    for account in pairs(desk.book.freed) do freed[#freed + 1] = account end
    table.sort(freed, function(one, other) return #one > #other end)  -- innermost first
    for _, account in ipairs(freed) do serve(desk, account) end
    unstick(desk)
    later(desk, 'HSET', desk.book.key, 'grants', int(desk.grants), 'ahead', int(desk.ahead))
  end
  book_write(desk.book)
  for _, outcome in ipairs(desk.outcomes) do append(desk.run, desk.events, desk.dirty, desk.inbox, desk.run_id, outcome) end
end

-- The run's gate closes: nobody waits any more, and what was reserved ahead is free again.
local function disband(desk)
  for _, member in ipairs(redis.call('ZRANGEBYLEX', desk.waiters, '[p', '(q', 'LIMIT', 0, MOST_AHEAD)) do
    unbook(desk.book, terms_of(redis.call('HGET', desk.attempts, string.sub(member, 2) .. '|terms')))
  end
  desk.waiting = false
  later(desk, 'DEL', desk.waiters)
  later(desk, 'HSET', desk.book.key, 'ahead', '0')
end
