--[[ charges — what attempts take from named accounts, give back, and wait for; prepended at load after the named accounts. ]]
local MOST_WINDOW_MS = 60000  -- for which a running step at the most lets go first whom others have passed
local LOOK_AGAIN_MS = 300000  -- when a dispatch that waits for a named account is looked at although nobody called it

-- What an attempt asks of an account, by meter; or what it adds to what it has, where `named.extends`.
local function asked_of(named, account, estimate)
  local asks = {}
  for meter in pairs(account.limits) do
    if named.extends then asks[meter] = estimate[meter]
    else asks[meter] = meter == 'slots' and 1 or math.max(estimate[meter] or 0, meter == 'requests' and 1 or 0) end
  end
  return asks
end

-- When a window will have room for what is asked, if nothing else is taken; 0 where only others can make room.
local function room_at(named, account, meter, asked, room)
  if account.closed > named.now then return account.closed end
  if meter == 'slots' or account.kind == 'total' then return 0 end
  if account.kind == 'calendar' then return account.ending end
  for _, member in ipairs(buckets(named, account)) do
    local at = tonumber(string.match(member, '(%d+)$'))
    local held = at >= account.start and redis.call('HGET', named.key, 'bucket|' .. string.sub(member, 2))
    room = room + (held and amounts(held)[meter] or 0)
    if held and room >= math.max(asked, 1) then return at + account.length end
  end
  return 0
end

-- Who has waited longest in an account, and its stamp.
local function first_waiter(named, id)
  local at = 'w' .. id .. ' '
  local entry = redis.call('ZRANGEBYLEX', named.queue, '[' .. at, '(' .. at .. ':', 'LIMIT', 0, 1)[1]
  local stamp, member = string.match(entry or '', '^%S+ (%d+) (.+)$')
  return member, stamp
end

-- Whether what an account has is kept for the first who waits there: running steps that ask for more have passed it too often. Who has
-- waited in its place for as long as that room may take passes it: it may hold what the other needs elsewhere.
local function keeps(named, account, since)
  local passed = words(redis.call('HGET', named.key, 'passed|' .. account.id) or '')
  local patience = account.kind == 'sliding' and math.min(account.length, MOST_WINDOW_MS) or MOST_PATIENT_MS
  return account.waits and passed[1] == since and tonumber(passed[2]) >= MOST_PASSED and named.waited < patience
end

local function named_book(named, estimate)
  local text = {}
  for _, id in ipairs(named.names) do
    local account = named_account(named, id)
    for meter, amount in pairs(account and asked_of(named, account, estimate) or {}) do
      local tag = meter == 'slots' and 0 or account.start
      if account.kind == 'sliding' and meter ~= 'slots' then
        tag = pour(named, account, meter, amount)
      else
        part_of(account, meter)[1] = part_of(account, meter)[1] + amount
      end
      text[#text + 1] = table.concat({id, meter, int(amount), int(tag)}, ' ')
    end
  end
  return table.concat(text, ' ')
end

-- Bookings without repetitions.
local function merged(bookings)
  local sums, text = {}, {}
  for where, meter, amount, tag in string.gmatch(bookings, '(%S+) (%S+) (%d+) (%d+)') do
    local at = where .. ' ' .. meter .. ' %s ' .. tag
    sums[at] = (sums[at] or 0) + tonumber(amount)
  end
  for at, amount in pairs(sums) do text[#text + 1] = (string.gsub(at, '%%s', int(amount))) end
  return table.concat(text, ' ')
end

-- Something came free: whoever manages runs calls those who wait for it.
local function post(named, id, inbox)
  if not first_waiter(named, id) then return end
  redis.call('ZADD', named.due, int(named.now), id)
  if inbox then
    redis.call('LPUSH', inbox, '@' .. id)
    redis.call('EXPIRE', inbox, 60)
  end
end

-- What an attempt that ran says that it used; it was one request, if it says nothing about requests.
local function said(usage)
  return setmetatable({}, {__index = function(_, meter) return usage[meter] or (meter == 'requests' and 1 or nil) end})
end

local function used_of(account, meter)
  local parts = part_of(account, meter)
  return parts[1] + parts[2] + parts[3]
end

local function place_of(named, member) return terms_of(redis.call('HGET', named.key, 'place|' .. member)) end
