--[[ stuck — what a script that stopped the last thread of an account owes to those who wait there, and how it ends; prepended at load
after those who are served. ]]
local function refuse(desk, attempt)
  local lack = shortage(desk, attempt)
  if attempt.claim then  -- in its place: its next call finds the answer
    later(desk, 'HSET', desk.attempts, 'claim|' .. attempt.claim .. '|asks', attempt.counter .. ' refused ' .. table.concat(lack, ' '))
  else
    later(desk, 'HSET', desk.attempts, attempt.path .. '|state', 'closed')
    note(desk, 'kind', 'refused', 'path', attempt.path, 'attempt', attempt.attempt, 'account', lack[1], 'meter', lack[2], 'asked', lack[3],
      'free', lack[4])
  end
  stand_up(desk, attempt)  -- what follows is its manager's turn, or the running step's
  desk.refused, desk.lack, desk.stuck = attempt.path, lack, false
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
        desk.stuck = true  -- nothing can be kept for anybody
        serve(desk, place.id)
      end
      if top and thread.running == 0 then
        return refuse(desk, waiter(desk, path_in(under(desk, place.id, 1)[1])))
      end
      desk.stuck = false
    end
  end
end

local function desk_close(desk)
  if desk.waiting then
    repeat
      serve_freed(desk)
      unstick(desk)
    until not next(desk.book.freed)
    write_floors(desk)
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
