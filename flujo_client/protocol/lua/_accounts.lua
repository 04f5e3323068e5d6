--[[ accounts — the arithmetic of a run's budget; prepended at load to the scripts that move it, and hashed with them.
Fields of the accounts hash: "<account>|<meter>" = the PARTS of one row; "split|<path>|<meter>" = "<pool> <count> <base>
<remainder>", or "<pool> w" and the shares in "split|<path>|<meter>|<page>", from which a branch's row is made on its first touch; "meters" = the run's limited meters; "total|<meter>" =
what it spent, limited or not; "life|<account>" = "<running> <live> <state>" (see the waiters); "rest|<path>" = chain of one that rests.
Always: granted = free + reserved + spent + unknown + children, all of them >= 0. `held` = what the child accounts reserved, spent or
hold as unknown, so that their free money, children - held, can be pooled without touching them: `pool` counts how often that was
done, `seen` is what a child knows of it. A chain is words, innermost first: "id", "id=" (draws on nobody), "id~meter=amount,..." (a
cap: takes from above what it needs, keeps nothing free). ]]
local PARTS = {'granted', 'reserved', 'spent', 'unknown', 'children', 'overrun', 'held', 'pool', 'seen', 'closed'}

local function chain_of(text)
  local chain = {text = text or ''}
  for word in string.gmatch(chain.text, '%S+') do
    local id, mark, caps = string.match(word, '^([^=~]+)([=~]?)(.*)$')
    chain[#chain + 1] = {id = id, strict = mark == '=', cap = mark == '~' and amounts((string.gsub(caps, ',', ' '))) or nil}
  end
  return chain
end

-- Rows and lives are held in memory; nothing is written before book_write.
local function book_open(key)
  return {key = key, rows = {}, splits = {}, lives = {}, resting = {}, idle = {}, freed = {}, writes = {}}
end

local function free(entry)
  return entry.granted - entry.reserved - entry.spent - entry.unknown - entry.children
end

local function use(entry) return entry.reserved + entry.spent + entry.unknown + entry.held end

local function row(book, place, meter, above)
  local id = place.id .. '|' .. meter
  local entry = book.rows[id]
  if entry then return entry end
  local stored, cap = redis.call('HGET', book.key, id), place.cap and place.cap[meter]
  entry = {id = id, account = place.id, cap = cap, strict = place.strict}
  if stored then
    local part = 0
    for number in string.gmatch(stored, '%d+') do part = part + 1; entry[PARTS[part]] = tonumber(number) end
  else
    local granted, seen = branch_share(book, place.id, meter)
    if not granted and not cap then return nil end
    for _, part in ipairs(PARTS) do entry[part] = 0 end
    entry.granted, entry.seen = granted or (above and 0 or cap), seen or (above and above.pool or 0)
    entry.closed, entry.touched = cap and 1 or 0, true
  end
  book.rows[id] = entry
  return entry
end

-- The limited accounts of a chain, innermost first; `top` is the last on which the innermost may draw.
local function lineage(book, chain, meter)
  local rows, above = {}, nil
  for i = #chain, 1, -1 do
    local entry = row(book, chain[i], meter, above)
    if entry then
      if above and entry.seen < above.pool then  -- its free money, and that of its children, is in the pool above
        if entry.children > entry.held then entry.children, entry.pool = entry.held, entry.pool + 1 end
        entry.granted, entry.seen, entry.touched = use(entry), above.pool, true
      end
      table.insert(rows, 1, entry)
      above = entry
    end
  end
  rows.top = #rows
  for level = #rows, 1, -1 do
    if rows[level].strict then rows.top = level end
  end
  return rows
end

local function book_write(book)
  for id, entry in pairs(book.rows) do
    if entry.touched then
      local parts = {}
      for i, part in ipairs(PARTS) do parts[i] = int(entry[part]) end
      redis.call('HSET', book.key, id, table.concat(parts, ' '))
    end
  end
  for id, entry in pairs(book.lives) do
    if entry.touched then
      redis.call('HSET', book.key, 'life|' .. id, int(entry.running) .. ' ' .. int(entry.live) .. ' ' .. entry.state)
    end
  end
  for _, write in ipairs(book.writes) do redis.call(unpack(write)) end
end
