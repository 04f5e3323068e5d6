--[[ moves — how budget moves between the rows of a chain; prepended at load after the accounts. ]]
-- What the innermost account could get, caps considered; and the account that sets the limit.
local function reachable(rows)
  local sum, account = 0, rows[1] and rows[1].account
  if rows[2] and rows[1].cap then account = rows[2].account end
  for level = 1, rows.top do sum = sum + free(rows[level]) end
  for _, entry in ipairs(rows) do
    if entry.cap and entry.cap - use(entry) < sum then sum, account = entry.cap - use(entry), entry.account end
  end
  return math.max(0, sum), account
end

-- Books `amount` (it must be reachable) in a part of the innermost account, drawing on the nearest ancestor first.
local function take(rows, part, amount)
  for level = 2, rows.top do
    local drawn = math.min(amount - free(rows[1]), free(rows[level]))
    if drawn > 0 then
      for i = 1, level - 1 do
        rows[i].granted, rows[i + 1].children = rows[i].granted + drawn, rows[i + 1].children + drawn
      end
    end
  end
  rows[1][part] = rows[1][part] + amount
  for level, entry in ipairs(rows) do
    entry.touched = true
    if level > 1 then entry.held = entry.held + amount end
  end
end

-- Takes `amount` out of a part again. What a closed account has free goes to the nearest open ancestor.
local function release(book, rows, part, amount)
  rows[1][part] = rows[1][part] - amount
  for level, entry in ipairs(rows) do
    entry.touched = true
    if level > 1 then entry.held = entry.held - amount end
  end
  book.freed[rows[1].account] = amount > 0 or book.freed[rows[1].account]
end

local function give_back(book, rows)
  for level = 1, #rows - 1 do
    if rows[level].closed == 0 then return end
    local rest = free(rows[level])
    rows[level].granted, rows[level + 1].children = rows[level].granted - rest, rows[level + 1].children - rest
    rows[level].touched, rows[level + 1].touched = true, true
    book.freed[rows[level + 1].account] = rest > 0 or book.freed[rows[level + 1].account]
  end
end

local function note(desk, ...) desk.outcomes[#desk.outcomes + 1] = {...} end

-- Adds to what the run has used in all. What thereby reaches 80 % of the run's limit is told, unless nobody reads it any more.
local function tally(desk, usage, path, attempt, gate)
  for meter, actual in pairs(usage) do
    local total = redis.call('HINCRBY', desk.book.key, 'total|' .. meter, int(actual))
    local limit = desk.book.rows['root|' .. meter] and desk.book.rows['root|' .. meter].granted
    local most = limit and limit - math.floor(limit / 5)
    if most and total >= most and total - actual < most and gate ~= 'closed' then
      note(desk, 'kind', 'limit_warning', 'path', path, 'attempt', attempt, 'meter', meter, 'used', int(total), 'limit', int(limit))
    end
  end
end

-- What was reserved ahead on an attempt's terms is free again.
local function unbook(book, terms)
  for meter, asked in pairs(amounts(terms[4])) do
    local rows = lineage(book, chain_of(terms[3]), meter)
    if #rows > 0 then
      release(book, rows, 'reserved', asked)
      give_back(book, rows)
    end
  end
end
