--[[ splits — the shares of branches that nobody has touched yet; prepended at load before the accounts, whose page says in which fields they stand. ]]
local SHARES = 64  -- of a weighted split that stand in one field, so that a branch finds its own among few

-- Notes a split, of which nothing is drawn yet: "<count> <base> <remainder>", or "w <share> ...".
local function split_book(book, path, meter, pool, form)
  local field, shares = 'split|' .. path .. '|' .. meter, string.match(form, '^w (.*)$')
  local fields = {[field] = int(pool) .. ' ' .. (shares and 'w' or form)}
  shares = words(shares)
  for first = 1, #shares, SHARES do
    fields[field .. '|' .. int((first - 1) / SHARES)] = table.concat(shares, ' ', first, math.min(first + SHARES - 1, #shares))
  end
  for name, value in pairs(fields) do
    book.splits[name] = value
    book.writes[#book.writes + 1] = {'HSET', book.key, name, value}
  end
end

-- A branch's share of a meter, and how often what is above it had been pooled; nil if it is no branch, or nothing was split there.
local function branch_share(book, account, meter)
  local split, index = string.match(account, '^(.+)%.(%d+)$')
  if not split then return nil end
  local field = 'split|' .. split .. '|' .. meter
  local stored = words(book.splits[field] or redis.call('HGET', book.key, field))
  if not stored[1] then return nil end
  index = tonumber(index)
  if stored[2] == 'w' then
    if stored[3] then return tonumber(stored[3 + index]), tonumber(stored[1]) end  -- as the release before wrote it: all in one field
    local page = field .. '|' .. int(math.floor(index / SHARES))
    local shares = words(book.splits[page] or redis.call('HGET', book.key, page))
    return tonumber(shares[1 + index % SHARES]), tonumber(stored[1])
  end
  return tonumber(stored[3]) + (index < tonumber(stored[4]) and 1 or 0), tonumber(stored[1])
end
