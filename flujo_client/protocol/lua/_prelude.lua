--[[ prelude — account arithmetic shared by the scripts that move budget; prepended at load and hashed with them.
The accounts hash of a run holds, per account and limited meter, "<account>|<meter>|<part>" with the parts
granted, reserved, spent, unknown, children (granted to child accounts) and overrun (outside the equation
granted = free + reserved + spent + unknown + children); "<account>|closed" once its branch ended;
"split|<path>|<meter>" = "<base> <remainder>" for a parallel node, from which a branch's account is made on
its first touch; "meters" = the limited meters; "total|<meter>" = what the run spent, limited or not. ]]
local PARTS = {'granted', 'reserved', 'spent', 'unknown', 'children', 'overrun'}

local function int(number) return string.format('%.0f', number) end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function words(text)
  local list = {}
  for word in string.gmatch(text or '', '%S+') do list[#list + 1] = word end
  return list
end

local function amounts(text)
  local list = {}
  for meter, number in string.gmatch(text or '', '(%S+)=(%d+)') do list[meter] = tonumber(number) end
  return list
end

-- A row is one account's meter held in memory; nothing is written before book_write.
local function book_open(key) return {key = key, rows = {}, splits = {}} end

local function branch_share(book, account, meter)
  local split, index = string.match(account, '^(.+)%.(%d+)$')
  if not split then return nil end
  local field = 'split|' .. split .. '|' .. meter
  local share = book.splits[field] or redis.call('HGET', book.key, field)
  if not share then return nil end
  local base, remainder = string.match(share, '^(%d+) (%d+)$')
  return tonumber(base) + (tonumber(index) < tonumber(remainder) and 1 or 0)
end

local function row(book, account, meter)
  local id = account .. '|' .. meter
  if book.rows[id] then return book.rows[id] end
  local fields = {account .. '|closed'}
  for i, part in ipairs(PARTS) do fields[i + 1] = id .. '|' .. part end
  local stored = redis.call('HMGET', book.key, unpack(fields))
  local entry = {id = id, closed = stored[1]}
  for i, part in ipairs(PARTS) do entry[part] = tonumber(stored[i + 1] or 0) end
  if not stored[2] then
    entry.granted = branch_share(book, account, meter)
    if not entry.granted then return nil end
    entry.touched = true
  end
  book.rows[id] = entry
  return entry
end

local function free(entry)
  return entry.granted - entry.reserved - entry.spent - entry.unknown - entry.children
end

-- The limited accounts of a chain, innermost first.
local function lineage(book, chain, meter)
  local rows = {}
  for _, account in ipairs(chain) do rows[#rows + 1] = row(book, account, meter) end
  return rows
end

local function reachable(rows)
  local sum = 0
  for _, entry in ipairs(rows) do sum = sum + free(entry) end
  return sum
end

-- Makes up to `wanted` free in the innermost account, drawing on the nearest ancestor first; returns what is free.
local function draw(rows, wanted)
  for level = 2, #rows do
    local part = math.min(wanted - free(rows[1]), free(rows[level]))
    if part > 0 then
      for i = 1, level do
        if i < level then rows[i].granted = rows[i].granted + part end
        if i > 1 then rows[i].children = rows[i].children + part end
        rows[i].touched = true
      end
    end
  end
  return math.min(wanted, free(rows[1]))
end

-- A closed account keeps what it spent and still holds; the rest goes to the nearest open ancestor.
local function give_back(rows)
  for level = 1, #rows - 1 do
    if not rows[level].closed then return end
    local rest = free(rows[level])
    rows[level].granted = rows[level].granted - rest
    rows[level + 1].children = rows[level + 1].children - rest
    rows[level].touched, rows[level + 1].touched = true, true
  end
end

-- Turns `held` (a part: reserved or unknown) into spent; what no account covers is overrun, and is returned.
local function settle(book, chain, meter, part, held, actual)
  local rows = lineage(book, chain, meter)
  if #rows == 0 then return 0 end
  local own = rows[1]
  own[part] = own[part] - held
  local covered = draw(rows, actual)
  own.spent = own.spent + covered
  own.overrun = own.overrun + (actual - covered)
  own.touched = true
  give_back(rows)
  return actual - covered
end

local function book_write(book)
  for id, entry in pairs(book.rows) do
    if entry.touched then
      local fields = {}
      for _, part in ipairs(PARTS) do
        fields[#fields + 1] = id .. '|' .. part
        fields[#fields + 1] = int(entry[part])
      end
      redis.call('HSET', book.key, unpack(fields))
    end
  end
end

-- Appends an outcome to the run's stream and marks the run dirty; wakes its manager if it was not dirty before.
local function append(run, events, dirty, inbox, run_id, fields)
  local id = redis.call('XADD', events, '*', unpack(fields))
  redis.call('HSET', run, 'last_event', id)
  local at = string.match(id, '^(%d+)')  -- stream ids begin with Redis' own time
  if redis.call('ZADD', dirty, 'NX', at, run_id) == 1 then
    redis.call('LPUSH', inbox, run_id)
    redis.call('EXPIRE', inbox, 60)
  end
  return id
end
