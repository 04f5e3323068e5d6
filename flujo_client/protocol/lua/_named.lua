--[[ named — accounts above the runs; prepended at load after the prelude to the scripts that charge them. Fields of the named hash:
"def|<account>" = "<wait or refuse> <total, calendar or sliding> <window_ms> <grain_ms> <span> <meter>=<limit> ..."; "row|<account>" = "<start> <end>
<meter> <reserved> <spent> <unknown> ..."; "calendar|<account>" = starts of its windows; "passed|<account>" = "<stamp of the first who waits> <how often running steps passed it>"; "closed|<account>" = until when nobody may;
"bucket|<account> <ms>" = what a sliding window took until then; "place|<member>" of a dispatch = "w;<account>;<stamp>;<names>;<estimate>;<calls in vain>"
while it waits (<account> ... once it waits in all of them), "p;;<stamp>;<bookings>" once it was called and is not leased, "q;;<stamp>" if no worker had it then, "d;<account>;<stamp>" if an account of which no shard has anything is to refuse it. Members of the queue zset, of score 0: "w<account> <stamp>
<member>" who waits, by age; "b<account> <ms>" the buckets. Bookings are words, "<account> <meter> <amount> <tag> ..."; the tag says in which
window, or bucket, they lie. The meter `slots` counts attempts that are leased; `requests` counts every attempt as one at least. ]]
local function named_open(key, queue, due, names)
  return {key = key, queue = queue, due = due, names = words(names), accounts = {}, later = {}, now = now_ms()}
end

local function padded_ms(ms) return string.rep('0', 16 - #int(ms)) .. int(ms) end

local function part_of(account, meter)
  account.meters[meter] = account.meters[meter] or {0, 0, 0}
  return account.meters[meter]
end

-- The window that has begun meanwhile starts empty: what was reserved before it belongs to the one before.
local function turn(named, account)
  local start, ending = account.start, 0
  for _, word in ipairs(words(redis.call('HGET', named.key, 'calendar|' .. account.id))) do
    if tonumber(word) <= named.now then start = tonumber(word) elseif ending == 0 then ending = tonumber(word) end
  end
  if start ~= account.start then
    for meter, parts in pairs(account.meters) do
      if meter ~= 'slots' then parts[1], parts[2], parts[3] = 0, 0, 0 end
    end
  end
  account.start, account.ending = start, ending
end

local function buckets(named, account)
  local at = 'b' .. account.id .. ' '
  return redis.call('ZRANGEBYLEX', named.queue, '[' .. at, '(' .. at .. ':', 'LIMIT', 0, 1000)
end

-- What lies so far back that the window has left it counts no more. `start` is the oldest bucket, 0 for none.
local function slide(named, account)
  if account.start == 0 or account.start + account.length > named.now then return end
  account.start = 0
  for _, member in ipairs(buckets(named, account)) do
    local at = tonumber(string.match(member, '(%d+)$'))
    if at + account.length > named.now then
      account.start = at
      return
    end
    for meter, amount in pairs(amounts(redis.call('HGET', named.key, 'bucket|' .. string.sub(member, 2)))) do
      part_of(account, meter)[2] = part_of(account, meter)[2] - amount
    end
    named.later[#named.later + 1] = {'ZREM', named.queue, member}
    named.later[#named.later + 1] = {'HDEL', named.key, 'bucket|' .. string.sub(member, 2)}
  end
end

-- An account as it is now; nil if nobody has defined it: it limits nothing.
local function named_account(named, id)
  if named.accounts[id] ~= nil then return named.accounts[id] or nil end
  local stored = redis.call('HMGET', named.key, 'def|' .. id, 'row|' .. id, 'closed|' .. id, 'slab|' .. id, 'recall|' .. id)
  local def, row = words(stored[1] or ''), words(stored[2] or '')
  local account = {id = id, waits = def[1] == 'wait', kind = def[2], length = tonumber(def[3]), grain = tonumber(def[4]), meters = {}}
  account.limits = amounts(table.concat(def, ' ', 6))
  account.start, account.ending, account.closed = tonumber(row[1] or 0), tonumber(row[2] or 0), tonumber(stored[3] or 0)
  for i = 3, #row, 4 do account.meters[row[i]] = {tonumber(row[i + 1]), tonumber(row[i + 2]), tonumber(row[i + 3])} end
  named.accounts[id] = stored[1] and account
  if not stored[1] then return nil end
  if account.kind == 'calendar' and named.now >= account.ending then turn(named, account) end
  if account.kind == 'sliding' then slide(named, account) end
  if account.kind == 'total' and account.start == 0 then account.start = named.now end  -- one for ever, from its definition on
  account.slab, account.recall = slab_in(slab_read(stored[4] or nil), account), recall_of(stored[5], named.now)
  return account
end

-- Adds to what a sliding window took at a time, or at this moment.
local function pour(named, account, meter, amount, tag)
  local at = tag or math.ceil(named.now / account.grain) * account.grain
  local bucket = account.id .. ' ' .. padded_ms(at)
  local held = amounts(redis.call('HGET', named.key, 'bucket|' .. bucket))
  amount = math.max(amount, -(held[meter] or 0))  -- a redefined account has other buckets
  held[meter] = (held[meter] or 0) + amount
  redis.call('HSET', named.key, 'bucket|' .. bucket, said_amounts(held))
  redis.call('ZADD', named.queue, 0, 'b' .. bucket)
  part_of(account, meter)[2] = part_of(account, meter)[2] + amount
  if account.start == 0 or at < account.start then account.start = at end
  return at
end

local function named_write(named)
  for id, account in pairs(named.accounts) do
    if account then
      local row = {int(account.start), int(account.ending)}
      for meter, parts in pairs(account.meters) do row[#row + 1] = table.concat({meter, int(parts[1]), int(parts[2]), int(parts[3])}, ' ') end
      redis.call('HSET', named.key, 'row|' .. id, table.concat(row, ' '))
    end
  end
  for _, write in ipairs(named.later) do redis.call(unpack(write)) end
end
