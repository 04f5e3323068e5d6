--[[ floors — how much must be within an account's reach before anybody who waits below it can go on; prepended at load after the
waiters, whose page says who waits. "floor|<account>" = "<meter>=<amount> ...": each waiter below asks for as much at least, beyond what the
accounts between it and this one have free. It is a lower bound: budget that comes free further down lowers it, in the same script
(`lower`), what is taken down there leaves it too low until everybody was looked at again. A meter that it lacks rules nobody out. ]]
-- {least = amounts, nil if nobody waits below}.
local function floor_of(desk, account)
  if not desk.floors[account] then
    local waits = under(desk, account, 1)[1]
    desk.floors[account] = {least = waits and amounts(redis.call('HGET', desk.book.key, 'floor|' .. account)) or nil}
  end
  return desk.floors[account]
end

local function put_floor(floor, least) floor.least, floor.touched = least, true end

local function lowest(least, needs)
  local both = {}
  for meter, need in pairs(needs) do both[meter] = least and math.min(need, least[meter] or 0) or need end
  return both
end

-- What is lacking above the account at a level of a chain, if so much is lacking in it.
local function lacking(desk, chain, level, needs)
  local rest, upwards = {}, {text = '', unpack(chain, level)}
  for meter, need in pairs(needs) do
    local nearest = lineage(desk.book, upwards, meter)[1]
    local own = nearest and nearest.account == chain[level].id
    rest[meter] = own and math.max(0, need - free(nearest)) or need
  end
  return rest
end

-- What is lacking in an account above, if so much is lacking in the one at a level of a chain; nil if it is not above.
local function lacking_in(desk, account, chain, level, needs)
  for i = level, #chain do
    if chain[i].id == account then return needs end
    needs = lacking(desk, chain, i, needs)
  end
end

-- Somebody below lacks no more than `needs` in the account at a level of a chain; the floors from there on hear of it.
local function lower(desk, chain, level, needs)
  for i = level, #chain do
    local floor = floor_of(desk, chain[i].id)
    put_floor(floor, lowest(floor.least, needs))
    needs = lacking(desk, chain, i, needs)
  end
end

-- Budget came free in the account at a level of a chain: those below lack less in what is above it.
local function lower_above(desk, chain, level)
  local least = floor_of(desk, chain[level].id).least
  if least then lower(desk, chain, level + 1, lacking(desk, chain, level, least)) end
end

-- Whether what is within reach of the account at a level of a chain may suffice for anybody below.
local function above_floor(desk, chain, level)
  local least, upwards = floor_of(desk, chain[level].id).least, {text = '', unpack(chain, level)}
  for meter, need in pairs(least or {}) do
    local rows = lineage(desk.book, upwards, meter)
    if #rows > 0 and reachable(rows) < need then return false end
  end
  return least ~= nil
end

-- Whether all who wait below an account lack something in it.
local function lacks_any(desk, account)
  for _, need in pairs(floor_of(desk, account).least or {}) do
    if need > 0 then return true end
  end
  return false
end

local function write_floors(desk)
  for account, floor in pairs(desk.floors) do
    if floor.touched then
      later(desk, 'HSET', desk.book.key, 'floor|' .. account, said_amounts(floor.least or {}))
    end
  end
end
