--[[ places — who waits for named accounts, in which order, and who goes on; prepended at load after the settling. ]]
local MOST_IN_VAIN = 4  -- calls that found another account exhausted, before a waiter stands in all of its accounts at once

-- Why named accounts cannot pay now: {account, meter, asked, free, limit, until, whether it never can, wait_ms} of one that never can,
-- else of the first, and of its meters the one that is short, where one is; nil if all can. Who has nothing free lets nobody in, also who asks for nothing; who came later waits behind those
-- who came before: `stamp` says when it came, nil for one that is new, '' for one that passes everybody whom it may.
local function named_lack(named, member, estimate, stamp)
  local found
  for _, id in ipairs(named.names) do
    local account = named_account(named, id)
    local ahead, since = first_waiter(named, id)
    local behind = ahead and ahead ~= member and (not stamp or since < stamp or (named.extends and account and keeps(named, account, since)))
    local lack
    for meter, asked in pairs(account and asked_of(named, account, estimate) or {}) do
      local limit, least = account.limits[meter], math.max(asked, 1)
      local left = most_here(account, meter) - used_of(account, meter)
      local never = limit < least or (left < least and not account.waits and account.closed <= named.now and is_dry(named, account))
      local short, told = left < least, lack and lack.short
      local worse = not lack or (short and not told) or (short == told and meter < lack[2])
      if never or (not found and worse and (account.closed > named.now or behind or short)) then
        local at = look_at(named, account, room_at(named, account, meter, asked, left))
        local wait_ms = int(at > 0 and math.max(account.slab and DRY_AGAIN_MS or 1, at - named.now) or 0)
        lack = {id, meter, int(asked), int(math.max(0, left)), int(limit), int(at), never, wait_ms, short = short}
        if never then return lack end
      end
    end
    found = found or lack
  end
  return found
end

-- A dispatch waits for no account any more, and what it was called with is free again.
local function named_drop(named, member)
  local place = place_of(named, member)
  if place[1] == 'p' then named_settle(named, place[4], 1, {}, false) end
  for _, id in ipairs(place[1] == 'w' and words(place[2]) or {}) do
    redis.call('ZREM', named.queue, table.concat({'w' .. id, place[3], member}, ' '))
  end
  redis.call('HDEL', named.key, 'place|' .. member)
  return place
end

-- Drops a dispatch that waits no more where it waited: whom it stood before may be payable, but for those of the account that is `called`.
local function named_leave(named, member, inbox, called)
  local place = named_drop(named, member)
  for _, id in ipairs(place[1] == 'w' and words(place[2]) or {}) do
    if id ~= called then post(named, id, inbox) end
  end
  return place
end

-- Enters a dispatch, dropped from its `place`, among those who wait for an account, as old as it is. One that was called in vain too often
-- stands in all that may be waited for: nobody who came later passes it in any of them, so their room adds up until it can go on.
local function named_wait(named, member, lack, place, names, estimate)
  local stamp, stands = place[3] or padded_ms(redis.call('HINCRBY', named.key, 'stamp', 1)), {lack[1]}
  local vain = tonumber(place[6] or 0) + (place[1] == 'w' and place[2] ~= lack[1] and 1 or 0)
  for _, id in ipairs(vain >= MOST_IN_VAIN and words(names) or {}) do
    local account = named_account(named, id)
    if account and account.waits and id ~= lack[1] then stands[#stands + 1] = id end
  end
  for _, id in ipairs(stands) do redis.call('ZADD', named.queue, 0, table.concat({'w' .. id, stamp, member}, ' ')) end
  redis.call('HSET', named.key, 'place|' .. member, table.concat({'w', table.concat(stands, ' '), stamp, names, estimate, int(vain)}, ';'))
  if lack[6] ~= '0' and first_waiter(named, lack[1]) == member then redis.call('ZADD', named.due, lack[6], lack[1]) end
end

-- Books what an attempt asks of its named accounts, or says why it cannot have it: it waits then, unless it never can.
local function named_take(named, member, estimate, terms, inbox)
  local place = place_of(named, member)
  if place[1] == 'p' then named_drop(named, member) end
  named.dry = place[1] == 'd' and place[2] or nil
  local lack = named_lack(named, member, estimate, place[1] == 'p' and '' or place[3])
  if place[1] == 'w' or place[1] == 'q' or place[1] == 'd' then named_leave(named, member, inbox) end
  if not lack then return named_book(named, estimate) end
  if not lack[7] then
    named_wait(named, member, lack, place, terms[6], terms[4])
    if lack[6] == int(named.now) and first_waiter(named, lack[1]) == member then post(named, lack[1], inbox) end  -- a slab is short
  end
  return nil, lack
end

-- What those who wait for an account need: the first of them, and the first sixteen together; nothing where nobody waits.
local function slab_needs(named, account)
  local least = amounts(redis.call('HGET', named.key, 'want|' .. account.id) or '')
  local needs, at = {}, 'w' .. account.id .. ' '
  for meter, asked in pairs(least) do needs[meter] = asked end
  for i, entry in ipairs(redis.call('ZRANGEBYLEX', named.queue, '[' .. at, '(' .. at .. ':', 'LIMIT', 0, 16)) do
    local place = place_of(named, string.match(entry, '^%S+ %d+ (.+)$'))
    for meter, asked in pairs(asked_of(named, account, amounts(place[5]))) do
      asked = math.max(asked, 1)
      needs[meter] = (needs[meter] or 0) + asked
      if i == 1 then least[meter] = math.max(least[meter] or 0, asked) end
    end
  end
  return least, needs
end
