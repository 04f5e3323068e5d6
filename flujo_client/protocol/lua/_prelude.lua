--[[ prelude — what every script may use: numbers and words, an attempt's terms, and how an outcome is appended. Prepended at load
and hashed with the script. ]]
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

local function said_amounts(list)
  local text = {}
  for meter, amount in pairs(list) do text[#text + 1] = meter .. '=' .. int(amount) end
  return table.concat(text, ' ')
end

-- A path whose text sorts in declared order.
local function padded(path)
  return (string.gsub(path, '%d+', function(digits) return string.rep('0', 7 - #digits) .. digits end))
end

-- An attempt's terms, as advance.lua stores them: lease_ms, fate of a lost attempt's spend, chain of accounts, estimate, payload fields,
-- named accounts.
local function terms_of(text)
  local list = {}
  for term in string.gmatch((text or '') .. ';', '([^;]*);') do list[#list + 1] = term end
  return list
end

-- What an inbox gets: the run, with the outcome where it is short: "run", or the lines run, id before, id, field, value, ...
local function wake_up(run_id, before, id, fields)
  for _, value in ipairs(fields) do
    if #value > 2048 or string.find(value, '\n', 1, true) then return run_id end
  end
  return table.concat({run_id, before, id, table.concat(fields, '\n')}, '\n')
end

local QUIET_MS = 250  -- how long a run may go on as it was decided ahead before its manager is told

-- Appends an outcome to the run's stream and marks the run dirty; wakes its manager if nobody has since the last one it applied.
-- After a quiet outcome the run has gone on already: its manager may hear of it together with the next ones.
local function append(run, events, dirty, inbox, run_id, fields, quiet)
  local id = redis.call('XADD', events, '*', unpack(fields))
  local known = redis.call('HMGET', run, 'last_event', 'ahead')
  local before = known[1] or '0-0'
  redis.call('HSET', run, 'last_event', id, 'next|' .. before, id)  -- managers go from outcome to outcome, past every chunk
  local at = string.match(id, '^(%d+)')  -- stream ids begin with Redis' own time
  local silent = redis.call('ZADD', dirty, 'NX', at, run_id) == 1 or known[2] == before
  if quiet then
    redis.call('HSET', run, 'ahead', id)
    silent = tonumber(at) - tonumber(redis.call('ZSCORE', dirty, run_id)) > QUIET_MS
  end
  if silent then
    redis.call('LPUSH', inbox, wake_up(run_id, before, id, fields))
    redis.call('EXPIRE', inbox, 60)
  end
  return id
end

-- The links from the last outcome applied to another one; nil if none leads there: Redis has lost it, and a manager remembers it.
local function links_between(run, applied, last)
  local links = {}
  while applied and applied ~= last do
    links[#links + 1] = 'next|' .. applied
    applied = redis.call('HGET', run, links[#links])
  end
  return applied and links
end

-- Alarms of pauses, "path what at_ms ...": set, or dropped where at is 0.
local function set_alarms(alarms, run_id, text)
  for path, what, at in string.gmatch(text, '(%S+) (%S+) (%d+)') do
    local member = table.concat({run_id, path, what}, ' ')
    if at == '0' then redis.call('ZREM', alarms, member) else redis.call('ZADD', alarms, at, member) end
  end
end
