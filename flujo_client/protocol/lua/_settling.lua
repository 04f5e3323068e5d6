--[[ settling — how bookings on named accounts end, and what becomes of an attempt that they do not let start; prepended at load after the charges. ]]
-- Ends bookings that lie in a part of their accounts: `usage` was used, the rest is free again, or unknown where it is `kept`. What goes
-- beyond what was booked is charged to the window of today. Returns the bookings that a late bill settles.
local function named_settle(named, bookings, part, usage, kept, ledger, inbox)
  local left, rest_of, freed = {}, {}, {}
  local function tell(id, meter, tag, what, change)
    if change ~= 0 then redis.call('HINCRBY', ledger, table.concat({'named', id, meter, int(tag), what}, '|'), int(change)) end
  end
  for id, meter, held, tag in string.gmatch(bookings, '(%S+) (%S+) (%d+) (%d+)') do
    local account, over = named_account(named, id), id .. ' ' .. meter
    held, tag = tonumber(held), tonumber(tag)
    if account and meter == 'slots' then
      part_of(account, meter)[1] = math.max(0, part_of(account, meter)[1] - held)
      freed[id] = true
    elseif account then
      rest_of[over] = rest_of[over] or usage[meter] or 0
      local used = math.min(held, rest_of[over])
      local unknown, parts = kept and held - used or 0, part_of(account, meter)
      rest_of[over] = rest_of[over] - used
      if account.kind ~= 'sliding' then
        if tag == account.start then
          parts[part] = math.max(0, parts[part] - held)
          parts[2], parts[3] = parts[2] + used, parts[3] + unknown
        end
      elseif tag + account.length > named.now then
        pour(named, account, meter, used + unknown - held, tag)
      end
      freed[id] = freed[id] or used + unknown < held
      left[#left + 1] = table.concat({id, meter, int(unknown), int(tag)}, ' ')
      tell(id, meter, tag, 'spent', used)
      tell(id, meter, tag, 'unknown', unknown - (part == 3 and held or 0))
    end
  end
  for over, amount in pairs(rest_of) do
    local id, meter = string.match(over, '^(%S+) (%S+)$')
    local account = named_account(named, id)
    if amount > 0 and account.kind == 'sliding' then tell(id, meter, pour(named, account, meter, amount), 'spent', amount)
    elseif amount > 0 then
      part_of(account, meter)[2] = part_of(account, meter)[2] + amount
      tell(id, meter, account.start, 'spent', amount)
    end
  end
  for id in pairs(freed) do post(named, id, inbox) end
  return table.concat(left, ' ')
end

-- An attempt whose named accounts do not let it start is refused if they never will; else its thread rests until it is called.
local function stall(desk, attempt, terms, paid, lack, member, nonce)
  local path, claim = attempt.path, 'claim|' .. nonce .. '|'
  if paid then
    redis.call('ZREM', desk.waiters, 'p' .. path)
    unbook(desk.book, terms)
    desk.ahead = desk.ahead - 1
  end
  if lack[7] then
    redis.call('ZREM', desk.dispatches, member)
    redis.call('HDEL', desk.published, member)
    redis.call('HSET', desk.attempts, path .. '|state', 'closed', path .. '|nonce', nonce, claim .. 'phase', 'refused', claim .. 'answer',
      table.concat(lack, ' ', 1, 4))
    note(desk, 'kind', 'refused', 'path', path, 'attempt', attempt.attempt, 'account', lack[1], 'meter', lack[2], 'asked', lack[3],
      'free', lack[4], 'limit', lack[5])
  else
    redis.call('ZADD', desk.dispatches, int(now_ms() + LOOK_AGAIN_MS), member)
    redis.call('HSET', desk.published, member, '0 0')
    redis.call('HSET', desk.attempts, path .. '|waits', table.concat({attempt.attempt, lack[1], lack[2], lack[6]}, ' '))
    rest(desk.book, path, attempt.chain)
  end
  desk_close(desk)
end
